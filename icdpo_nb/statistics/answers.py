"""The answer to a notebook's question in sentences that a colleague can repeat, from its table of claims."""

import pandas as pd

from .findings import AGREES, CONTRADICTS, HIGHER, LOWER, NOT, OPEN, SAME, SMALL, listed

VERBS = {  # what the majority of a claim's comparisons shows; the words stand between the method and its baseline
    HIGHER: "beats",
    LOWER: "does worse than",
    SMALL: "differs too little to matter from",
    OPEN: "cannot be told apart from",
    SAME: "changes nothing against",
}
OTHERS = {
    HIGHER: "higher in {}",
    LOWER: "lower in {}",
    SMALL: "too small to matter in {}",
    OPEN: "undecided in {}",
    SAME: "unchanged in {}",
}


def answer_sentences(claims: pd.DataFrame, unit: str = "points", digits: int = 2) -> list[str]:
    """One sentence for each claim `method > baseline`, over its models and sources, the most frequent finding first.

    `claims`: as from `verdicts.claims`, rows of one domain. `unit`: the unit of the differences, in the plural.
    """
    return [_claim_sentence(claim, part, unit, digits) for claim, part in claims.groupby("claim", sort=False)]


def _claim_sentence(claim: str, part: pd.DataFrame, unit: str, digits: int) -> str:
    method, _, baseline = claim.partition(" > ")
    counts = part["finding"].value_counts()
    main = next(finding for finding in VERBS if counts.get(finding, 0) == counts.max())
    size = ""
    if main in (HIGHER, LOWER):
        size = f", by {_range(part.loc[part['finding'] == main, 'mean'].abs(), digits)} {unit}"
    others = ", ".join(OTHERS[f].format(counts[f]) for f in VERBS if f != main and f in counts)
    method = method[0].upper() + method[1:]  # it begins the sentence
    return f"{method} {VERBS[main]} {baseline}{_where(counts[main], len(part))}{size}{f' ({others})' if others else ''}."


def _where(k: int, n: int) -> str:
    """ " in 8 of 9 settings", " in all 9 settings", " in both settings", or nothing where there is one setting alone."""
    if n == 1:
        return ""
    if k == n:
        return " in both settings" if n == 2 else f" in all {n} settings"
    return f" in {k} of {n} settings"


def _range(values: pd.Series, digits: int) -> str:
    low, high = f"{values.min():.{digits}f}", f"{values.max():.{digits}f}"
    return low if low == high else f"{low} to {high}"


def agreement_with_paper(claims: pd.DataFrame) -> str:
    """How many of the comparisons that the paper reports too agree with it, in one sentence."""
    compared = claims[claims["verdict"] != NOT]
    if compared.empty:
        return "The paper reports none of these comparisons for the same role."
    counts = compared["verdict"].value_counts()
    words = {AGREES: ("agrees", "agree"), CONTRADICTS: ("contradicts it", "contradict it")}
    words |= {SMALL: ("is too small to matter", "are too small to matter")}
    words |= {OPEN: ("cannot be decided",) * 2, SAME: ("changed nothing",) * 2}
    parts = [f"{counts[v]} {w[int(counts[v] > 1)]}" for v, w in words.items() if v in counts]
    if len(compared) == 1:
        return f"The paper reports one of these comparisons: it {parts[0].partition(' ')[2]}."
    return f"Of {len(compared)} comparisons that the paper reports for the same role, {listed(parts)}."
