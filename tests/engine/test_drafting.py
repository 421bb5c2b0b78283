"""Drafts: guesses by hand, how many are worth computing, and the same samples whatever is guessed."""

import random
from itertools import product

import numpy as np
import pytest
from conftest import save_tiny_lm

import icdpo_nb as nb
from icdpo_nb.engine import decoding, drafting, rows
from icdpo_nb.engine.drafting import PASS, READ, DraftModel, best_drafts
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

PROTOCOL = RECOMMENDED.but(max_new_tokens=32)
CONTEXTS = [f"Human: Tell me about {'very ' * (3 * i % 7)}big number {i}.\n\nAssistant:" for i in range(8)]


@pytest.fixture
def passes(monkeypatch):
    """The rows and the tokens of all decoding steps."""
    sizes, run = [], decoding.Pool._pass

    def counted(pool, step, used, cells):
        sizes.append((len(pool.rows), len(cells)))
        return run(pool, step, used, cells)

    monkeypatch.setattr(decoding.Pool, "_pass", counted)
    return sizes


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


# ------------------------------------------------------------ numbers


def cost(live, drafts, attention) -> float:
    """Of a step, in tokens."""
    cells = max(n + d for n, d in zip(live, drafts, strict=True))
    return PASS + sum(live) + sum(drafts) + attention * len(live) * (cells + READ)


def test_numbers_by_hand():
    assert best_drafts([1, 1], [[], []], 0.5) == [0, 0]
    none, one, two = (cost([1, 1], drafts, 0.5) for drafts in ([0, 0], [1, 0], [1, 1]))
    assert (none, one, two) == (33, 35, 36)
    assert best_drafts([1, 1], [[0.9], [0.9]], 0.5) == [1, 1], "3.8 / 36 > 2 / 33"
    assert best_drafts([1, 1], [[0.05], []], 0.5) == [0, 0], "2.05 / 35 < 2 / 33"
    assert best_drafts([1, 1], [[0.1], []], 0) == [1, 0], "2.1 / 23 > 2 / 22, where attention costs nothing"
    assert best_drafts([3, 1], [[0.15], [0.2, 0.15]], 0.5) == [0, 2], "the second row has cells in any case"
    assert best_drafts([1, 1], [[0.9, 0.9, 0.01], [0.01]], 0.5) == [2, 0]


def test_nothing_yields_more_for_its_cost():
    rng = random.Random(0)
    for _ in range(200):
        live = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
        chances = [sorted((rng.random() ** 2 for _ in range(rng.randint(0, 4))), reverse=True) for _ in live]
        attention = rng.choice([0, 0.1, 1, 5])

        def rate(drafts, live=live, chances=chances, attention=attention):
            gained = sum(sum(each[:n]) for each, n in zip(chances, drafts, strict=True))
            return (sum(live) + gained) / cost(live, drafts, attention)

        best = max(map(rate, product(*(range(len(each) + 1) for each in chances))))
        assert rate(best_drafts(live, chances, attention)) == pytest.approx(best, rel=1e-12)


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
        every, none = 4 * 3 * (1 + drafting.MOST), 4 * 3
        assert max(tokens for _, tokens in passes) == (none if chance < 0.5 else min(every, batch_tokens))
        assert all(tokens <= max(batch_tokens, 3 * rows) for rows, tokens in passes)
    assert max(before for _, _, before, _ in yielded) < PROTOCOL.max_new_tokens - 1
