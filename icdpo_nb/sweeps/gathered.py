"""What the runs of a sweep find together: tables over the grid, from the headline numbers of each run.

A run's interval covers the variation over its prompts. Where the same setting was run with several seeds, the estimate is the
mean over the seeds. Its interval has two parts, added in quadrature (`statistics.seeds.over_seeds`): the mean of the seeds' own
intervals, which is at least as wide as the interval of each prompt's mean over the seeds, and the variation between the seeds.
With two seeds, that cannot be estimated, and there is no interval.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..reports.evidence import Record
from ..reports.html import read_record
from ..statistics.estimates import TOTAL
from ..statistics.findings import VERDICTS
from ..statistics.intervals import Estimate, holm
from ..statistics.seeds import LEAST_SEEDS, over_seeds
from ..statistics.verdicts import finding
from .plan import Outcome, Sweep

NUMBERS = ("mean", "low", "high", "n")


def done_records(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[tuple[Mapping[str, object], Record]]:
    """The setting and the record of every run that is done; settings as texts."""
    found = []
    for job, setting, outcome in zip(sweep.jobs, sweep.settings, outcomes, strict=True):
        if not outcome.code:
            found.append(
                ({k: as_text(v) for k, v in setting.items()}, Record(job.run_id, read_record(job.folder / "run.json")))
            )
    return found


def as_text(value: object) -> object:
    """A parameter's value for a table: a list as its texts; a number stays one."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) if isinstance(value, bool) else value


def means_of(records: Sequence[tuple[Mapping[str, object], Record]]) -> pd.DataFrame:
    """The headline means of all runs: the settings, notebook, part, lm, source, method, seed, mean, low, high, n."""
    return _rows(records, "means", ("method",))


def claims_of(records: Sequence[tuple[Mapping[str, object], Record]]) -> pd.DataFrame:
    """The claims of all runs, with finding and verdict, and the margin of their notebook."""
    return _rows(records, "claims", ("claim", "finding", "verdict"), ("same", "p"))


def _rows(records, part: str, texts: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of one part of every headline that have all of `texts` and a mean."""
    found = []
    for setting, record in records:
        parts = record.headline.get(part)
        margin = _number(record.headline.get("margin"))
        for name, rows in (parts if isinstance(parts, dict) else {"": parts}).items():
            for row in rows if isinstance(rows, list) else []:
                ids = {"notebook": record.text("notebook"), "part": name, "lm": row.get("lm") or row.get("model") or ""}
                ids = {"source": row.get("source") or "", **ids, **setting, "seed": record.parameters.get("seed")}
                words = {name: row.get(name) for name in texts}
                values = {name: _number(row.get(name)) for name in (*NUMBERS, *numbers)}
                if all(isinstance(text, str) for text in words.values()) and values["mean"] is not None:
                    found.append({**ids, **words, **values, "margin": margin})
    return pd.DataFrame(found)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def together(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """One row for each setting and `what` (method or claim): mean, low, high, n, seeds, p, over all seeds of the setting.

    Claims have a finding again, and p after Holm's correction over all of them.
    """
    if rows.empty:
        return rows
    keys = [c for c in rows if c not in ("seed", *NUMBERS, "same", "p", "margin", "finding", "verdict")]
    found = []
    for key, part in rows.groupby(keys, sort=False, dropna=False):
        n_seeds = part["seed"].nunique()
        one = {c: part[c].astype(float).mean() for c in ("mean", "low", "high", "p", "same", "margin") if c in part}
        one |= {"n": int(part["n"].min()) if part["n"].notna().all() else 0}
        if n_seeds >= LEAST_SEEDS:
            means = [np.array([values.mean()]) for _, values in part.groupby("seed")["mean"]]
            wider = over_seeds(pd.DataFrame([one]), means)
            one |= {c: float(wider[c].iloc[0]) for c in ("low", "high", "p")}
        elif n_seeds > 1:
            one |= {"low": math.nan, "high": math.nan, "p": math.nan}
        found.append({**dict(zip(keys, key, strict=True)), **one, "seeds": n_seeds})
    table = pd.DataFrame(found)
    if what == "claim":
        estimates = [Estimate(r.mean, r.low, r.high, r.n) for r in table[["mean", "low", "high", "n"]].itertuples(index=False)]
        table["finding"] = [
            finding(e, m, s if s == s else 0.0) for e, m, s in zip(estimates, table["margin"], table["same"], strict=True)
        ]
        table["holm"] = holm(table["p"])
        table["domain"] = TOTAL  # headlines hold totals
    return table


def verdict_counts(claims: pd.DataFrame) -> pd.DataFrame:
    """How often each claim has each verdict, over models, sources, settings and seeds."""
    by = [c for c in ("notebook", "part") if claims[c].nunique() > 1]
    counts = claims.groupby([*by, "claim"], sort=False)["verdict"].value_counts().unstack(fill_value=0)
    return counts[[v for v in VERDICTS if v in counts]].reset_index()
