"""Near-duplicates left out, diversity by hand, and random orders."""

import numpy as np
import pytest

from icdpo_nb.data.preferences import Preference
from icdpo_nb.retrieval.reranking import DiverseRetriever, ShuffledRetriever, WithoutNearDuplicates, near_duplicate
from icdpo_nb.retrieval.retrievers import BM25Retriever, RandomRetriever

TEXTS = ["boil the rice slowly", "Boil the rice, slowly!", "boil pasta", "fly a kite", "feed a cat", "feed a dog"]
SUPPORT = tuple(Preference(str(i), "all", f"Human: {text}", "yes", "no") for i, text in enumerate(TEXTS))


def ids(found) -> list[list[str]]:
    return [[d.prompt_id for d in ds] for ds in found]


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [
        ("Human: Boil rice!", "human boil, rice", True),
        ("one two three four five six seven eight nine", "one two three four five six seven eight nine ten", True),  # 9 of 10
        ("one two three four five six seven eight", "one two three four five six seven eight nine", False),  # 8 of 9
        ("", "", True),
        ("a", "", False),
    ],
)
def test_near_duplicates_by_hand(a, b, near):
    assert near_duplicate(a, b) is near
    assert near_duplicate(b, a) is near


def test_near_duplicates_give_way_to_the_next_best():
    bm25 = BM25Retriever(SUPPORT)
    asked = ["Human: boil the rice slowly", "Human: fly a kite and a plane"]
    assert set(ids(bm25.retrieve(asked, 2))[0]) == {"0", "1"}
    found = ids(WithoutNearDuplicates(bm25).retrieve(asked, 2))
    assert found[0] == [i for i in ids(bm25.retrieve(asked[:1], 6))[0] if i not in ("0", "1")][:2]
    assert found[1] == ids(bm25.retrieve(asked, 2))[1], "what has no near-duplicate stays as it was"
    assert ids(WithoutNearDuplicates(bm25).retrieve(asked[:1], 6))[0] == ids(bm25.retrieve(asked[:1], 6))[0][2:], (
        "no more there"
    )


def test_random_demonstrations_stay_where_no_near_duplicate_is_among_them():
    rng, asked = RandomRetriever(SUPPORT, 0), [f"Human: other {i}" for i in range(20)]
    assert ids(WithoutNearDuplicates(rng).retrieve(asked, 3)) == ids(rng.retrieve(asked, 3))
    same = [f"Human: boil the rice slowly {'!' * i}" for i in range(20)]
    for found in ids(WithoutNearDuplicates(rng).retrieve(same, 3)):
        assert len(found) == len(set(found) - {"0", "1"}) == 3


class Plane:
    """Unit vectors by name."""

    VECTORS = {"x": (1.0, 0.0), "a": (0.8, 0.6), "b": (0.79, 0.613), "c": (0.6, -0.8)}

    def __call__(self, texts):
        return np.array([self.VECTORS[t] for t in texts], np.float32)

    def keep(self, texts):
        pass


class All:
    """Returns its support in order."""

    support = tuple(Preference(name, "all", name, "yes", "no") for name in "abc")

    def retrieve(self, prompts, k):
        return [list(self.support[:k]) for _ in prompts]


@pytest.mark.parametrize(
    ("weight", "k", "found"),
    [
        (0.0, 2, ["a", "b"]),
        (0.5, 2, ["a", "c"]),  # b is nearly a: 0.395 - 0.5 · 0.9998 = -0.10; c: 0.3 - 0.5 · 0.0 = 0.3
        (0.5, 3, ["a", "b", "c"]),  # most similar first
        (1.0, 2, ["a", "c"]),
    ],
)
def test_maximal_marginal_relevance_by_hand(weight, k, found):
    assert ids(DiverseRetriever(All(), Plane(), weight).retrieve(["x"], k)) == [found]


def test_a_random_order_depends_on_seed_and_prompt_alone():
    asked = [f"Human: question {i}" for i in range(40)]
    bm25 = BM25Retriever(SUPPORT)
    plain, found = ids(bm25.retrieve(asked, 3)), ids(ShuffledRetriever(bm25, 0).retrieve(asked, 3))
    assert all(sorted(a) == sorted(b) for a, b in zip(plain, found, strict=True))
    assert plain != found
    assert len({tuple(f) for f in found}) == 6, "all orders occur"
    assert ids(ShuffledRetriever(bm25, 0).retrieve(asked[::-1], 3)) == found[::-1]
    assert ids(ShuffledRetriever(bm25, 1).retrieve(asked, 3)) != found
