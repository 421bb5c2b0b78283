"""What a combined report shows: its answer in sentences, and tables over the grid."""

import math
from collections.abc import Sequence

import pandas as pd

from ..statistics.answers import OTHERS
from ..statistics.estimates import as_text as intervals
from ..statistics.findings import SIGNS, listed
from ..statistics.verdicts import family_sentence
from .gathered import as_text
from .plan import Outcome, Sweep

NO_BEST = (
    "Whichever row is the best here was found on the prompts that it is measured on, and looks better than it is: to choose a "
    "setting, choose it here and measure it on other prompts."
)


def answer_of(sweep: Sweep, outcomes: Sequence[Outcome], claims: pd.DataFrame) -> list[str]:
    """The answer to the sweep's question in sentences: what comes out the same everywhere, and what depends on the setting."""
    failed = sum(outcome.code != 0 for outcome in outcomes)
    said = [f"{failed} of {len(outcomes)} runs failed and left no results."] if failed else []
    if claims.empty:
        n = len(outcomes) - failed
        done = "1 run is done, and its notebook compares" if n == 1 else f"{n} runs are done, and their notebooks compare"
        return [f"{done} nothing that could be put together.", *said]
    by = [c for c in ("notebook", "part") if claims[c].nunique() > 1] + ["claim"]
    groups = [(", ".join(key), part["finding"].value_counts()) for key, part in claims.groupby(by, sort=False)]
    same = [f"{name} ({counts.index[0]})" for name, counts in groups if len(counts) == 1]
    other = [f"{name} ({_counted(counts)})" for name, counts in groups if len(counts) > 1]
    if len(groups) == 1:
        how = "comes out the same in every setting" if same else "depends on the setting"
        return [f"The one comparison {how}: {(same + other)[0]}.", *said]
    said = [f"{len(other)} {'depends' if len(other) == 1 else 'depend'} on the setting: {listed(other)}."] * bool(other) + said
    come = "1 comes" if len(same) == 1 else f"{len(same) or 'none'} come"
    named = f": {listed(same)}" if same else ""
    return [f"Of {len(groups)} comparisons, {come} out the same in every setting{named}.", *said]


def _counted(counts: pd.Series) -> str:
    return ", ".join(OTHERS[finding].format(n) for finding, n in counts.items())


def facts_of(sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """What the answer rests on: the runs, the notebooks, the values of each varied parameter, the seeds."""
    values = {c: list(dict.fromkeys(str(as_text(s[c])) for s in sweep.settings if c in s)) for c in sweep.varied}
    facts = {"runs": f"{len(outcomes)}, {sum(o.was for o in outcomes)} of them done before"}
    facts |= {"notebooks": listed(sweep.notebooks)} | {column: listed(texts) for column, texts in values.items()}
    return facts | ({"seeds": ", ".join(map(str, sweep.seeds))} if sweep.seeds else {})


def runs_table(sweep: Sweep, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row for each run: its setting, exit code, tries, and the reason why it failed."""
    rows = []
    for setting, outcome in zip(sweep.settings, outcomes, strict=True):
        ended = {"exit code": outcome.code, "tries": outcome.tries, "reason": outcome.reason}
        rows.append({"run": outcome.job.run_id, **{k: as_text(v) for k, v in setting.items()}, **ended})
    return pd.DataFrame(rows)


def wide_means(means: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """A row for each setting, a column for each method: mean [95 % interval]."""
    return _wide(means.assign(text=intervals(means)), "method", sweep)


def prompts_text(means: pd.DataFrame) -> str:
    """How many prompts the estimates are of, in words."""
    counts = sorted(means["n"].unique())
    return f"{counts[0]} prompts" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} prompts"


def _columns(table: pd.DataFrame, sweep: Sweep) -> list[str]:
    """What names a row: varied parameters, then models and sources, without those that say nothing or the same again."""
    kept: list[str] = []
    for column in [*[c for c in sweep.varied if c in table], "part", "lm", "source"]:
        if table[column].nunique(dropna=False) > 1 and not any((table[column] == table[k]).all() for k in kept):
            kept.append(column)
    return kept


def setting_labels(table: pd.DataFrame, sweep: Sweep) -> list[str]:
    """A text for the setting of each row."""
    columns = _columns(table, sweep)
    return [
        ", ".join(f"{c} {v}" if isinstance(v, int | float) else str(v) for c, v in zip(columns, row, strict=True)) or "all"
        for row in table[columns].itertuples(index=False)
    ]


def _wide(table: pd.DataFrame, across: str, sweep: Sweep) -> pd.DataFrame:
    """A row for each setting, a column for each value of `across`, in the order of the grid."""
    columns = _columns(table, sweep)
    wide: dict[tuple, dict] = {}
    for row in table.to_dict("records"):
        key = tuple(row[c] for c in columns)
        wide.setdefault(key, dict(zip(columns, key, strict=True)))[row[across]] = row["text"]
    return pd.DataFrame([*wide.values()]).fillna("–")


def wide_claims(claims: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """A row for each setting, a column for each claim: difference [95 % interval] and the sign of its finding."""
    text = [f"{t} {SIGNS[f]}" for t, f in zip(intervals(claims), claims["finding"], strict=True)]
    return _wide(claims.assign(text=text), "claim", sweep)


def claims_caption(claims: pd.DataFrame) -> str:
    """The caption of `wide_claims`: what the signs mean, the margin, and how many differences chance alone would give."""
    legend = ", ".join(f"{SIGNS[f]} {f}" for f in dict.fromkeys(claims["finding"]))
    margins = sorted({m for m in claims["margin"] if not math.isnan(m)})
    stated = f" The smallest difference that matters: {listed([f'{m:g}' for m in margins])}." if margins else ""
    return f"Differences, method minus baseline, with 95 % intervals: {legend}.{stated} {family_sentence(claims)}"


def seeds_note(sweep: Sweep) -> str:
    """What the intervals say about seeds."""
    if len(sweep.seeds) > 2:
        return (
            "Intervals over seeds contain the variation over prompts and between seeds. The part over prompts is the mean of "
            "the seeds' own intervals, which is somewhat wider than that of the prompts' means over the seeds."
        )
    return "With two seeds their variation cannot be estimated, so there are no intervals." if sweep.seeds else ""
