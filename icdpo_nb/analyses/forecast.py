"""What a check-up forecasts for Ŝ and R, and how S and Ŝ then order the labelled test pairs, as tables and sentences."""

from collections.abc import Mapping, Sequence

import pandas as pd

from ..data.preferences import Preference
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever
from ..statistics.findings import HIGHER, LOWER, OPEN, SMALL, needed_text
from ..statistics.intervals import Estimate
from ..statistics.verdicts import finding, n_to_decide
from .checkup import CHANCE, EMBEDDED, LIKELIER, LONGER
from .consistency import SCORERS, pair_scores

TOLD, UNTOLD, UNCLEAR = "told apart", "not told apart", "unclear"
NAMES = {EMBEDDED: "sentence embeddings", LIKELIER: "the model's NLL per token"}  # what a forecast rests on
WORDS = {HIGHER: "more often than chance", LOWER: "less often than chance", SMALL: "as chance would", OPEN: "undecided"}


def scored_shares(
    prompts: Sequence[Preference], retrievers: Mapping[str, Retriever], lm: LanguageModel, protocol: Protocol
) -> pd.DataFrame:
    """1 for each labelled pair that π*, S and Ŝ order as labelled, 0.5 for ties, 0 otherwise, as `checkup.shares`."""
    scores = pair_scores(prompts, retrievers, lm, protocol)
    parts = []
    for column in ("ICL", "S", "S_hat"):
        wide = scores.pivot(index=["domain", "prompt_id"], columns="side", values=column).reset_index()
        share = (wide["chosen"] > wide["rejected"]) + (wide["chosen"] == wide["rejected"]) / 2
        parts.append(wide[["domain", "prompt_id"]].assign(lm=lm.name, source="", method=SCORERS[column], share=share))
    return pd.concat(parts, ignore_index=True)


def beyond_chance(row: pd.Series, margin: float) -> str:
    """The finding for a share against chance; `row` is one of `estimates.method_means`, `margin` a difference of shares."""
    return finding(_from_chance(row), margin)


def _from_chance(row: pd.Series) -> Estimate:
    return Estimate(row["mean"] - CHANCE, row["low"] - CHANCE, row["high"] - CHANCE, int(row["n"]))


def _share(row: pd.Series) -> str:
    return Estimate(row["mean"], row["low"], row["high"], int(row["n"])).text()


def outlook(of_model: pd.DataFrame, margin: float) -> str:
    """`TOLD` if NLL or embeddings order the pairs beyond chance, `UNTOLD` if all stay within the margin, else `UNCLEAR`.

    An NLL that prefers the rejected responses tells them apart too; embeddings have learnt the labels, so they count only where
    they agree with them. `of_model`: the totals of `checkup.shares` for one language model.
    """
    found = {row["method"]: beyond_chance(row, margin) for _, row in of_model.iterrows()}
    if found.get(EMBEDDED) == HIGHER or found.get(LIKELIER) in (HIGHER, LOWER):
        return TOLD
    return UNTOLD if {found.get(name, SMALL) for name in NAMES} == {SMALL} else UNCLEAR


def forecast_sentences(means: pd.DataFrame, margin: float) -> list[str]:
    """What the check-up forecasts for Ŝ and R: a sentence or two for each language model, and one on length.

    `means`: the totals of `checkup.shares`. `margin`: the smallest difference from chance that matters, as a share.
    """
    outlooks = {lm: outlook(part, margin) for lm, part in means.groupby("lm", sort=False)}
    sentences = []
    for kind in dict.fromkeys(outlooks.values()):
        lms = [lm for lm, found in outlooks.items() if found == kind]
        which = "" if len(lms) == len(outlooks) else f"With {', '.join(lms)}: "
        sentences.append(which + _forecast(kind, means[means["lm"].isin(lms)], margin))
    return [*sentences, _on_length(means, margin)]


def _forecast(kind: str, means: pd.DataFrame, margin: float) -> str:
    measured = []
    for name, text in NAMES.items():
        rows = means[means["method"] == name]
        rows = rows.drop_duplicates("mean") if name == EMBEDDED else rows  # the same for every model
        values = ", ".join(_share(row) for _, row in rows.iterrows())
        measured += [f"{text} {'order' if name == EMBEDDED else 'orders'} {values}"] if values else []
    seen = f"{'; '.join(measured)} of {means['n'].max()} prompts' pairs as labelled (chance: {CHANCE:.2f})"
    if kind == TOLD:
        return (
            f"Chosen and rejected demonstrations can be told apart: {seen}. Ŝ, which contrasts the two, has something to work "
            "with. This is necessary and not sufficient: the sides may differ in style or length alone."
        )
    if kind == UNTOLD:
        return (
            f"Chosen and rejected demonstrations can hardly be told apart: {seen}. For such data the paper reports that the "
            "estimation collapses, and that R makes it worse (section 3.2, RQ3): expect little of Ŝ and R here."
        )
    needed = max((n_to_decide(_from_chance(r), margin) for _, r in _open(means, margin).iterrows()), default=float("nan"))
    more = needed_text(needed)
    return f"Whether chosen and rejected can be told apart remains open: {seen}. No forecast{f'; {more}' if more else ''}."


def _open(means: pd.DataFrame, margin: float) -> pd.DataFrame:
    open_ones = [row["method"] in NAMES and beyond_chance(row, margin) == OPEN for _, row in means.iterrows()]
    return means[open_ones]


def _on_length(means: pd.DataFrame, margin: float) -> str:
    row = means[means["method"] == LONGER].iloc[0]
    found = beyond_chance(row, margin)
    said = f"The chosen response is the longer one in {_share(row)} of the prompts' pairs"
    if found in (HIGHER, LOWER):
        return f"{said}: what is learnt from them may be length."
    return f"{said}{': no length bias to speak of' if found == SMALL else ''}."


def outcome_sentence(means: pd.DataFrame, margin: float) -> str:
    """How S, Ŝ and π* order the labelled test pairs; `means`: the totals of `scored_shares`."""
    parts = []
    for method, rows in means.groupby("method", sort=False):
        found = [(row, beyond_chance(row, margin)) for _, row in rows.iterrows()]
        values = ", ".join(f"{_share(row)} ({WORDS[kind]})" for row, kind in found)
        parts.append(f"{method} {values}")
    return f"Share of the {int(means['n'].max())} labelled test pairs that a score orders as labelled: {'; '.join(parts)}."
