"""Tables: tidy per-prompt values in, tidy estimates out; and estimates as text for a reader."""

from collections.abc import Mapping, Sequence

import pandas as pd

from .metrics import Estimate, mean_cis
from .notebook import show_table

TOTAL = "total"


Bounds = tuple[float, float] | None  # least and largest possible value, as of a share


def _estimates(values: pd.DataFrame, column: str, totals: str, seed: int, bounds: Bounds = None) -> dict[str, Estimate]:
    """`mean_ci` of a column for each domain and, if there are several, for all of them."""
    groups = {domain: part[column].to_numpy() for domain, part in values.groupby("domain")}
    names = [*groups, TOTAL] if len(groups) > 1 else [*groups]
    return dict(zip(names, mean_cis(list(groups.values()), totals, seed, bounds), strict=False))


GROUPS = ["lm", "source"]  # columns that set experiments apart; each is summarised by itself


def method_means(
    per_prompt: pd.DataFrame, value: str = "reward", totals: str = "macro", seed: int = 0, bounds: Bounds = None
) -> pd.DataFrame:
    """Mean of each method in each domain and in total.

    `per_prompt`: one row per method and prompt with columns lm, source, method, domain, prompt_id and `value`. Returns columns
    lm, source, method, domain, mean, low, high, n, p. `bounds` as for `metrics.mean_ci`.
    """
    rows = [
        {**dict(zip([*GROUPS, "method"], key, strict=True)), "domain": domain, **vars(estimate)}
        for key, part in per_prompt.groupby([*GROUPS, "method"], sort=False)
        for domain, estimate in _estimates(part, value, totals, seed, bounds).items()
    ]
    return pd.DataFrame(rows)


def method_gains(
    per_prompt: pd.DataFrame, pairs: Sequence[tuple[str, str]], value: str = "reward", totals: str = "macro", seed: int = 0
) -> pd.DataFrame:
    """Paired difference, better minus worse, over the same prompts, for each (better, worse) of `pairs`.

    Input as for `method_means`. Returns columns lm, source, better, worse, domain, mean, low, high, n, p, and same: the share
    of prompts on which the two are level.
    """
    rows = []
    for key, part in per_prompt.groupby(GROUPS, sort=False):
        wide = part.pivot(index=["domain", "prompt_id"], columns="method", values=value).reset_index()
        for better, worse in pairs:
            paired = wide.assign(gain=wide[better] - wide[worse])
            found = _estimates(paired, "gain", totals, seed)
            level = paired["gain"].eq(0).groupby(paired["domain"]).mean().to_dict() | {TOTAL: paired["gain"].eq(0).mean()}
            where = {**dict(zip(GROUPS, key, strict=True)), "better": better, "worse": worse}
            rows += [{**where, "domain": d, **vars(estimate), "same": level[d]} for d, estimate in found.items()]
    return pd.DataFrame(rows)


def as_text(tidy: pd.DataFrame, digits: int = 2) -> list[str]:
    """The estimates of a tidy table, row by row, as text: mean [low, high]."""
    return [Estimate(*row).text(digits) for row in tidy[["mean", "low", "high", "n"]].itertuples(index=False)]


HEADINGS = {"source": "demonstrations", "better": "method", "worse": "minus"}  # of the columns of a tidy table


def show_estimates(tidy: pd.DataFrame, caption: str, columns: str = "domain", **headings: str) -> None:
    """Estimates side by side, mean [95 % interval]: a column for each value of `columns`, a row for each other combination.

    What is the same everywhere is left out. The caption says how many prompts there are, or each cell where they differ.
    `headings`: what a column of the tidy table is called here, as in `HEADINGS`.
    """
    alike = tidy.groupby("domain")["n"].nunique().max() == 1
    text = tidy.assign(text=as_text(tidy) if alike else [f"{t} ({n})" for t, n in zip(as_text(tidy), tidy["n"], strict=True)])
    keys = [
        c
        for c in (*GROUPS, "method", "side", "better", "worse", "domain")
        if c in tidy and c != columns and tidy[c].nunique() > 1
    ]
    keys = keys or [c for c in ("method", "better") if c in tidy]
    for column in (*keys, columns):
        text[column] = pd.Categorical(text[column], tidy[column].drop_duplicates(), ordered=True)
    wide = text.pivot(index=keys, columns=columns, values="text").reset_index()
    counts = ", ".join(f"{d} n = {n}" for d, n in tidy.groupby("domain", sort=False)["n"].first().items())
    counts = f"; prompts: {counts}" if alike else " (prompts)"
    show_table(wide.rename(columns=HEADINGS | headings), f"{caption} Mean [95 % interval]{counts}.")


def totals_of(tidy: pd.DataFrame) -> pd.DataFrame:
    """The rows that summarise all domains, or those of the only domain there is."""
    return tidy[tidy["domain"] == TOTAL] if TOTAL in set(tidy["domain"]) else tidy


def estimate(tidy: pd.DataFrame, domain: str | None = None, **keys: str) -> Estimate:
    """One estimate of a tidy table; without a domain the total, or the only domain there is."""
    for column, wanted in keys.items():
        tidy = tidy[tidy[column] == wanted]
    row = (tidy[tidy["domain"] == domain] if domain else totals_of(tidy)).iloc[0]
    return Estimate(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))


def per_prompt(methods: Mapping[str, pd.DataFrame], lm: str = "", source: str = "", value: str = "reward") -> pd.DataFrame:
    """One tidy table from a table for each method with one row a prompt.

    Columns lm, source, method, domain, prompt_id and `value`.
    """
    columns = ["domain", "prompt_id", value]
    tables = [t[columns].assign(lm=lm, source=source, method=name) for name, t in methods.items()]
    return pd.concat(tables, ignore_index=True)[[*GROUPS, "method", *columns]]
