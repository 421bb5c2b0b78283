"""Verdicts: a difference here, held against a margin stated beforehand and against what the paper prints for the same role.

A claim says `method > baseline`. What is found here is one of five: higher, lower, too small to matter (the interval lies
within ± the margin), cannot tell (then: how many prompts would decide it), nothing changed (both are equal on every prompt).
The verdict holds that against the sign that the paper prints for the same source of demonstrations: agrees, contradicts, too
small to matter, cannot tell, nothing changed, or not comparable, with the reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import norm

from .estimates import TOTAL, totals_of
from .intervals import LEVEL, Estimate, holm
from .published import NotReportedError, published_gain, role_of

HIGHER, LOWER, SMALL, OPEN, SAME = "higher", "lower", "too small to matter", "cannot tell", "nothing changed"
AGREES, CONTRADICTS, NOT = "agrees", "contradicts", "not comparable"
VERDICTS = (AGREES, CONTRADICTS, SMALL, OPEN, SAME, NOT)  # in the order of sentences and legends
SIGNS = {AGREES: "✓", CONTRADICTS: "✗", SMALL: "≈", OPEN: "?", SAME: "=", NOT: "–", HIGHER: "▲", LOWER: "▼"}
POWER = 0.8  # with which the prompts that are asked for would decide a difference like the one seen
INERT = 0.95  # share of identical answers from which a manipulation counts as one that changed nothing


@dataclass(frozen=True)
class Reported:
    """What a paper says of one claim: its differences by base model, or its words and the sign that they mean."""

    gains: Mapping[str, float] = field(default_factory=dict)  # base model -> difference as printed
    words: str = ""
    sign: int = 0  # 1, -1, or 0: that of `gains`, if all of them have the same
    at_least: bool = False  # the paper claims "equal or higher"
    reason: str = ""  # why nothing can be compared

    @property
    def expected(self) -> int:
        """1 or -1; 0 where there is nothing to compare with."""
        signs = {int(np.sign(v)) for v in self.gains.values()}
        return self.sign or (signs.pop() if len(signs) == 1 else 0)

    @property
    def text(self) -> str:
        """As a reader sees it: "LLaMA +23.1, LLaMA2 +6.0, Mistral +2.4", the words, or the reason."""
        return self.words or by_model(self.gains) or self.reason or "not reported"


Source = Callable[[str, str, str, str], Reported]  # (method, baseline, source, domain) -> what the paper says


def by_model(gains: Mapping[str, float], digits: int = 1) -> str:
    """Published differences by base model, as text; a single one without a name stands alone."""
    return ", ".join(f"{name} {value:+.{digits}f}".strip() for name, value in gains.items())


def icdpo_paper(data: str = "HH-RLHF", roles: Sequence[str] = ()) -> Source:
    """The differences of ICDPO's tables for the source of the same role: raw, teacher-a, teacher-b (`published.role_of`)."""

    def reported(method: str, baseline: str, source: str, domain: str) -> Reported:
        role = role_of(source, roles)
        if role is None:
            return Reported(reason=f"the paper has no source like {source}")
        try:
            return Reported(published_gain(method, baseline, source=role, data=data, domain=domain))
        except NotReportedError:
            return Reported()

    return reported


def in_words(said: Mapping[tuple[str, str], Reported], sources: Sequence[str] = (), roles: Sequence[str] = ()) -> Source:
    """What the paper says of each (method, baseline), in every domain; only of its own `sources`, if some are named."""

    def reported(method: str, baseline: str, source: str, domain: str) -> Reported:
        if sources and role_of(source, roles) not in sources:
            return Reported(reason=f"not reported for {source}")
        return said.get((method, baseline), Reported())

    return reported


# ---------------------------------------------------------------- one claim


def finding(ours: Estimate, margin: float, same: float = 0.0) -> str:
    """What one difference shows here. `margin`: the smallest that matters, in its own unit; `same`: share of equal pairs."""
    if same == 1 or same >= INERT and not ours.sign:
        return SAME
    if math.isnan(ours.low):
        return OPEN
    if -margin < ours.low and ours.high < margin:
        return SMALL
    return HIGHER if ours.low > 0 else LOWER if ours.high < 0 else OPEN


def verdict(ours: Estimate, margin: float, theirs: Reported, same: float = 0.0) -> str:
    """One of `VERDICTS`: what is found here, held against what the paper reports for the same role."""
    found = finding(ours, margin, same)
    if not theirs.expected:
        return NOT
    if theirs.at_least and found not in (SAME, LOWER):
        return AGREES if ours.low > -margin else OPEN
    if found in (SMALL, OPEN, SAME):
        return found
    return AGREES if (found == HIGHER) == (theirs.expected > 0) else CONTRADICTS


