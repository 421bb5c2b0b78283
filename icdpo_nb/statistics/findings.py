"""The words of findings and verdicts, and their signs. Light to import: the front page of reports needs nothing else."""

import math
from collections.abc import Sequence

HIGHER, LOWER, SMALL, OPEN, SAME = "higher", "lower", "too small to matter", "cannot tell", "nothing changed"
AGREES, CONTRADICTS, NOT = "agrees", "contradicts", "not comparable"
VERDICTS = (AGREES, CONTRADICTS, SMALL, OPEN, SAME, NOT)  # the order in sentences and legends
SIGNS = {AGREES: "✓", CONTRADICTS: "✗", SMALL: "≈", OPEN: "?", SAME: "=", NOT: "–", HIGHER: "▲", LOWER: "▼"}


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; "" for none."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def needed_text(decide: float, unit: str = "prompts") -> str:
    """ "about 1,300 prompts would decide it", rounded up to two digits; "" for NaN."""
    return "" if math.isnan(decide) else f"about {rounded_up(decide):,} {unit} would decide it"


def rounded_up(n: float) -> int:
    """Round up to two significant digits."""
    unit = 10 ** max(0, int(math.log10(n)) - 1)
    return int(math.ceil(n / unit) * unit)
