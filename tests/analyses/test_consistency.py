"""Consistency of scorers with a judge: ranks by hand, chance whatever the ties, labelled pairs against single scores."""

from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from icdpo_nb.algorithm import icdpo
from icdpo_nb.analyses.consistency import (
    MEASURES,
    SCORERS,
    chance_mrr,
    consistency_mrr,
    consistency_sentence,
    pair_accuracy,
    pair_scores,
    rank_agreement,
    reciprocal_rank,
)
from icdpo_nb.judging.rewards import with_rewards
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever


def test_ranks_by_hand():
    judge = np.array([3.0, 1, 2])
    assert reciprocal_rank(np.array([0.9, 0.1, 0.2]), judge) == 1
    assert reciprocal_rank(np.array([0.1, 0.9, 0.2]), judge) == pytest.approx(1 / 3)
    assert reciprocal_rank(np.array([0.1, 0.2, 0.9]), judge) == 1 / 2
    assert reciprocal_rank(judge, np.array([0.5, 0.9, 0.1])) == 1 / 2, "the judge's best stands second"
    assert reciprocal_rank(np.array([1.0, 0, 0]), np.array([2.0, 2, 1])) == pytest.approx((1 + 1 / 2) / 2), (
        "level under the judge"
    )
    assert reciprocal_rank(np.array([1.0, 1, 0]), judge) == pytest.approx((1 + 1 / 3) / 2), "level under the scorer"


@pytest.mark.parametrize("order", list(product([0.0, 1, 2], repeat=3)))
def test_a_chooser_without_knowledge_is_at_chance_whatever_the_ties(order):
    """Over all orders of a scorer's numbers, with or without ties of its own."""
    for numbers in ([1.0, 2, 3], [1.0, 1, 2], [1.0, 2, 2], [1.0, 1, 1]):
        values = [reciprocal_rank(np.array(p), np.array(order)) for p in permutations(numbers)]
        assert np.mean(values) == pytest.approx(chance_mrr(3))
    assert chance_mrr(3) == pytest.approx(11 / 18)


def test_rank_agreement_is_that_of_scipy():
    x, y = np.array([1.0, 3, 2, 2]), np.array([1.0, 2, 4, 3])
    assert rank_agreement(x, y) == pytest.approx(kendalltau(x, y).statistic)
    assert rank_agreement(np.ones(3), y[:3]) == 0
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 9):
        x, y = rng.integers(0, 3, n).astype(float), rng.normal(size=n)
        x[0] = -np.inf  # an empty response
        if len(set(x)) > 1:
            assert rank_agreement(x, y) == pytest.approx(kendalltau(x, y).statistic)


class Length:
    """A reward that is the length of the response."""

    def score(self, prompts, responses):
        return np.array([float(len(y)) for y in responses])


def table() -> pd.DataFrame:
    """Two prompts; the judge likes what is long, S what is short, and the others are level."""
    return pd.DataFrame({
        "prompt_id": ["p"] * 3 + ["q"] * 3, "domain": "all", "prompt": "x", "response": ["a", "bb", "ccc"] * 2,
        "reward": [1.0, 2, 3] * 2, "S": [3.0, 2, 1] * 2, "S_hat": [1.0, 2, 3] * 2, "ICL": 0.0,
    })  # fmt: skip


def test_every_scorer_is_measured():
    scored = with_rewards(table(), teacher=Length(), rm=Length(), neighbours=Length())
    found = consistency_mrr(scored.assign(lm="m", source="a", retriever="random"))
    assert len(found) == 2 * len(SCORERS)
    mean = found.groupby("method")[list(MEASURES)].mean()
    assert mean.loc["ICDPO (S)"].tolist() == pytest.approx([1 / 3, 1 / 3, -1])
    for name in ("ICDPO + Ŝ", "teacher LM", "reward model", "annotated neighbours"):
        assert mean.loc[name].tolist() == pytest.approx([1, 1, 1])
    assert mean.loc["ICL (π* alone)"].tolist() == pytest.approx([11 / 18, 11 / 18, 0])


def test_the_sentence_counts_what_lies_above_and_below_chance():
    rows = [("m", kind, *row) for kind in ("random", "R") for row in (("S", 0.3, 0.5), ("Ŝ", 0.62, 0.9), ("π*", 0.5, 0.7))]
    means = pd.DataFrame(rows, columns=["lm", "source", "method", "low", "high"])
    said = consistency_sentence(means, chance_mrr(3))
    assert said == "Of 2 experiments, the MRR lies above chance (0.611) for S in 0 (below in 2), Ŝ in 2, π* in 0."


def test_labelled_pairs_are_scored_as_candidates_are(tiny_lm, pairs):
    """S of the chosen response equals what the parts give one by one."""
    retrievers = {d: RandomRetriever(pairs) for d in ("helpful", "harmless")}
    found = pair_scores(pairs[:3], retrievers, tiny_lm, RECOMMENDED)
    assert found["side"].tolist() == ["chosen"] * 3 + ["rejected"] * 3
    from icdpo_nb.templates import contexts

    p = pairs[1]
    demos = icdpo(p.prompt, retrievers["helpful"], tiny_lm, protocol=RECOMMENDED.but(max_new_tokens=2)).demos
    text, y = contexts(demos, p.prompt), tiny_lm.encode_response(p.chosen)
    logp = {c: tiny_lm.logprobs([t], [[y]])[0][0].sum() for c, t in text.items()}
    row = found[(found["prompt_id"] == p.prompt_id) & (found["side"] == "chosen")].iloc[0]
    assert row["S"] == pytest.approx(logp["icl"] - logp["base"], abs=1e-4)
    assert row["S_hat"] == pytest.approx(logp["icl"] - logp["icl_rejected"], abs=1e-4)


def test_pair_accuracy_by_hand():
    pairs = pd.DataFrame({
        "prompt_id": ["a", "b", "c", "d"] * 2, "side": ["chosen"] * 4 + ["rejected"] * 4,
        "S": [1.0, 2, 3, 4, 0, 3, 3, 1],
    })  # fmt: skip
    found = pair_accuracy(pairs, "S")
    assert (found.mean, found.n) == ((1 + 0 + 0.5 + 1) / 4, 4)
