"""Verdicts: how an observed difference compares with a margin fixed beforehand and with the paper's result.

A claim has the form `method > baseline`. The finding is one of five: higher; lower; too small to matter (the interval lies
within ± the margin); cannot tell (reported with the number of prompts that would decide it); nothing changed (both methods are
equal on nearly every prompt). The verdict compares the finding with the sign that the paper reports for the corresponding
source of demonstrations. It is one of: agrees, contradicts, too small to matter, cannot tell, nothing changed, or not
comparable, with the reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import norm

from .estimates import TOTAL, totals_of
from .findings import AGREES, CONTRADICTS, HIGHER, LOWER, NOT, OPEN, SAME, SMALL
from .intervals import LEVEL, Estimate, holm
from .published import NotReportedError, published_gain, role_of

POWER = 0.8  # of the sample size recommended for an open comparison
INERT = 0.95  # share of identical answers from which on a manipulation is considered to have had no effect


@dataclass(frozen=True)
class Reported:
    """What a paper reports on one claim: differences by base model, or a statement in words with its sign."""

    gains: Mapping[str, float] = field(default_factory=dict)  # base model -> published difference
    words: str = ""
    sign: int = 0  # 1 or -1; with 0 it is the common sign of `gains`, if there is one
    at_least: bool = False  # the paper claims "equal or higher"
    reason: str = ""  # why no comparison is possible

    @property
    def expected(self) -> int:
        """The expected sign, 1 or -1; 0 if the paper gives none."""
        signs = {int(np.sign(v)) for v in self.gains.values()}
        return self.sign or (signs.pop() if len(signs) == 1 else 0)

    @property
    def text(self) -> str:
        """The text for a table: "LLaMA +23.1, LLaMA2 +6.0, Mistral +2.4", the words, or the reason."""
        return self.words or by_model(self.gains) or self.reason or "not reported"


Source = Callable[[str, str, str, str], Reported]  # (method, baseline, source, domain) -> the paper's result


def by_model(gains: Mapping[str, float], digits: int = 1) -> str:
    """Published differences by base model, as text. An unnamed model yields the number alone."""
    return ", ".join(f"{name} {value:+.{digits}f}".strip() for name, value in gains.items())


def icdpo_paper(data: str = "HH-RLHF", roles: Sequence[str] = ()) -> Source:
    """Published differences of the ICDPO paper for the corresponding source of demonstrations (`published.role_of`)."""

    def reported(method: str, baseline: str, source: str, domain: str) -> Reported:
        role = role_of(source, roles)
        if role is None:
            return Reported(reason=f"no source of the paper corresponds to {source}")
        try:
            return Reported(published_gain(method, baseline, source=role, data=data, domain=domain))
        except NotReportedError:
            return Reported()

    return reported


def in_words(said: Mapping[tuple[str, str], Reported], sources: Sequence[str] = (), roles: Sequence[str] = ()) -> Source:
    """Fixed results for each (method, baseline), in every domain.

    `sources`: the paper's sources to which the results apply; all if empty.
    """

    def reported(method: str, baseline: str, source: str, domain: str) -> Reported:
        if sources and role_of(source, roles) not in sources:
            return Reported(reason=f"not reported for {source}")
        return said.get((method, baseline), Reported())

    return reported


# ---------------------------------------------------------------- one claim


def finding(ours: Estimate, margin: float, same: float = 0.0) -> str:
    """The finding for one difference.

    `margin`: the smallest difference that matters, in the unit of `ours`. `same`: share of prompts without a difference.
    """
    if same == 1 or (same >= INERT and not ours.sign):
        return SAME
    if math.isnan(ours.low):
        return OPEN
    if -margin < ours.low and ours.high < margin:
        return SMALL
    return HIGHER if ours.low > 0 else LOWER if ours.high < 0 else OPEN


def verdict(ours: Estimate, margin: float, theirs: Reported, same: float = 0.0) -> str:
    """One of `VERDICTS`: the finding, compared with what the paper reports."""
    observed = finding(ours, margin, same)
    if not theirs.expected:
        return NOT
    if theirs.at_least and observed not in (SAME, LOWER):
        return AGREES if ours.low > -margin else OPEN
    if observed in (SMALL, OPEN, SAME):
        return observed
    return AGREES if (observed == HIGHER) == (theirs.expected > 0) else CONTRADICTS


def n_to_decide(ours: Estimate, margin: float) -> float:
    """Approximate number of prompts that would decide an open comparison with 80 % power, taking the estimate as the truth.

    A comparison is decided if the difference is shown to differ from 0 or to be too small to matter, whichever needs fewer
    prompts. NaN without an interval.
    """
    half_width = (ours.high - ours.low) / 2
    if math.isnan(half_width):
        return math.nan
    distance = max(abs(ours.mean), margin - abs(ours.mean))
    z = norm.ppf((1 + LEVEL) / 2)
    return math.ceil(ours.n * (half_width / distance * (z + norm.ppf(POWER)) / z) ** 2)


# ---------------------------------------------------------------- many claims


def claims(gains: pd.DataFrame, margin: float, reported: Source, digits: int = 2) -> pd.DataFrame:
    """A claim `method > baseline` for each row of a `method_gains` table.

    `margin`: the smallest difference that matters, in the unit of the gains. Returns columns claim, lm, source, domain, mean,
    low, high, n, p, holm (p after Holm's correction over the totals of the table, NaN elsewhere), finding, verdict, decide (the
    number of prompts that would decide an open comparison), here, paper. Additional columns of `gains` are retained.
    """
    rows = []
    one_domain = TOTAL not in set(gains["domain"])
    for row in gains.to_dict("records"):
        ours = Estimate(row["mean"], row["low"], row["high"], row["n"], row["p"])
        theirs = reported(row["method"], row["baseline"], row["source"], TOTAL if one_domain else row["domain"])
        observed = finding(ours, margin, row.get("same", 0.0))
        result = verdict(ours, margin, theirs, row.get("same", 0.0))
        undecided = observed == OPEN and result in (OPEN, NOT)  # an open difference may still agree with "equal or higher"
        rows.append({
            "claim": f"{row['method']} > {row['baseline']}", **row, "finding": observed, "verdict": result,
            "decide": row.get("decide", n_to_decide(ours, margin)) if undecided else math.nan,
            "here": ours.text(digits), "paper": theirs.text,
        })  # fmt: skip
    table = pd.DataFrame(rows).drop(columns=["method", "baseline"])
    family = totals_of(table).index
    table.loc[family, "holm"] = holm(table.loc[family, "p"])
    return table


# ---------------------------------------------------------------- sentences


def family_sentence(claims: pd.DataFrame) -> str:
    """How many differences are significant, before and after Holm's correction, and how many are expected by chance."""
    family = totals_of(claims)
    n_tests = int(family["p"].notna().sum())
    if n_tests < 2:
        return ""
    significant, remaining = (int((family[column] < 1 - LEVEL).sum()) for column in ("p", "holm"))
    return (
        f"{n_tests} comparisons are tested at the 5 % level. If no method differed from any other, about "
        f"{n_tests * (1 - LEVEL):.2g} would be significant by chance; {significant} are, and {remaining} after Holm's "
        "correction. The comparisons share prompts and responses, so they are not independent."
    )
