"""The embedding reward: what it can learn, and that its probabilities are Bradley-Terry's."""

import numpy as np
import pytest
from test_retrieval import TinyEmbedder

from icdpo_nb.data import Preference
from icdpo_nb.protocol import InputError
from icdpo_nb.rewards import EmbeddingReward


def make(n: int, start: int = 0) -> list[Preference]:
    """Pairs whose chosen response has the letter z."""
    return [Preference(str(i), "all", f"Human: question {i}?", f"zz fine {i} zz", f"fine {i}") for i in range(start, start + n)]


def test_it_learns_what_separates_the_pairs():
    reward = EmbeddingReward(make(40), TinyEmbedder())
    assert reward.correct(make(20, 100)).mean() == 1
    high, low = reward.score(["Human: x?"] * 2, ["zz yes zz", "yes"])
    assert high > low


def test_ties_count_half_and_sides_are_symmetric():
    reward = EmbeddingReward(make(40), TinyEmbedder())
    same = Preference("s", "all", "Human: x?", "abc", "cba")  # the same letters: the same vector
    turned = [Preference(p.prompt_id, "all", p.prompt, p.rejected, p.chosen) for p in make(5, 50)]
    assert reward.correct([same]).tolist() == [0.5]
    assert reward.correct(turned).tolist() == [0] * 5


def test_only_the_last_turn_counts():
    reward = EmbeddingReward(make(10), TinyEmbedder())
    long = "Human: zzz\n\nAssistant: zzz\n\nHuman: and?"
    np.testing.assert_allclose(reward.score([long], ["yes"]), reward.score(["Human: and?"], ["yes"]))


def test_empty_input_and_too_few_pairs():
    assert EmbeddingReward(make(3), TinyEmbedder()).score([], []).shape == (0,)
    with pytest.raises(InputError, match="at least 2 preference pairs"):
        EmbeddingReward(make(1), TinyEmbedder())
