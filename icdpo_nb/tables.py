"""Tables: tidy per-prompt values in, tidy estimates out; and estimates as text for a reader."""

from collections.abc import Mapping, Sequence

import pandas as pd

from .metrics import Estimate, mean_ci
from .notebook import show_table
from .paper import published_gain

TOTAL = "total"


def _estimates(values: pd.DataFrame, column: str, totals: str, seed: int) -> dict[str, Estimate]:
    """`mean_ci` of a column for each domain and, if there are several, for all of them."""
    groups = {domain: part[column].to_numpy() for domain, part in values.groupby("domain")}
    found = {domain: mean_ci([group], totals, seed) for domain, group in groups.items()}
    return found | ({TOTAL: mean_ci(list(groups.values()), totals, seed)} if len(groups) > 1 else {})


def method_means(per_prompt: pd.DataFrame, value: str = "reward", totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Mean of each method in each domain and in total.

    `per_prompt`: one row per method and prompt with columns method, domain, prompt_id and `value`. Returns columns method,
    domain, mean, low, high, n, in the order of the methods.
    """
    rows = [
        {"method": method, "domain": domain, **vars(estimate)}
        for method, part in per_prompt.groupby("method", sort=False)
        for domain, estimate in _estimates(part, value, totals, seed).items()
    ]
    return pd.DataFrame(rows)


def method_gains(
    per_prompt: pd.DataFrame, pairs: Sequence[tuple[str, str]], value: str = "reward", totals: str = "macro", seed: int = 0
) -> pd.DataFrame:
    """Paired difference, better minus worse, over the same prompts, for each (better, worse) of `pairs`.

    Input as for `method_means`. Returns columns better, worse, domain, mean, low, high, n.
    """
    wide = per_prompt.pivot(index=["domain", "prompt_id"], columns="method", values=value).reset_index()
    rows = [
        {"better": better, "worse": worse, "domain": domain, **vars(estimate)}
        for better, worse in pairs
        for domain, estimate in _estimates(wide.assign(gain=wide[better] - wide[worse]), "gain", totals, seed).items()
    ]
    return pd.DataFrame(rows)


def show_estimates(tidy: pd.DataFrame, caption: str) -> None:
    """Estimates side by side: a row for each method (or comparison), a column for each domain, mean [95 % interval]."""
    names = [c for c in ("method", "better", "worse") if c in tidy]
    text = tidy.assign(text=[str(Estimate(*row)) for row in tidy[["mean", "low", "high", "n"]].itertuples(index=False)])
    counts = ", ".join(f"{d} n = {n}" for d, n in tidy.groupby("domain", sort=False)["n"].first().items())
    order = {c: tidy[c].drop_duplicates().tolist() for c in [*names, "domain"]}
    for column, values in order.items():
        text[column] = pd.Categorical(text[column], values, ordered=True)
    wide = text.pivot(index=names, columns="domain", values="text").reset_index()
    show_table(wide, f"{caption} Mean [95 % bootstrap interval]; prompts: {counts}.")


def estimate(tidy: pd.DataFrame, domain: str | None = None, **keys: str) -> Estimate:
    """One estimate of a tidy table; without a domain the total, or the only domain there is."""
    for column, wanted in keys.items():
        tidy = tidy[tidy[column] == wanted]
    domain = domain or (TOTAL if TOTAL in set(tidy["domain"]) else tidy["domain"].iloc[0])
    row = tidy[tidy["domain"] == domain].iloc[0]
    return Estimate(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))


def per_prompt(methods: Mapping[str, pd.DataFrame], value: str = "reward") -> pd.DataFrame:
    """One tidy table from a table for each method with one row a prompt: columns method, domain, prompt_id and `value`."""
    columns = ["domain", "prompt_id", value]
    return pd.concat([t[columns].assign(method=name) for name, t in methods.items()], ignore_index=True)


VERDICTS = {1: "supported", 0: "inconclusive", -1: "not supported"}  # by the sign that the interval shows


def claims(gains: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Each claim `better > worse` with our total gain, the paper's gains for its three base models, and the verdict."""
    ours = [estimate(gains, better=better, worse=worse) for better, worse in pairs]
    theirs = [sorted(published_gain(*pair)) for pair in pairs]
    return pd.DataFrame({
        "claim": [f"{better} > {worse}" for better, worse in pairs],
        "here [95 % interval]": [str(e) for e in ours],
        "paper (RM_test × 100)": [f"{t[0]:+.1f} to {t[-1]:+.1f}" for t in theirs],
        "verdict": [VERDICTS[e.sign] for e in ours],
    })  # fmt: skip


def claims_sentence(claims: pd.DataFrame, n: int) -> str:
    """The verdicts as a sentence: which claims hold here, which do not, and which n prompts cannot settle."""
    groups = [(v, claims.loc[claims["verdict"] == v, "claim"].tolist()) for v in VERDICTS.values()]
    said = [f"{verdict}: {', '.join(names)}" for verdict, names in groups if names]
    if set(claims["verdict"]) == {"inconclusive"}:
        return f"On {n} prompts no difference could be shown for any of the paper's claims ({', '.join(claims['claim'])})."
    return f"Of the paper's claims, on {n} prompts: {'; '.join(said)}."
