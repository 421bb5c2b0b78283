"""BM25's index: equal to rank-bm25's scores, and kept for large sets."""

import random

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from icdpo_nb.retrieval import bm25
from icdpo_nb.retrieval.bm25 import bm25_index, words


def texts(n: int, seed: int) -> list[str]:
    """Texts of 1 to 45 words from a small, uneven vocabulary; one word is in more than half of them."""
    rng = random.Random(seed)
    vocabulary = [f"w{int(rng.paretovariate(0.7))}" for _ in range(300)]
    return [" ".join([*rng.choices(vocabulary, k=rng.randint(1, 45)), *["the"] * (rng.random() < 0.8)]) for _ in range(n)]


@pytest.mark.parametrize("window", [1, 4, 30, 100])
def test_scores_equal_those_of_rank_bm25(window):
    corpus, queries = texts(400, 0), [words(t)[-window:] for t in [*texts(50, 1), "the", "unknown", "", "the the w1"]]
    oracle = BM25Okapi([words(t)[-window:] for t in corpus])
    found = bm25_index(corpus, window, words).scores(queries)
    np.testing.assert_allclose(found, [oracle.get_scores(q) for q in queries], atol=1e-9, rtol=0)


def test_texts_without_a_word_have_no_score():
    assert bm25_index(["", "?", "a b"], 30, words).scores([["a"]]).argmax() == 2
    assert not bm25_index(["", "!"], 30, words).scores([["a"], []]).any()


class Model:
    """Has a tokenizer, as a language model has, and counts what it tokenizes."""

    fingerprint = "model 1"

    def __init__(self):
        self.n = 0

    def tokenize(self, text):
        self.n += 1
        return [len(w) for w in words(text)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path))
    monkeypatch.setattr(bm25, "KEPT_FROM", 100)
    return tmp_path / "bm25"


def scores(corpus, window, tokenize) -> np.ndarray:
    return bm25_index(corpus, window, tokenize).scores([tokenize(t) for t in texts(5, 9)])


def test_a_large_index_is_built_once(cache):
    corpus, model = texts(100, 2), Model()
    first = scores(corpus, 30, model.tokenize)
    assert model.n == 105
    again = scores(corpus, 30, model.tokenize)
    assert model.n == 110, "only the queries"
    np.testing.assert_array_equal(first, again)
    oracle = BM25Okapi([model.tokenize(t)[-30:] for t in corpus])
    np.testing.assert_allclose(again, [oracle.get_scores(model.tokenize(t)) for t in texts(5, 9)], atol=1e-9, rtol=0)
    assert len(list(cache.iterdir())) == 1, "and nothing half"


def test_texts_window_and_tokenizer_tell_indexes_apart(cache):
    corpus, model, other = texts(100, 2), Model(), Model()
    other.fingerprint = "model 2"
    cases = [(corpus, 30, words), (corpus[::-1], 30, words), (corpus, 29, words), (corpus, 30, model.tokenize),
             (corpus, 30, other.tokenize)]  # fmt: skip
    for i, case in enumerate(cases, 1):
        bm25_index(*case)
        assert len(list(cache.iterdir())) == i
    bm25_index([corpus[0][:-1], corpus[0][-1] + corpus[1], *corpus[2:]], 30, words)  # the same characters, cut elsewhere
    assert len(list(cache.iterdir())) == 6


def test_small_sets_and_unknown_tokenizers_are_not_kept(cache):
    bm25_index(texts(99, 2), 30, words)
    bm25_index(texts(100, 2), 30, lambda text: words(text)[::-1])
    assert not cache.exists()


@pytest.mark.parametrize("harm", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:900] + b"\0" + raw[901:], lambda _: b""])
def test_a_damaged_index_is_built_again(cache, harm):
    corpus, model = texts(100, 2), Model()
    first = scores(corpus, 30, model.tokenize)
    path = next(cache.iterdir())
    path.write_bytes(harm(path.read_bytes()))
    model.n = 0
    np.testing.assert_array_equal(scores(corpus, 30, model.tokenize), first)
    assert model.n == 105
    model.n = 0
    scores(corpus, 30, model.tokenize)
    assert model.n == 5, "and kept"
