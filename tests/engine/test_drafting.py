"""Drafts: guesses by hand, the worth of a step's places by hand, and the same samples whatever is guessed."""

import math
import random

import numpy as np
import pytest
from conftest import save_tiny_lm

import icdpo_nb as nb
from icdpo_nb.engine import decoding, drafting, rows
from icdpo_nb.engine.drafting import KEYS, PASS, DraftModel, best_places
from icdpo_nb.engine.invariance import QUERIES, up
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

PROTOCOL = RECOMMENDED.but(max_new_tokens=32)
CONTEXTS = [f"Human: Tell me about {'very ' * (3 * i % 7)}big number {i}.\n\nAssistant:" for i in range(8)]


@pytest.fixture
def passes(monkeypatch):
    """The shapes of all decoding steps, (rows, tokens)."""
    shapes, run = [], decoding.Pool._pass
    monkeypatch.setattr(decoding.Pool, "_pass", lambda pool, step, used: shapes.append(step.shape[1:]) or run(pool, step, used))
    return shapes


def without_drafts(monkeypatch, sample):
    """What `sample()` returns if nothing is guessed."""
    with monkeypatch.context() as patch:
        patch.setattr(rows, "MOST", 0)
        return sample()


def have_drafts(lm, monkeypatch) -> float:
    """Draft on any machine, and return the tolerance: none where a step's shape changes no bit."""
    lm.engine.begin()
    tolerance = 0 if lm.engine.invariant else 1e-4
    monkeypatch.setattr(lm.engine, "invariant", True)
    return tolerance


def assert_same(got, expected, tolerance):
    """The same tokens with the same log-probabilities."""
    assert [[y.token_ids for y in ys] for ys in got] == [[y.token_ids for y in ys] for ys in expected]
    for ys, zs in zip(got, expected, strict=True):
        for y, z in zip(ys, zs, strict=True):
            np.testing.assert_allclose(y.logps, z.logps, rtol=0, atol=tolerance)


# ------------------------------------------------------------ guesses


def test_the_longest_known_ngram_guesses():
    model = DraftModel()
    model.read([1, 2, 3, 4, 9, 3, 5])
    assert [token for _, token in model.guess([7, 3], 1)] == [5], "the latest follower of 3"
    assert [token for _, token in model.guess([1, 2, 3], 1)] == [4], "the only follower of 1, 2, 3"
    assert [token for _, token in model.guess([1, 2, 3], 3)] == [4, 9, 3], "guesses go on from guesses"
    assert model.guess([5], 3) == [] == model.guess([6], 3), "nothing has followed 5, and 6 is unknown"
    assert model.guess([1, 2, 3], 0) == []


def test_chances_are_those_of_guesses_of_their_kind():
    model = DraftModel()
    model.read([1, 2])
    ((chance, token),) = model.guess([1], 1)
    assert (chance, token) == (1 / 4, 2), "before any guess was checked"
    model.follow([1, 2], 1)  # right: an n-gram of one token that had been followed by it once
    model.read([5, 6])
    ((chance, token),) = model.guess([5], 1)
    assert (chance, token) == ((1 + 1) / (1 + 4), 6)
    assert model.guess([1], 1)[0][0] == 1 / 4, "1 is now followed by 2 for the second time: another kind"
    model.follow([5, 1], 1)  # wrong, and 5 begins anew with another follower
    assert model.guess([5], 1)[0] == ((1 + 1) / (2 + 4), 1)
    first, second = model.guess([5], 2)
    assert second == (first[0] * 1 / 4, 2), "right only if the one before is"


def test_what_was_not_guessed_is_no_wrong_guess():
    model = DraftModel()
    model.follow([1, 2, 3], 3)  # nothing known before
    model.read([8, 9])
    assert model.guess([8], 1) == [(1 / 4, 9)]


def test_chances_come_true():
    """Of a text whose tokens are followed by their usual follower in four of five cases."""
    rng, model, text = random.Random(0), DraftModel(), [0]
    for _ in range(6000):
        text.append((text[-1] + 1) % 50 if rng.random() < 0.8 else rng.randrange(50))
    expected = right = 0.0
    for end in range(1, len(text)):
        known = text[max(0, end - drafting.LONGEST) : end]
        for chance, token in model.guess(known, 1):
            expected, right = expected + chance, right + (token == text[end])
        model.follow([*known, text[end]], 1)
    assert right > 3000
    assert expected == pytest.approx(right, rel=0.03)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(drafting, "KEPT", 100)
    model = DraftModel()
    model.read(range(10_000))
    assert len(model.followers) <= 100 + len(drafting.ORDERS)
    assert model.guess([9998], 1)[0][1] == 9999


# ------------------------------------------------------------ places