def n_to_decide(ours: Estimate, margin: float) -> float:
    """About how many prompts would decide what this many cannot tell, with a power of 80 % if the difference is as seen.

    Either the difference itself is shown, or that it is too small to matter, whichever takes fewer. NaN without an interval.
    """
    reach = (ours.high - ours.low) / 2
    apart = max(abs(ours.mean), margin - abs(ours.mean))
    z = norm.ppf((1 + LEVEL) / 2)
    return math.nan if math.isnan(reach) else math.ceil(ours.n * (reach / apart * (z + norm.ppf(POWER)) / z) ** 2)


# ---------------------------------------------------------------- many claims


def claims(gains: pd.DataFrame, margin: float, reported: Source, digits: int = 2) -> pd.DataFrame:
    """The claims `method > baseline` of a table of `method_gains`, a row each.

    `margin`: the smallest difference that matters, in the unit of the gains. Returns columns claim, lm, source, domain, mean,
    low, high, n, p, holm (p after Holm's correction over all totals of the table, else NaN), finding, verdict, decide (prompts,
    where the finding is that one cannot tell), here, paper. Columns of `gains` that are not of `method_gains` are passed on.
    """
    rows, alone = [], TOTAL not in set(gains["domain"])
    for row in gains.to_dict("records"):
        ours = Estimate(row["mean"], row["low"], row["high"], row["n"], row["p"])
        theirs = reported(row["method"], row["baseline"], row["source"], TOTAL if alone else row["domain"])
        found = finding(ours, margin, row.get("same", 0.0))
        said = verdict(ours, margin, theirs, row.get("same", 0.0))
        undecided = found == OPEN and said in (OPEN, NOT)  # "equal or higher" may agree all the same
        rows.append({
            "claim": f"{row['method']} > {row['baseline']}", **row, "finding": found, "verdict": said,
            "decide": row.get("decide", n_to_decide(ours, margin)) if undecided else math.nan,
            "here": ours.text(digits), "paper": theirs.text,
        })  # fmt: skip
    table = pd.DataFrame(rows).drop(columns=["method", "baseline"])
    family = totals_of(table).index
    table.loc[family, "holm"] = holm(table.loc[family, "p"])
    return table


def needed_text(decide: float, unit: str = "prompts") -> str:
    """ "about 1,300 prompts would decide it", two digits; "" where nothing is asked for."""
    return "" if math.isnan(decide) else f"about {rounded_up(decide):,} {unit} would decide it"


def rounded_up(n: float) -> int:
    """Two leading digits, upwards."""
    unit = 10 ** max(0, int(math.log10(n)) - 1)
    return int(math.ceil(n / unit) * unit)


# ---------------------------------------------------------------- sentences


def claims_sentence(claims: pd.DataFrame, n: int) -> str:
    """The verdicts of a table of one domain as sentences: for each claim, or for many claims of one experiment by verdict."""
    if len(claims) == claims["claim"].nunique() > 3:
        names = {v: ", ".join(claims.loc[claims["verdict"] == v, "claim"]) for v in VERDICTS}
        return f"On {n} prompts, {'; '.join(f'{v}: {found}' for v, found in names.items() if found)}."
    said = []
    for claim, part in claims.groupby("claim", sort=False):
        counts = part["verdict"].value_counts()
        parts = [f"{v}{f' in {counts[v]}' if len(part) > 1 else ''}{_more(part, v)}" for v in VERDICTS if v in counts]
        said.append(f"{claim}: {', '.join(parts)}")
    of = len(claims) // claims["claim"].nunique()
    shared = f" In {of} experiments, which share their prompts:" if of > 1 else ""
    return f"On {n} prompts.{shared} {'; '.join(said)}." if of > 1 else f"On {n} prompts: {'; '.join(said)}."


def _more(part: pd.DataFrame, verdict: str) -> str:
    """What would decide a comparison that stays open, and what was found where nothing can be compared, in brackets."""
    here = part[part["verdict"] == verdict]
    if verdict == OPEN and here["decide"].notna().any():
        return f" ({needed_text(here['decide'].max(), 'training seeds' if 'seeds' in here else 'prompts')})"
    if verdict == NOT:
        found = here["finding"].value_counts()
        each = [f if len(here) == 1 else f"{f} in {found[f]}" for f in (HIGHER, LOWER, SMALL, OPEN, SAME) if f in found]
        return f" (here {', '.join(each)})"
    return ""


def family_sentence(claims: pd.DataFrame) -> str:
    """How many differences are shown, how many chance alone would show, and how many remain after Holm's correction."""
    family = totals_of(claims)
    known = family["p"].notna()
    shown, kept = int((family["p"] < 1 - LEVEL).sum()), int((family["holm"] < 1 - LEVEL).sum())
    if known.sum() < 2:
        return ""
    return (
        f"{int(known.sum())} comparisons are made at the 5 % level: if there were no difference anywhere, about "
        f"{known.sum() * (1 - LEVEL):.2g} of them would seem to show one. Here {shown} do, and {kept} of these remain after "
        "Holm's correction. Comparisons share prompts and responses, so they are not independent of each other."
    )
