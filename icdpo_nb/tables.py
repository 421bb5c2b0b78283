"""Tables: tidy per-prompt values in, tidy estimates out; and estimates as text for a reader."""

from collections.abc import Mapping, Sequence

import pandas as pd

from .metrics import Estimate, mean_cis
from .notebook import show_table
from .paper import NotReportedError, published_gain

TOTAL = "total"


def _estimates(values: pd.DataFrame, column: str, totals: str, seed: int) -> dict[str, Estimate]:
    """`mean_ci` of a column for each domain and, if there are several, for all of them."""
    groups = {domain: part[column].to_numpy() for domain, part in values.groupby("domain")}
    names = [*groups, TOTAL] if len(groups) > 1 else [*groups]
    return dict(zip(names, mean_cis(list(groups.values()), totals, seed), strict=False))


GROUPS = ["lm", "source"]  # columns that set experiments apart; each is summarised by itself


def method_means(per_prompt: pd.DataFrame, value: str = "reward", totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Mean of each method in each domain and in total.

    `per_prompt`: one row per method and prompt with columns lm, source, method, domain, prompt_id and `value`. Returns columns
    lm, source, method, domain, mean, low, high, n.
    """
    rows = [
        {**dict(zip([*GROUPS, "method"], key, strict=True)), "domain": domain, **vars(estimate)}
        for key, part in per_prompt.groupby([*GROUPS, "method"], sort=False)
        for domain, estimate in _estimates(part, value, totals, seed).items()
    ]
    return pd.DataFrame(rows)


def method_gains(
    per_prompt: pd.DataFrame, pairs: Sequence[tuple[str, str]], value: str = "reward", totals: str = "macro", seed: int = 0
) -> pd.DataFrame:
    """Paired difference, better minus worse, over the same prompts, for each (better, worse) of `pairs`.

    Input as for `method_means`. Returns columns lm, source, better, worse, domain, mean, low, high, n.
    """
    rows = []
    for key, part in per_prompt.groupby(GROUPS, sort=False):
        wide = part.pivot(index=["domain", "prompt_id"], columns="method", values=value).reset_index()
        for better, worse in pairs:
            found = _estimates(wide.assign(gain=wide[better] - wide[worse]), "gain", totals, seed)
            where = {**dict(zip(GROUPS, key, strict=True)), "better": better, "worse": worse}
            rows += [{**where, "domain": domain, **vars(estimate)} for domain, estimate in found.items()]
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
    show_table(wide.rename(columns=HEADINGS | headings), f"{caption} Mean [95 % bootstrap interval]{counts}.")


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


VERDICTS = {1: "supported", 0: "inconclusive", -1: "not supported"}  # by the sign that the interval shows


def claims(
    gains: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    data: str = "HH-RLHF",
    figure: Sequence[str] | None = None,
    digits: int = 2,
) -> pd.DataFrame:
    """Each claim `better > worse` in each experiment: our total gain, the paper's for its three models, the verdict.

    `figure`: what the paper says of each pair where it has a figure without numbers.
    """
    rows, heading = [], "paper" if figure else "paper (RM_test × 100)"
    for better, worse, said in zip(*zip(*pairs, strict=True), figure or [""] * len(pairs), strict=True):
        theirs = said or _reported(better, worse, data)
        for (lm, source), part in gains.groupby(GROUPS, sort=False):
            ours = estimate(part, better=better, worse=worse)
            rows.append({
                "claim": f"{better} > {worse}",
                "lm": lm,
                "source": source,
                "here [95 % interval]": ours.text(digits),
                "verdict": VERDICTS[ours.sign],
                heading: theirs,
            })  # fmt: skip
    return pd.DataFrame(rows)


def as_range(gains: Sequence[float], digits: int = 1) -> str:
    """Published differences, one a base model: "+2.6 to +5.1", or the only one."""
    low, high = (f"{v:+.{digits}f}" for v in (min(gains), max(gains)))
    return low if len(gains) == 1 else f"{low} to {high}"


def _reported(better: str, worse: str, data: str) -> str:
    try:
        theirs = [*published_gain(better, worse, data=data).values()]
    except NotReportedError:
        return "not reported"
    return as_range(theirs)


def show_claims(claims: pd.DataFrame, caption: str) -> None:
    """The table of `claims`; with several models a column for each, and the verdicts as signs."""
    same = [c for c in GROUPS if claims[c].nunique() == 1]
    if "lm" in same:
        show_table(claims.drop(columns=same).rename(columns=HEADINGS), caption)
        return
    signs = {verdict: "▼○▲"[sign + 1] for sign, verdict in VERDICTS.items()}
    text = claims.assign(
        text=[f"{here} {signs[v]}" for here, v in zip(claims["here [95 % interval]"], claims["verdict"], strict=True)]
    )
    keys = ["claim", *(["source"] if "source" not in same else []), claims.columns[-1]]
    for column in ("claim", "source", "lm"):
        text[column] = pd.Categorical(text[column], text[column].unique(), ordered=True)
    wide = text.pivot(index=keys, columns="lm", values="text").reset_index()
    legend = ", ".join(f"{sign} {verdict}" for verdict, sign in signs.items())
    wide = wide[[c for c in wide if c != keys[-1]] + keys[-1:]].rename(columns=HEADINGS)
    show_table(wide, f"{caption} {legend}.")


def claims_sentence(claims: pd.DataFrame, n: int) -> str:
    """The verdicts as sentences: for each claim in how many of the experiments it holds; many of one experiment by verdict."""
    if len(claims) == claims["claim"].nunique() > 3:
        names = {v: ", ".join(claims.loc[claims["verdict"] == v, "claim"]) for v in VERDICTS.values()}
        return f"On {n} prompts, {'; '.join(f'{verdict}: {found}' for verdict, found in names.items() if found)}."
    said = []
    for claim, part in claims.groupby("claim", sort=False):
        counts = part["verdict"].value_counts()
        parts = [f"{v} in {counts[v]}" if len(part) > 1 else v for v in VERDICTS.values() if v in counts]
        said.append(f"{claim} is {', '.join(parts)}")
    of = f", each in {part_count} experiments" if (part_count := len(claims) // claims["claim"].nunique()) > 1 else ""
    if set(claims["verdict"]) == {"inconclusive"}:
        names = "; ".join(claims["claim"].unique())
        return f"On {n} prompts{of} no difference could be shown: the intervals of {names} all hold 0."
    return f"On {n} prompts{of}: {'; '.join(said)}."
