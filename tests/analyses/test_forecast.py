"""What a check-up forecasts: every outlook at its edges, in words; and the outcome against the scores of single prompts."""

import math

import numpy as np
import pandas as pd
import pytest

from icdpo_nb.analyses import forecast
from icdpo_nb.analyses.checkup import EMBEDDED, LIKELIER, LONGER
from icdpo_nb.analyses.consistency import SCORERS, pair_scores
from icdpo_nb.analyses.forecast import TOLD, UNCLEAR, UNTOLD
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever

NONE = (math.nan, math.nan)


def means(lm="m", longer=(0.5, 0.45, 0.55), likelier=(0.5, 0.45, 0.55), embedded=(0.5, 0.45, 0.55), n=400) -> pd.DataFrame:
    rows = {LONGER: longer, LIKELIER: likelier, EMBEDDED: embedded}
    return pd.DataFrame([
        {"lm": lm, "source": "", "method": name, "domain": "all", **dict(zip(("mean", "low", "high"), v, strict=True)), "n": n}
        for name, v in rows.items() if v
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, UNTOLD),
        ({"embedded": (0.9, 0.8, 0.95)}, TOLD),
        ({"likelier": (0.3, 0.2, 0.4)}, TOLD),  # the rejected ones are likelier: told apart all the same
        ({"likelier": (0.7, 0.6, 0.8)}, TOLD),
        ({"embedded": (0.3, 0.2, 0.4)}, UNCLEAR),  # a head that has learnt the labels and is wrong knows nothing
        ({"embedded": (0.55, 0.45, 0.65)}, UNCLEAR),
        ({"embedded": (0.6, *NONE)}, UNCLEAR),  # too few prompts for an interval
        ({"embedded": None}, UNCLEAR),  # too few prompts for the folds
        ({"longer": (0.9, 0.85, 0.95)}, UNTOLD),  # length alone is no ground for a forecast
        ({"embedded": (0.54, 0.51, 0.57)}, UNTOLD),  # above chance, but within the margin
    ],
)
def test_outlooks_at_their_edges(given, wanted):
    assert forecast.outlook(means(**given), 0.1) == wanted


def test_what_is_said_of_each_outlook():
    told, length = forecast.forecast_sentences(means(embedded=(0.9, 0.8, 0.95), longer=(0.8, 0.7, 0.9)), 0.1)
    assert told.startswith(
        "Chosen and rejected demonstrations can be told apart (share of 400 prompts' pairs ordered as labelled"
    )
    assert "by sentence embeddings 0.90 [0.80, 0.95]; chance 0.50" in told, "the NLL tells nothing, so it is not named"
    both = forecast.forecast_sentences(means(embedded=(0.9, 0.8, 0.95), likelier=(0.3, 0.2, 0.4)), 0.1)[0]
    assert "by sentence embeddings 0.90 [0.80, 0.95] and by the NLL per token 0.30 [0.20, 0.40]; chance 0.50" in both
    assert "has something to work with" in told
    assert length == (
        "The chosen response is the longer one in a share of 0.80 [0.70, 0.90] of the prompts' pairs, so what is learnt from "
        "them may be length."
    )
    untold, length = forecast.forecast_sentences(means(), 0.1)
    assert "can hardly be told apart" in untold
    assert "expect little of Ŝ and R here" in untold
    assert length.endswith("no length bias to speak of.")
    unclear, length = forecast.forecast_sentences(means(embedded=(0.55, 0.45, 0.65), longer=(0.52, 0.4, 0.64), n=100), 0.1)
    assert "remains open" in unclear
    assert "prompts would decide it." in unclear
    assert length.endswith("of the prompts' pairs."), "nothing is said of what is open"
    few = forecast.forecast_sentences(means(longer=(0.5, *NONE), likelier=(0.6, *NONE), embedded=None, n=4), 0.1)[0]
    assert few == (
        "Whether chosen and rejected demonstrations can be told apart remains open (share of 4 prompts' pairs ordered as "
        "labelled by the NLL per token 0.60 [–]; chance 0.50); an interval needs 20 prompts in each domain."
    )


def test_models_that_differ_are_named():
    both = pd.concat([means("a"), means("b", likelier=(0.7, 0.65, 0.75)), means("c", likelier=(0.8, 0.75, 0.85))])
    untold, told, _ = forecast.forecast_sentences(both, 0.1)
    assert untold.startswith("With a: Chosen and rejected demonstrations can hardly")
    assert told.startswith("With b, c: Chosen and rejected demonstrations can be told apart")
    assert "by the NLL per token 0.70 to 0.80" in told


def test_the_outcome_is_that_of_the_pair_scores(pairs, tiny_lm):
    retrievers = {d: RandomRetriever([p for p in pairs if p.domain == d]) for d in ("helpful", "harmless")}
    shares = forecast.scored_shares(pairs, retrievers, tiny_lm, RECOMMENDED)
    scores = pair_scores(pairs, retrievers, tiny_lm, RECOMMENDED).set_index(["prompt_id", "side"])
    for column in ("ICL", "S", "S_hat"):
        found = shares[shares["method"] == SCORERS[column]].set_index("prompt_id")["share"]
        for p in pairs:
            gap = scores.loc[(p.prompt_id, "chosen"), column] - scores.loc[(p.prompt_id, "rejected"), column]
            assert found[p.prompt_id] == (np.sign(gap) + 1) / 2


def test_the_outcome_in_words():
    rows = [("a", "S", 0.7, 0.6, 0.8), ("b", "S", 0.5, 0.45, 0.55), ("a", "Ŝ", 0.4, 0.3, 0.5), ("b", "Ŝ", 0.4, 0.3, 0.5)]
    table = pd.DataFrame(rows, columns=["lm", "method", "mean", "low", "high"]).assign(n=80)
    assert forecast.outcome_sentence(table, 0.1) == (
        "Share of labelled test pairs (n = 80) that a score orders as labelled: S 0.50 to 0.70 (above chance in 1 of 2 models, "
        "chance in 1 of 2 models); Ŝ 0.40 [0.30, 0.50] (cannot be told from chance)."
    )
