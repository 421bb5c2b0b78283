"""The comparison of methods, on candidates made by hand and with a tiny model."""

import numpy as np
import pandas as pd
import pytest
from parts import Length, TinyEmbedder, made

from icdpo_nb.analyses.comparison import (
    METHODS,
    Method,
    chosen_responses,
    empties,
    responses_to,
    shown_once,
    source_rewards,
)
from icdpo_nb.analyses.sampling import sample_candidates, with_origin
from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import PreferenceSet
from icdpo_nb.judging.rewards import with_rewards
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.statistics.estimates import method_means


@pytest.fixture
def candidates():
    """Two prompts of one model: from the prompt alone, and with the demonstrations of two retrievers."""
    parts = [
        with_origin(made([[1], [2]], [[0], [0]], [[0], [0]]), "lm"),
        with_origin(made([[3, 6, 9], [0, 3, 0]], [[1, 3, 2], [5, 6, 7]], [[9, 1, 1], [1, 2, 0]]), "lm", "a", "random"),
        with_origin(made([[10, 20, 30], [40, 50, 60]], [[3, 2, 1], [3, 2, 1]], [[1, 1, 2], [2, 1, 1]]), "lm", "a", "R"),
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def given(pairs, tiny_lm):
    """What `sample_candidates` takes: prompts, sources, models, an encoder and a protocol."""
    data = PreferenceSet("x", "local", "raw", tuple(pairs[:6]), (), tuple(pairs[6:]), {}, "0")
    return data.test, {"raw": data}, {"tiny": tiny_lm}, TinyEmbedder(), RECOMMENDED.but(max_new_tokens=6)


def rewards_by_method(candidates, methods=METHODS) -> dict[str, list[float]]:
    return chosen_responses(candidates, methods).groupby("method", sort=False)["reward"].apply(list).to_dict()


def test_what_each_method_chooses(candidates):
    found = rewards_by_method(candidates)
    assert found == {"Base": [1, 2], "ICL": [6, 1], "ICDPO": [6, 0], "ICDPO + Ŝ": [3, 3], "ICDPO + ŜR": [30, 40]}
    assert list(found) == [name for name in METHODS if not name.startswith("RM")], "in the order of the paper's table"


def test_a_method_more_is_a_line(candidates):
    more = {"last by Ŝ of R": Method("S_hat", "R"), "first of R": Method("first", "R")}
    assert rewards_by_method(candidates, more) == {"last by Ŝ of R": [30, 40], "first of R": [10, 40]}


def test_what_a_teacher_chooses(candidates):
    """With a teacher Base is the first of n, RM-BoN the teacher's best of them, and RM-Aug has rows of its own."""
    alone = made([[1, 7, 8], [2, 3, 4]], [[0] * 3] * 2, [[0] * 3] * 2).assign(teacher=[-3, -1, -2, -1, -1, -np.inf])
    guided = with_origin(made([[5], [6]], [[0], [0]], [[0], [0]]), "lm", policy="RM-Aug")
    shown = candidates[candidates["retriever"] != "none"]
    found = rewards_by_method(pd.concat([with_origin(alone, "lm"), guided, shown], ignore_index=True))
    assert {name: found[name] for name in ("Base", "RM-Aug", "RM-BoN")} == {"Base": [1, 2], "RM-Aug": [5, 6], "RM-BoN": [7, 2]}
    assert {name: found[name] for name in ("ICL", "ICDPO")} == {"ICL": [6, 1], "ICDPO": [6, 0]}


def test_each_training_seed_chooses_for_itself(candidates):
    """A policy of two seeds answers a prompt twice; what was not trained has no seed."""
    trained = [
        with_origin(made([[1, 2], [3, 4]], s, s), "lm", "a", policy="DPO").assign(seed=seed, adapter=f"x{seed}")
        for seed, s in ((3, [[1, 0], [1, 0]]), (4, [[0, 1], [1, 0]]))
    ]
    found = chosen_responses(pd.concat([candidates, *trained]), {"Base": METHODS["Base"], "DPO + S": Method("S", policy="DPO")})
    assert found[["method", "prompt_id", "reward"]].values.tolist() == [
        ["Base", "p", 1], ["Base", "q", 2], ["DPO + S", "p", 1], ["DPO + S", "q", 3], ["DPO + S", "p", 2], ["DPO + S", "q", 3],
    ]  # fmt: skip
    assert found["seed"].fillna(0).tolist() == [0, 0, 3, 3, 4, 4]


def test_methods_without_demonstrations_stand_once(candidates):
    another = candidates[candidates["source"] == "a"].assign(source="b")
    means = method_means(chosen_responses(pd.concat([candidates, another], ignore_index=True)))
    assert len(means[means["method"] == "Base"]) == 2, "a source each, to be paired with"
    shown = shown_once(means)
    assert shown.loc[shown["method"] == "Base", "source"].tolist() == ["none"]
    assert shown.loc[shown["method"] == "ICL", "source"].tolist() == ["a", "b"]


def test_chosen_responses_and_those_to_one_prompt(candidates):
    chosen = chosen_responses(candidates)
    assert list(chosen)[:3] == ["lm", "source", "method"]
    assert {"domain", "prompt_id", "candidate_id", "response", "reward"} <= set(chosen)
    assert len(chosen) == 5 * 2
    assert responses_to(chosen, "q", "lm", "a")["response"].tolist() == ["q0", "q2", "q1", "q0"]


def test_what_leaving_out_empties_gives(candidates):
    """By hand: of prompt p's 3, 6, 9 the first is empty, so 7.5 instead of 6; q's 0, 3, 0 are all empty, so 1 either way."""
    candidates.loc[candidates["retriever"] == "random", "response"] = ["", "p1", "p2", " ", "", "\n"]
    found = empties(candidates)
    assert list(found)[:6] == ["lm", "source", "retriever", "share empty", "ICL over all", "ICL over non-empty"]
    assert found[["lm", "source", "retriever"]].values.tolist() == [["lm", "a", "random"], ["lm", "a", "R"]]
    assert found["share empty"].tolist() == [4 / 6, 0]
    assert found["ICL over all"].tolist() == [3.5, 35]
    assert found["ICL over non-empty"].tolist() == [4.25, 35]
    assert found["n"].tolist() == [2, 2]
    assert found["difference [95 % interval]"].str.split(" ").str[0].tolist() == ["0.75", "0.00"]
    random = candidates[candidates["retriever"] == "random"].assign(domain=["one"] * 3 + ["two"] * 3)
    assert empties(random)["ICL over non-empty"].tolist() == [4.25], "the mean of the domains"


def test_the_reward_changes_no_response(given):
    """Shuffling the reward leaves what is chosen as it was."""

    class Shuffled(Length):
        def score(self, prompts, responses):
            return np.random.default_rng(5).permutation(super().score(prompts, responses))

    candidates = sample_candidates(*given)
    a, b = (chosen_responses(with_rewards(candidates, reward=reward)) for reward in (Length(), Shuffled()))
    assert a["response"].tolist() == b["response"].tolist()
    assert a["reward"].tolist() != b["reward"].tolist()


def test_rewards_of_the_sources(pairs):
    data = {"raw": PreferenceSet("x", "local", "raw", tuple(pairs * 5), (), (), {}, "0")}
    table = source_rewards(data, ["helpful"], Length()).set_index("side")
    assert table["n"].tolist() == [20, 20]
    assert table.loc["rejected", "mean"] == len("No idea.")
    assert table.loc["chosen", "low"] < np.mean([len(p.chosen) for p in pairs[:4]]) < table.loc["chosen", "high"]
    with pytest.raises(InputError, match="no demonstrations of raw for rare; leave out"):
        source_rewards(data, ["helpful", "rare"], Length())
