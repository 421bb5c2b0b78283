"""Tidy tables of per-prompt values in, tidy tables of estimates out."""

from collections.abc import Mapping, Sequence

import pandas as pd

from .intervals import Estimate, mean_cis

TOTAL = "total"
GROUPS = ["lm", "source"]  # columns that identify an experiment; each experiment is summarised separately

Bounds = tuple[float, float] | None  # smallest and largest possible value, e.g. (0, 1) for a share


def _estimates(values: pd.DataFrame, column: str, totals: str, seed: int, bounds: Bounds = None) -> dict[str, Estimate]:
    """`mean_ci` of a column by domain, plus the total if there are several domains."""
    groups = {domain: part[column].to_numpy() for domain, part in values.groupby("domain")}
    names = [*groups, TOTAL] if len(groups) > 1 else [*groups]
    return dict(zip(names, mean_cis(list(groups.values()), totals, seed, bounds), strict=False))


def method_means(
    per_prompt: pd.DataFrame, value: str = "reward", totals: str = "macro", seed: int = 0, bounds: Bounds = None
) -> pd.DataFrame:
    """Mean of each method, by domain and in total.

    `per_prompt` has one row for each method and prompt, with columns lm, source, method, domain, prompt_id and `value`.
    Returns columns lm, source, method, domain, mean, low, high, n, p. For `bounds` see `intervals.mean_ci`.
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

    The input is that of `method_means`. Returns columns lm, source, method, baseline, domain, mean, low, high, n, p, and
    same: the share of prompts on which the two methods are equal.
    """
    rows = []
    for key, part in per_prompt.groupby(GROUPS, sort=False):
        wide = part.pivot(index=["domain", "prompt_id"], columns="method", values=value).reset_index()
        for method, baseline in pairs:
            paired = wide.assign(gain=wide[method] - wide[baseline])
            equal = paired["gain"].eq(0)
            same = equal.groupby(paired["domain"]).mean().to_dict() | {TOTAL: equal.mean()}
            ids = {**dict(zip(GROUPS, key, strict=True)), "method": method, "baseline": baseline}
            for domain, estimate in _estimates(paired, "gain", totals, seed).items():
                rows.append({**ids, "domain": domain, **vars(estimate), "same": same[domain]})
    return pd.DataFrame(rows)


def as_text(tidy: pd.DataFrame, digits: int = 2) -> list[str]:
    """Each row of a tidy table as text, "mean [low, high]"."""
    return [Estimate(*row).text(digits) for row in tidy[["mean", "low", "high", "n"]].itertuples(index=False)]


def totals_of(tidy: pd.DataFrame) -> pd.DataFrame:
    """The rows of the total, or of the only domain if there is just one."""
    return tidy[tidy["domain"] == TOTAL] if TOTAL in set(tidy["domain"]) else tidy


def estimate(tidy: pd.DataFrame, domain: str | None = None, **keys: str) -> Estimate:
    """One estimate of a tidy table. Without a domain this is the total, or the only domain."""
    for column, wanted in keys.items():
        tidy = tidy[tidy[column] == wanted]
    row = (tidy[tidy["domain"] == domain] if domain else totals_of(tidy)).iloc[0]
    return Estimate(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))


def per_prompt(methods: Mapping[str, pd.DataFrame], lm: str = "", source: str = "", value: str = "reward") -> pd.DataFrame:
    """Combine one table per method, each with one row per prompt, into a tidy table.

    Returns columns lm, source, method, domain, prompt_id and `value`.
    """
    columns = ["domain", "prompt_id", value]
    tables = [t[columns].assign(lm=lm, source=source, method=name) for name, t in methods.items()]
    return pd.concat(tables, ignore_index=True)[[*GROUPS, "method", *columns]]
