"""The ablation of retrieval, on candidates made by hand."""

import numpy as np
import pandas as pd
import pytest
from parts import TinyEmbedder

from icdpo_nb.analyses.comparison import chosen_responses
from icdpo_nb.analyses.retrieval_ablation import (
    METHODS,
    demonstration_similarity,
    gain_and_similarity,
    window_similarity,
)
from icdpo_nb.analyses.sampling import with_origin
from icdpo_nb.data.preferences import Preference, PreferenceSet
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import words

TEXTS = {"a": "boil rice", "b": "boil pasta", "c": "fly kites"}
SUPPORT = tuple(Preference(i, "all", f"Human: {text}", "yes", "no") for i, text in TEXTS.items())
DATA = {"raw": PreferenceSet("made", "local", "raw", SUPPORT, (), (), {}, "")}


def made(rewards, s, demo_ids=("a",)) -> pd.DataFrame:
    """Two prompts with two candidates each."""
    return pd.DataFrame({
        "prompt_id": ["p", "p", "q", "q"], "domain": "all", "prompt": ["Human: boil rice"] * 2 + ["Human: fly kites"] * 2,
        "candidate_id": [0, 1, 0, 1], "response": "y", "reward": rewards, "S": s, "demo_ids": [demo_ids] * 4,
    })  # fmt: skip


@pytest.fixture
def candidates():
    parts = [
        with_origin(made([0.0, 0, 0, 0], [0.0, 0, 0, 0], ()), "lm"),
        with_origin(made([1.0, 3, 5, 7], [2.0, 1, 1, 2]), "lm", "raw", "random"),
        with_origin(made([2.0, 4, 6, 8], [1.0, 2, 1, 2], ("a", "b")), "lm", "raw", "BM25"),
        with_origin(made([0.0, 1, 2, 3], [1.0, 0, 1, 0]), "lm", "raw", "SBERT"),
        with_origin(made([9.0, 8, 7, 6], [1.0, 0, 0, 1], ("c",)), "lm", "raw", "R"),
    ]
    return pd.concat(parts, ignore_index=True)


def test_methods_by_hand(candidates):
    rewards = chosen_responses(candidates, METHODS).pivot(index="prompt_id", columns="method", values="reward")
    assert rewards.loc["p"].to_dict() == {
        "ICDPO + R": 9, "ICDPO + SBERT": 0, "ICDPO + BM25": 4, "ICDPO": 1, "ICL": 2, "ICL_uni": 1,
    }  # fmt: skip
    assert rewards.loc["q"].to_dict() == {
        "ICDPO + R": 6, "ICDPO + SBERT": 2, "ICDPO + BM25": 8, "ICDPO": 7, "ICL": 6, "ICL_uni": 5,
    }  # fmt: skip


def test_similarity_is_the_mean_cosine(candidates):
    embed = TinyEmbedder()
    found = demonstration_similarity(candidates, DATA, embed).set_index(["method", "prompt_id"])["similarity"]
    rice, pasta, kites = embed([p.prompt for p in SUPPORT])
    assert found["random", "p"] == pytest.approx(1), "the prompt itself"
    assert found["BM25", "p"] == pytest.approx((1 + rice @ pasta) / 2)
    assert found["R", "p"] == pytest.approx(rice @ kites)
    assert set(found.index.get_level_values(0)) == {"random", "BM25", "SBERT", "R"}, "Base has no demonstrations"


def test_gain_stands_beside_the_similarity_of_r(candidates):
    similarity = demonstration_similarity(candidates, DATA, TinyEmbedder())
    found = gain_and_similarity(chosen_responses(candidates, METHODS), similarity).set_index("prompt_id")
    assert found["gain"].to_dict() == {"p": 9 - 1, "q": 6 - 7}
    assert found.loc["q", "similarity"] == pytest.approx(1)


def test_a_window_of_one_word_sees_the_last_alone():
    """ "boil pasta pasta kites": with L = 1 the nearest is about kites, with a longer window about pasta, said twice."""
    prompt = Preference("x", "all", "Human: boil pasta pasta kites", "", "")
    found = window_similarity([prompt], DATA, TinyEmbedder(), words, RECOMMENDED.but(n_demos=1), [1, 30])
    embed = TinyEmbedder()
    x, rice, pasta, kites = embed([prompt.prompt, *(p.prompt for p in SUPPORT)])
    values = found.set_index("method")["similarity"]
    assert values["L = 1"] == pytest.approx(x @ kites)
    assert values["L = 30"] == pytest.approx(x @ pasta), "the word said twice"
    assert np.isfinite(values).all()