def test_places_by_hand():
    cost = PASS / 2 + 640 / KEYS  # of a step with two rows besides its places: 42
    assert best_places([1, 1], [[], []], 640) == 1
    assert best_places([1, 1], [[0.9], [0.9]], 640) == 2, f"{(2 + 1.8) / (cost + 2)} is more than {2 / (cost + 1)}"
    assert best_places([1, 1], [[0.02], []], 640) == 1, f"{(2 + 0.02) / (cost + 2)} is less"
    assert best_places([1, 1], [[0.9, 0.9, 0.01], []], 640) == 3, "the other row is padded"
    assert best_places([3, 1], [[], [0.9, 0.8]], 640) == 3, "its places are there in any case"
    assert best_places([2, 1], [[0.5], [0.9, 0.9, 0.9]], 640) == 4


def test_a_further_place_counts_for_less_where_a_step_costs_little():
    chances = [[0.8, 0.1]] * 200
    dear, cheap = (best_places([1] * 200, chances, keys) for keys in (100 * KEYS, 0))
    assert (dear, cheap) == (3, 2)


# ------------------------------------------------------------ samples


def test_drafts_change_no_sample_and_save_steps(passes, monkeypatch):
    """The sandbox's language repeats itself; with slots for a few contexts others join as these finish."""
    data = nb.load_preferences("sandbox")
    texts = [nb.contexts(data.support[3 * i : 3 * i + 3], p.prompt)["icl"] for i, p in enumerate(nb.spread(data.test, 12))]
    lm = load_lm("sandbox-medium")
    tolerance = have_drafts(lm, monkeypatch)
    monkeypatch.setattr(lm.engine, "cache_tokens", 5000)
    lm.engine.work.clear()
    expected = without_drafts(monkeypatch, lambda: lm.sample(texts, 3, PROTOCOL, seed=3))
    work, steps = dict(lm.engine.work), len(passes)
    passes.clear()
    assert_same(lm.sample(texts, 3, PROTOCOL, seed=3), expected, tolerance)
    assert len(passes) < 0.7 * steps
    assert lm.engine.work == {kind: 2 * tokens for kind, tokens in work.items()}, "wrong drafts are not counted"


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3", "gpt2", "gpt_oss", "deepseek_v2"])
def test_right_and_wrong_guesses_change_no_sample(architecture, tmp_path, passes, monkeypatch):
    """With sliding windows, learned positions, sinks and compressed keys; seven of ten guesses are right."""
    lm = load_lm(str(save_tiny_lm(tmp_path, architecture)))
    tolerance = have_drafts(lm, monkeypatch)
    longest = max(len(lm.encode_context(c)) for c in CONTEXTS)
    monkeypatch.setattr(lm.engine, "cache_tokens", 4 * (longest + 3 * PROTOCOL.max_new_tokens))
    expected = without_drafts(monkeypatch, lambda: lm.sample(CONTEXTS, 3, PROTOCOL))
    steps, rng, made = len(passes), random.Random(0), []

    def guesses(row, model, steps):
        found = []
        for place, j in enumerate(row.live):
            known = len(row.sampled[j].ids)
            coming = expected[row.index][j].token_ids[known : known + min(drafting.MOST, steps - known - 1)]
            for k, token in enumerate(coming, 1):
                right = rng.random() < 0.7
                found.append((0.9**k, place, token if right else (token + 1) % 50))
                made.append(right)
        return sorted(found, key=lambda g: -g[0])

    passes.clear()
    with monkeypatch.context() as patch:
        patch.setattr(rows.Row, "guesses", guesses)
        assert_same(lm.sample(CONTEXTS, 3, PROTOCOL), expected, tolerance)
    assert 0 < sum(made) < len(made)
    assert len(passes) < 0.8 * steps


@pytest.mark.parametrize("chance", [0.99, 1e-9])
def test_drafts_stay_within_the_responses_and_the_memory_of_a_pass(chance, tmp_path, passes, monkeypatch):
    """A guess is never computed in the place of a last token, since nothing follows it, nor beyond the tokens of a pass."""
    lm = load_lm(str(save_tiny_lm(tmp_path, "llama")))
    tolerance = have_drafts(lm, monkeypatch)
    expected = without_drafts(monkeypatch, lambda: lm.sample(CONTEXTS[:4], 3, PROTOCOL))
    monkeypatch.setattr(DraftModel, "guess", lambda model, ids, most: [(chance**k, 7) for k in range(1, most + 1)])
    full, yielded = rows.Row.fed, []
    monkeypatch.setattr(rows.Row, "fed", lambda row: yielded.extend(fed := [*full(row)]) or iter(fed))
    for batch_tokens in (lm.engine.batch_tokens, 20):
        monkeypatch.setattr(lm.engine, "batch_tokens", batch_tokens)
        passes.clear()
        assert_same(lm.sample(CONTEXTS[:4], 3, PROTOCOL), expected, tolerance)
        most = max(tokens for _, tokens in passes)
        assert most == (
            up(3, QUERIES) if chance < 0.5 else up(5, QUERIES) if batch_tokens == 20 else up(3 * (1 + drafting.MOST), QUERIES)
        )
        assert all(math.prod(shape) <= max(batch_tokens + QUERIES * shape[0], 3 * shape[0]) for shape in passes)
    assert max(before for _, _, before, _ in yielded) < PROTOCOL.max_new_tokens - 1
