"""A rehearsal counts what a run computes, and computes little of it."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import save_tiny_lm

from icdpo_nb.models.lm import load_lm
from icdpo_nb.models.tokens import Response
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.store import rehearsed_lm
from icdpo_nb.store.notes import REHEARSAL, read_notes
from icdpo_nb.store.probes import PROBED_TEXTS, spread_indices
from icdpo_nb.store.rehearsal import rehearsed
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredLM, stored

PROTOCOL = RECOMMENDED.but(max_new_tokens=10)
CONTEXTS = [f"Human: {'a longer ' * (i % 3)}question number {i}?\n\nAssistant:" for i in range(20)]


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """Rehearse; the notes so far."""
    path = tmp_path / "notes.jsonl"
    monkeypatch.setenv(REHEARSAL, str(path))
    return lambda: read_notes(path)


@pytest.fixture(params=["llama", "bloom"])
def lm(request, tmp_path):
    """A model with shared contexts, and one without."""
    return load_lm(str(save_tiny_lm(tmp_path / request.param, request.param)))


def test_tokens_are_those_of_the_engine(lm, notes):
    """The counts of all contexts, of which a few were computed, equal what the engine counts when it computes all."""
    rehearsing = rehearsed(lm)
    responses = rehearsing.sample(CONTEXTS, 2, PROTOCOL)
    assert [len(ys) for ys in responses] == [2] * len(CONTEXTS)
    rehearsing.logprobs([c + " x" for c in CONTEXTS], responses)
    sampling, scoring = notes()
    before = dict(lm.engine.work)
    lm.sample(CONTEXTS, 2, PROTOCOL)
    assert sampling.work.context == lm.engine.work["prefill"] - before["prefill"]
    before = dict(lm.engine.work)
    lm.logprobs([c + " x" for c in CONTEXTS], responses, rescore=True)
    assert scoring.work.scored == sum(lm.engine.work[k] - before.get(k, 0) for k in ("prefill", "scored"))
    assert scoring.sampled == sum(len(y.token_ids) for ys in responses for y in ys)


def test_most_contexts_are_not_computed(notes, tmp_path, monkeypatch):
    lm = load_lm(str(save_tiny_lm(tmp_path / "llama", "llama")))
    computed = []
    sample = lm.sample
    monkeypatch.setattr(lm, "sample", lambda contexts, *a, **k: computed.extend(contexts) or sample(contexts, *a, **k))
    many = [f"{c} {k}" for c in CONTEXTS for k in range(5)]
    monkeypatch.setattr(rehearsed_lm, "PROBING", 0.0)  # no more than the least
    rehearsing = rehearsed(lm)
    rehearsing.sample(many, 2, PROTOCOL)
    assert len(computed) == 3 + 12  # the first call measures a small and a large one
    rehearsing.sample([c + " again" for c in many], 2, PROTOCOL)
    assert len(computed) == 3 + 12 + 3
    rehearsing.sample([3 * c for c in many], 2, PROTOCOL)
    assert len(computed) == 3 + 12 + 3 + 3 + 12  # and so does one with longer contexts
    assert [note.items for note in notes()] == [100] * 3
    assert [len(note.measured) for note in notes()] == [2, 1, 2]
    for note in notes():
        assert 0 < sum(seconds for _, seconds in note.measured) <= note.spent
        assert all(0 < work.context < note.work.context and 0 < work.keys < note.work.keys for work, _ in note.measured)


def test_a_fast_model_is_measured_on_more_prompts(notes, tmp_path, monkeypatch):
    lm = load_lm(str(save_tiny_lm(tmp_path / "llama", "llama")))
    monkeypatch.setattr(rehearsed_lm, "PROBING", 1e9)
    computed = []
    logprobs = lm.logprobs
    monkeypatch.setattr(lm, "logprobs", lambda contexts, *a, **k: computed.append(len(contexts)) or logprobs(contexts, *a, **k))
    many = [f"{c} {k}" for c in CONTEXTS for k in range(5)]
    rehearsed(lm).logprobs(many, [[lm.encode_response(" x")] for _ in many])
    assert computed == [3, rehearsed_lm.PROBED_MOST]


def test_one_thread_computes_at_a_time(notes, tmp_path, monkeypatch):
    """What runs beside a measured call would slow it down."""
    lm = load_lm(str(save_tiny_lm(tmp_path / "llama", "llama")))
    computing, most = [], []
    logprobs = lm.logprobs

    def watched(*args, **options):
        computing.append(1)
        most.append(len(computing))
        time.sleep(0.01)
        found = logprobs(*args, **options)
        computing.pop()
        return found

    monkeypatch.setattr(lm, "logprobs", watched)
    y = lm.encode_response(" x")
    with ThreadPoolExecutor(2) as pool:
        copies = [rehearsed(lm), rehearsed(lm)]
        [*pool.map(lambda copy: copy.logprobs(CONTEXTS, [[y]] * len(CONTEXTS)), copies)]
    assert len(most) == 4
    assert max(most) == 1


def test_copies_continue_what_was_begun(notes, tmp_path):
    lm = load_lm(str(save_tiny_lm(tmp_path / "llama", "llama")))
    begun = [ys[0] for ys in lm.sample(CONTEXTS, 1, PROTOCOL.but(max_new_tokens=4, eos_scored="if_sampled"))]
    begun = [y if y.finish == "length" else Response("a", (5,), "length", logps=np.float32([-1])) for y in begun]
    for start, ys in zip(begun, rehearsed(lm).sample(CONTEXTS, 2, PROTOCOL, begun=begun), strict=True):
        assert all(y.token_ids[: len(start.token_ids)] == start.token_ids for y in ys)


def test_stored_results_cost_nothing(notes, tmp_path):
    lm, store = load_lm(str(save_tiny_lm(tmp_path / "llama", "llama"))), Store(tmp_path / "store")
    StoredLM(lm, store).sample(CONTEXTS[:5], 2, PROTOCOL)
    stored(lm, store=store).sample(CONTEXTS[:5], 2, PROTOCOL)
    assert notes() == []
    stored(lm, store=store).sample(CONTEXTS, 2, PROTOCOL)
    assert [note.items for note in notes()] == [len(CONTEXTS) - 5]


def test_an_encoder_embeds_a_few_texts(notes):
    class Encoder:
        name, seen = "counting", 0

        def vectors(self, texts):
            self.seen += len(texts)
            return np.eye(len(texts), 8, dtype=np.float32)

    encoder = Encoder()
    vectors = rehearsed(encoder).vectors([f"text {i}" for i in range(1000)])
    assert vectors.shape == (1000, 8)
    assert encoder.seen == PROBED_TEXTS + 1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1)[spread_indices(1000, 5)[1:]], 1, atol=1e-5)
    (note,) = notes()
    assert note.items == 1000
    assert note.seconds == pytest.approx(note.spent * 1000 / PROBED_TEXTS, rel=0.2)  # texts of almost one length


def test_a_model_without_weights_is_counted_alike(notes, tmp_path, monkeypatch):
    folder = save_tiny_lm(tmp_path / "llama", "llama")
    lm = load_lm(str(folder))
    (folder / "model.safetensors").unlink()
    monkeypatch.setenv("ICDPO_WITHOUT_WEIGHTS", "1")
    described = rehearsed(load_lm(str(folder)))
    assert described.device == "meta"
    responses = described.sample(CONTEXTS, 2, PROTOCOL)
    assert {len(y.token_ids) for ys in responses for y in ys} == {PROTOCOL.max_new_tokens}
    described.logprobs([c + " x" for c in CONTEXTS], responses)
    sampling, scoring = notes()
    lm.sample(CONTEXTS, 2, PROTOCOL)
    assert sampling.work.context == lm.engine.work["prefill"]
    assert sampling.measured == scoring.measured == ()  # no rate was measured
    lm.engine.work.clear()
    lm.logprobs([c + " x" for c in CONTEXTS], responses, rescore=True)
    assert scoring.work.scored == lm.engine.work["scored"] + lm.engine.work["prefill"]


def test_notes_are_lines_of_json(notes, tmp_path):
    lm = load_lm(str(save_tiny_lm(tmp_path / "llama", "llama")))
    rehearsed(lm).sample(CONTEXTS[:2], 1, PROTOCOL)
    lines = (tmp_path / "notes.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["sampling"]
