"""Recorded decoding steps: the same samples as without, on the CPU with a recording made by hand, on a GPU with CUDA graphs."""

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm

import icdpo_nb.engine.decoding
from icdpo_nb.engine.graphs import Graphs, rounded
from icdpo_nb.engine.invariance import ROWS, key_width, up
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

CONTEXTS = [f"Human: {'Tell me a story. ' * k}\n\nAssistant:" for k in (1, 9, 3, 20, 5, 14, 2)]
PROTOCOL = RECOMMENDED.but(max_new_tokens=40)


class Recorder:
    """Records by hand: a replay runs the step again, from its first place into its first result."""

    def __init__(self):
        self.shapes, self.replays = [], 0

    def __call__(self, run, memory):
        result = torch.full_like(run(), float("nan"))  # recording computes nothing
        self.shapes.append(tuple(result.shape[:2]))

        def replay():
            self.replays += 1
            result.copy_(run())

        return replay, result


@pytest.fixture
def lm(tmp_path):
    """A tiny Llama with few slots, so that contexts join as others finish."""
    lm = load_lm(str(save_tiny_lm(tmp_path)), device="cpu")
    lm.engine.begin()
    longest = max(len(lm.encode_context(c)) for c in CONTEXTS)
    lm.engine.cache_tokens = 4 * key_width(up(longest + 3 * PROTOCOL.max_new_tokens, ROWS), lm.engine.device)
    return lm


def recorded_by(record, lm, monkeypatch):
    """Have pools record their steps with `record`, on a CPU too."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(icdpo_nb.engine.decoding, "Graphs", lambda engine: Graphs(engine, record))
    monkeypatch.setattr(lm.engine, "invariant", False)  # as on a GPU


def assert_same(got, expected):
    """The same tokens, with log-probabilities up to rounding."""
    assert [[y.token_ids for y in ys] for ys in got] == [[y.token_ids for y in ys] for ys in expected]
    for ys, zs in zip(got, expected, strict=True):
        for y, z in zip(ys, zs, strict=True):
            np.testing.assert_allclose(y.logps, z.logps, atol=1e-5)


def test_recorded_steps_give_the_same_samples(lm, monkeypatch):
    expected, decoded = lm.sample(CONTEXTS, 3, PROTOCOL, seed=2), lm.engine.work["decode"]
    recorder = Recorder()
    recorded_by(recorder, lm, monkeypatch)
    monkeypatch.setattr(lm.engine, "records", True)
    assert_same(lm.sample(CONTEXTS, 3, PROTOCOL, seed=2), expected)
    assert lm.engine.work["decode"] == 2 * decoded, "padding is not counted"
    assert recorder.replays > 2 * len(recorder.shapes), "most steps are replays"
    rows, tokens = zip(*recorder.shapes, strict=True)
    assert (max(rows), set(rows) <= {1, 2, 4}, set(tokens) <= {1, 2, 3}) == (4, True, True)


def test_a_model_that_cannot_be_recorded_runs_as_it_is(lm, monkeypatch):
    expected, tried = lm.sample(CONTEXTS, 3, PROTOCOL), []

    def refuse(run, memory):
        tried.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    recorded_by(refuse, lm, monkeypatch)
    monkeypatch.setattr(lm.engine, "records", True)
    assert_same(lm.sample(CONTEXTS, 3, PROTOCOL), expected)
    assert (len(tried), lm.engine.records) == (1, False), "tried once, and by no later pool"


def test_a_shape_is_recorded_when_it_comes_again(lm, monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(lm.engine, "records", True)
    recorder = Recorder()
    graphs = Graphs(lm.engine, recorder)
    for k, (value, shape) in enumerate([(1, (4, 1, 2)), (2, (4, 1, 2)), (3, (4, 1, 1)), (4, (4, 1, 2))]):
        result = graphs(lambda step, used: (step[0] + used).float(), torch.full(shape, value), 64)
        assert torch.equal(result, torch.full(shape[1:], value + 64.0))
        assert (len(recorder.shapes), recorder.replays) == [(0, 0), (1, 1), (1, 1), (1, 2)][k]


def test_rounding_by_hand():
    assert [rounded(size, 16) for size in (1, 2, 3, 5, 9, 16)] == [1, 2, 4, 8, 16, 16]
    assert rounded(33, 40) == 40


def test_a_cpu_records_nothing(lm):
    assert not lm.engine.records
