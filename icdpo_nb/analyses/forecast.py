"""What a check-up forecasts for Ŝ and R, and how S and Ŝ then order the labelled test pairs, as tables and sentences."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from ..data.preferences import Preference
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever
from ..statistics.findings import HIGHER, LOWER, OPEN, SMALL, needed_text
from ..statistics.intervals import MIN_VALUES, Estimate
from ..statistics.verdicts import finding, n_to_decide
from .checkup import CHANCE, EMBEDDED, LIKELIER, LONGER
from .consistency import SCORERS, pair_scores

TOLD, UNTOLD, UNCLEAR = "told apart", "not told apart", "unclear"
NAMES = {EMBEDDED: "by sentence embeddings", LIKELIER: "by the NLL per token"}  # what a forecast rests on
WORDS = {HIGHER: "above chance", LOWER: "below chance", SMALL: "chance", OPEN: "cannot be told from chance"}


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


def outlook(of_model: pd.DataFrame, margin: float) -> str:
    """`TOLD` if NLL or embeddings order the pairs beyond chance, `UNTOLD` if both stay within the margin, else `UNCLEAR`.

    An NLL that prefers the rejected responses tells them apart too; embeddings have learnt the labels, so they count only where
    they agree with them. `of_model`: the totals of `checkup.shares` for one language model.
    """
    found = {row["method"]: beyond_chance(row, margin) for _, row in of_model.iterrows()}
    if any(_tells(row, margin) for _, row in of_model.iterrows() if row["method"] in NAMES):
        return TOLD
    return UNTOLD if {found.get(name) for name in NAMES} == {SMALL} else UNCLEAR


def _tells(row: pd.Series, margin: float) -> bool:
    return beyond_chance(row, margin) in ((HIGHER,) if row["method"] == EMBEDDED else (HIGHER, LOWER))


def forecast_sentences(means: pd.DataFrame, margin: float) -> list[str]:
    """What the check-up forecasts for Ŝ and R: a sentence for each outlook and its language models, and one on length.

    `means`: the totals of `checkup.shares`. `margin`: the smallest difference from chance that matters, as a share.
    """
    by_model = {lm: outlook(part, margin) for lm, part in means.groupby("lm", sort=False)}
    sentences = []
    for kind in dict.fromkeys(by_model.values()):
        lms = [lm for lm, found in by_model.items() if found == kind]
        which = "" if len(lms) == len(by_model) else f"With {', '.join(lms)}: "
        sentences.append(which + _forecast(kind, means[means["lm"].isin(lms)], margin))
    return [*sentences, _on_length(means, margin)]


def _forecast(kind: str, means: pd.DataFrame, margin: float) -> str:
    if kind == TOLD:
        means = means[[r["method"] not in NAMES or _tells(r, margin) for _, r in means.iterrows()]]  # the others tell nothing
    of = {name: means[means["method"] == name] for name in NAMES}
    measured = " and ".join(f"{text} {_values(of[name])}" for name, text in NAMES.items() if len(of[name]))
    seen = f"share of {int(means['n'].max())} prompts' pairs ordered as labelled {measured}; chance {CHANCE:.2f}"
    if kind == TOLD:
        return (
            f"Chosen and rejected demonstrations can be told apart ({seen}), so Ŝ, which contrasts the two, has something to "
            "work with; whether that is quality, style or length, this does not show."
        )
    if kind == UNTOLD:
        return (
            f"Chosen and rejected demonstrations can hardly be told apart ({seen}). The paper explains the failure of R on raw "
            "data by pairs of this kind (section 3.2, RQ3), so expect little of Ŝ and R here."
        )
    undecided = [r for _, r in means.iterrows() if r["method"] in NAMES and beyond_chance(r, margin) == OPEN]
    more = needed_text(max((n_to_decide(_from_chance(r), margin) for r in undecided), default=math.nan))
    if means["low"].isna().all():
        more = f"an interval needs {MIN_VALUES} prompts in each domain"
    return f"Whether chosen and rejected demonstrations can be told apart remains open ({seen}){f'; {more}' if more else ''}."


def _on_length(means: pd.DataFrame, margin: float) -> str:
    rows = means[means["method"] == LONGER]
    said = f"The chosen response is the longer one in a share of {_values(rows)} of the prompts' pairs"
    found = {beyond_chance(row, margin) for _, row in rows.iterrows()}
    if found & {HIGHER, LOWER}:
        return f"{said}, so what is learnt from them may be length."
    return f"{said}{', no length bias to speak of' if found == {SMALL} else ''}."


def outcome_sentence(means: pd.DataFrame, margin: float) -> str:
    """How S, Ŝ and π* order the labelled test pairs; `means`: the totals of `scored_shares`."""
    parts = []
    for method, rows in means.groupby("method", sort=False):
        kinds = pd.Series([beyond_chance(row, margin) for _, row in rows.iterrows()]).value_counts(sort=False)
        said = ", ".join(f"{WORDS[k]}{f' in {n} of {len(rows)} models' if len(kinds) > 1 else ''}" for k, n in kinds.items())
        parts.append(f"{method} {_values(rows)} ({said})")
    return f"Share of labelled test pairs (n = {int(means['n'].max())}) that a score orders as labelled: {'; '.join(parts)}."


def _values(rows: pd.DataFrame) -> str:
    """One share with its interval, or the range of several models' shares."""
    low, high = rows["mean"].min(), rows["mean"].max()
    if f"{low:.2f}" != f"{high:.2f}":
        return f"{low:.2f} to {high:.2f}"
    row = rows.iloc[0]
    return Estimate(row["mean"], row["low"], row["high"], int(row["n"])).text()


def _from_chance(row: pd.Series) -> Estimate:
    return Estimate(row["mean"] - CHANCE, row["low"] - CHANCE, row["high"] - CHANCE, int(row["n"]))
