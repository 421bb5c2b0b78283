"""Tables: tidy per-prompt values in, tidy estimates out; and estimates as text for a reader."""

from collections.abc import Mapping, Sequence

import pandas as pd

from .intervals import Estimate, mean_cis

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
    lm, source, method, domain, mean, low, high, n, p. `bounds` as for `intervals.mean_ci`.
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
    """Paired difference, method minus baseline, over the same prompts, for each (method, baseline) of `pairs`.

    Input as for `method_means`. Returns columns lm, source, method, baseline, domain, mean, low, high, n, p, and same: the
    share of prompts on which the two are level.
    """
    rows = []
    for key, part in per_prompt.groupby(GROUPS, sort=False):
        wide = part.pivot(index=["domain", "prompt_id"], columns="method", values=value).reset_index()
        for method, baseline in pairs:
            paired = wide.assign(gain=wide[method] - wide[baseline])
            found = _estimates(paired, "gain", totals, seed)
            level = paired["gain"].eq(0).groupby(paired["domain"]).mean().to_dict() | {TOTAL: paired["gain"].eq(0).mean()}
            where = {**dict(zip(GROUPS, key, strict=True)), "method": method, "baseline": baseline}
            rows += [{**where, "domain": d, **vars(estimate), "same": level[d]} for d, estimate in found.items()]
    return pd.DataFrame(rows)


def as_text(tidy: pd.DataFrame, digits: int = 2) -> list[str]:
    """The estimates of a tidy table, row by row, as text: mean [low, high]."""
    return [Estimate(*row).text(digits) for row in tidy[["mean", "low", "high", "n"]].itertuples(index=False)]


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
