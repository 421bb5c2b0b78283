"""Selection headroom by hand, and the best of n against all subsets written out."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st
from parts import made

from icdpo_nb.analyses.headroom import (
    best_of_n,
    best_of_n_curves,
    captured,
    headroom_sentence,
    headroom_table,
    rule_choices,
)
from icdpo_nb.analyses.sampling import with_origin
from icdpo_nb.common.errors import InputError

POOL = made([[3, 6, 0], [2, 2, 8]], [[1, 3, 2], [5, 5, 4]], [[9, 1, 1], [0, 1, 2]]).assign(
    ICL=[-1.0, -2, -3, -3, -2, -1], n_tokens=[1, 6, 1, 1, 5, 1]
)


@pytest.fixture
def pool():
    return with_origin(POOL, "lm", "a", "random")


def test_what_each_rule_chooses(pool):
    found = rule_choices(pool)
    rewards = found.groupby("method", sort=False)["reward"].apply(list).to_dict()
    assert rewards == {
        "random": [3, 4], "first": [3, 2], "π* alone": [3, 8], "S": [6, 2], "Ŝ": [3, 8],
        "S per token": [0, 2], "Ŝ per token": [3, 8], "oracle": [6, 8], "worst": [0, 2],
    }  # fmt: skip
    s = found[found["method"] == "S"]
    assert s[["gain", "headroom", "regret", "best", "tied"]].values.tolist() == [[3, 3, 0, 1, 0], [-2, 4, 6, 0, 1]]
    assert found.loc[found["method"] == "random", "best"].tolist() == pytest.approx([1 / 3, 1 / 3])


def test_shares_by_hand(pool):
    """Gains 3 and -2 of 3 and 4: one seventh, whatever the single prompts' shares."""
    shares = captured(rule_choices(pool)).set_index("method")["mean"]
    assert shares["S"] == pytest.approx(1 / 7)
    assert shares["oracle"] == 1
    assert shares["random"] == 0
    assert shares["worst"] == pytest.approx(-5 / 7)


def test_a_teacher_and_a_reward_model_where_there_are_some(pool):
    scored = pool.assign(teacher=[0, 0, 1, 0, 1, 0], rm=[np.nan, 1, 2, 3, 4, 5])
    found = set(rule_choices(scored)["method"])
    assert "teacher" in found
    assert "reward model" not in found, "it is not known for every candidate"


def test_an_empty_response_is_never_the_best_per_token(pool):
    emptied = pool.assign(S=[-np.inf, -9, -8, 1, 2, 3], response=["", "b", "c", "d", "e", "f"], n_tokens=[0, 1, 1, 1, 1, 1])
    found = rule_choices(emptied, ["S", "S per token"])
    assert found["reward"].tolist() == [0, 8, 0, 8]


def test_pools_of_unequal_size_are_refused(pool):
    with pytest.raises(InputError, match="same number of candidates"):
        rule_choices(pool.iloc[1:])


def many(n_prompts: int = 60, n: int = 4, seed: int = 0) -> pd.DataFrame:
    """A pool in which S follows the reward, with noise, and Ŝ does not."""
    rng = np.random.default_rng(seed)
    reward = rng.integers(0, 5, (n_prompts, n)).astype(float)
    rows = [(f"p{i}", "one" if i % 2 else "two", j, reward[i, j]) for i in range(n_prompts) for j in range(n)]
    table = pd.DataFrame(rows, columns=["prompt_id", "domain", "candidate_id", "reward"])
    scores = {"S": table["reward"] + rng.normal(0, 1, len(table)), "S_hat": rng.normal(0, 1, len(table)), "ICL": 0.0}
    return with_origin(table.assign(response="y", n_tokens=3, **scores), "lm", "a", "random")


def test_the_tables_and_the_sentence():
    choices = rule_choices(many())
    shares = captured(choices)
    by_rule = shares.set_index("method")
    assert by_rule.loc["S", "low"] > 0.3
    assert by_rule.loc["Ŝ", "low"] < 0 < by_rule.loc["Ŝ", "high"]
    assert by_rule.loc["S"].tolist() == by_rule.loc["S per token"].tolist(), "all are of one length"
    assert (shares["domain"] == "total").all()
    table = headroom_table(choices, shares).set_index("choice by")
    assert table.loc["π* alone", "tied"] == "100%"
    assert table.loc["oracle", "share of headroom"] == "–"
    assert table.loc["oracle", "picks the best"] == "100%"
    said = headroom_sentence(shares)
    mean, low, high = (f"{100 * by_rule.loc['S', c]:.0f} %" for c in ("mean", "low", "high"))
    assert said.startswith(
        f"Of what the best choice among the same candidates would gain over a random one, S captures {mean} "
        f"(95 % interval {low} to {high}) and Ŝ captures "
    )
    both = pd.concat([shares, shares.assign(lm="other", mean=0.25, low=-0.1)])
    assert f"S captures 25 % to {mean} (1 of 2 intervals above 0)" in headroom_sentence(both)
    below = shares[shares["method"] == "S"].assign(mean=-0.001, low=-0.204, high=0.3)
    assert "S captures 0 % (95 % interval −20 % to" in headroom_sentence(below)


def test_without_headroom_there_is_no_share():
    shares = captured(rule_choices(many().assign(reward=2.0)))
    assert shares["mean"].isna().all()
    assert headroom_sentence(shares).startswith("All candidates of a prompt have the same reward")


# ---------------------------------------------------------------- best of n

POOLS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.0, 3.0]), min_size=n, max_size=n),
        st.lists(st.integers(-5, 5).map(float), min_size=n, max_size=n),
    )
)


@few(200)
@given(POOLS)
def test_the_closed_form_is_all_subsets_written_out(pool):
    """With ties, which go to the first: as `select` does in each subset."""
    scores, rewards = map(np.array, pool)
    n = len(scores)
    found = best_of_n(scores[None], rewards[None])[0]
    for size in range(1, n + 1):
        every = [rewards[list(subset)][np.argmax(scores[list(subset)])] for subset in combinations(range(n), size)]
        assert found[size - 1] == pytest.approx(np.mean(every), abs=1e-12)


def test_the_ends_of_a_curve_are_a_random_choice_and_the_choice():
    pool = many(n=5)
    choices = rule_choices(pool).groupby("method")["reward"].mean()
    curves = best_of_n_curves(pool, totals="micro")
    total = curves[curves["domain"] == "total"]
    for rule in ("S", "Ŝ", "oracle"):
        line = total[total["method"] == rule].set_index("n_candidates")
        assert line.loc[1, "mean"] == pytest.approx(choices["random"])
        assert line.loc[5, "mean"] == pytest.approx(choices[rule])
    flat = total[total["method"] == "random"]["mean"]
    assert flat.nunique() == 1
    oracle = total[total["method"] == "oracle"]["mean"].to_numpy()
    assert (np.diff(oracle) > 0).all()
    assert total["low"].notna().all()
