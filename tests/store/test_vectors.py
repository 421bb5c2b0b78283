"""Vectors of many texts in files: found again, resumed after a kill, shared between processes, mended when damaged."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from tqdm.auto import tqdm

from icdpo_nb.common import countdown
from icdpo_nb.common.errors import InputError
from icdpo_nb.common.notes import NOTE
from icdpo_nb.store import stored
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredEmbedder
from icdpo_nb.store.vectors import VectorFiles

TEXTS = [f"text {i}" for i in range(40)]


def vector(text: str) -> list[float]:
    return [len(text), ord(text[-1]), 0.1]


class Spy:
    """Computes vectors, and notes what was asked for, a line for each text, in a file that other processes write, too."""

    def __init__(self, log, pause: float = 0):
        self.log, self.pause = log, pause

    def __call__(self, texts):
        time.sleep(self.pause)
        with open(self.log, "a") as file:
            file.write("".join(f"{t}\n" for t in texts))
        return np.array([vector(t) for t in texts], np.float32)

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture(autouse=True)
def parts_of_eight(monkeypatch):
    monkeypatch.setattr("icdpo_nb.store.vectors.PART", 8)
    monkeypatch.setattr("icdpo_nb.store.vectors.WAIT_SECONDS", 0.02)


def expected(texts) -> np.ndarray:
    return np.array([vector(t) for t in texts], np.float32)


def test_vectors_are_found_in_any_order_by_another_process_too(tmp_path):
    spy = Spy(tmp_path / "log")
    VectorFiles(tmp_path / "v").add(TEXTS[:19], spy)
    assert len(list((tmp_path / "v").iterdir())) == 3, "parts of 8, 8 and 3, and nothing else"
    files = VectorFiles(tmp_path / "v")
    assert len(files) == 19
    asked = [TEXTS[i] for i in (18, 0, 7, 8, 0)]
    np.testing.assert_array_equal(files.read(files.rows(asked)), expected(asked))
    assert files.read(files.rows(asked)).dtype == np.float32
    assert files.rows(["text 0", "other"])[1] == -1
    assert isinstance(files._parts[0], np.memmap)


def test_what_overlaps_is_not_computed_twice(tmp_path):
    spy = Spy(tmp_path / "log")
    VectorFiles(tmp_path / "v").add(TEXTS[:20], spy)
    files = VectorFiles(tmp_path / "v")
    files.add(TEXTS[5:30], spy)
    assert sorted(spy.asked()) == sorted(TEXTS[:30])
    np.testing.assert_array_equal(files.read(files.rows(TEXTS[:30])), expected(TEXTS[:30]))


def embed_all(folder, log, pause):
    tqdm.set_lock(threading.RLock())  # its own is shared by forks: killed while one holds it, all others would wait for ever
    files = VectorFiles(folder)
    files.add([t for t in TEXTS if files.rows([t])[0] < 0], Spy(log, pause))


def test_killed_in_the_middle_it_goes_on_at_the_part_it_was_in(tmp_path):
    folder, log = tmp_path / "v", tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(target=embed_all, args=(folder, log, 0.15))
    process.start()
    while len(list(folder.glob("*.npy"))) < 2:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    kept = len(list(folder.glob("*.npy")))
    assert 2 <= kept < 5, "it was killed in the middle"
    before = len(Spy(log).asked())
    embed_all(folder, log, 0)
    again = Spy(log).asked()[before:]
    assert again == TEXTS[8 * kept :], "only the parts that no file has, from the one that it was in"
    files = VectorFiles(folder)
    np.testing.assert_array_equal(files.read(files.rows(TEXTS)), expected(TEXTS))


def test_two_processes_share_the_parts(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=embed_all, args=(tmp_path / "v", tmp_path / "log", 0.1)) for _ in range(2)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
        assert p.exitcode == 0
    assert sorted(Spy(tmp_path / "log").asked()) == sorted(TEXTS), "each part was computed once"
    assert len(VectorFiles(tmp_path / "v")) == len(TEXTS)


@pytest.mark.parametrize(
    "harm", [lambda raw: raw[:-7], lambda raw: raw[:200] + bytes([raw[200] ^ 1]) + raw[201:], lambda _: b""]
)
def test_a_damaged_part_is_computed_again(tmp_path, harm):
    spy = Spy(tmp_path / "log")
    VectorFiles(tmp_path / "v").add(TEXTS, spy)
    victim = sorted((tmp_path / "v").glob("*.npy"))[2]
    victim.write_bytes(harm(victim.read_bytes()))
    with pytest.warns(UserWarning, match=f"{victim.name} is damaged"):
        files = VectorFiles(tmp_path / "v")
    assert (len(files), files.damaged) == (32, 1)
    missing = [t for t in TEXTS if files.rows([t])[0] < 0]
    files.add(missing, spy)
    assert spy.asked()[40:] == missing
    np.testing.assert_array_equal(files.read(files.rows(TEXTS)), expected(TEXTS))


def test_no_place_to_write_is_one_sentence(tmp_path):
    (tmp_path / "v").write_text("a file")
    with pytest.raises(InputError, match="^vectors cannot be written to .* set ICDPO_STORE to another folder$"):
        VectorFiles(tmp_path / "v").add(TEXTS, Spy(tmp_path / "log"))


def test_the_time_left_is_said(tmp_path, monkeypatch):
    """A part of eight texts takes 30 s."""
    said, now = [], [1000.0]
    monkeypatch.setenv(NOTE, str(tmp_path / "note"))
    monkeypatch.setattr(countdown.time, "monotonic", lambda: now[0])

    def compute(texts):
        said.append((tmp_path / "note").read_text())
        now[0] += 30
        return expected(texts)

    VectorFiles(tmp_path / "v").add(TEXTS, compute)
    assert said[0] == "embedding 40 texts"
    assert said[1] == "embedding texts: 8 of 40, about 2 min 00 s left"
    assert said[4] == "embedding texts: 32 of 40, about 30 s left"
    assert not (tmp_path / "note").exists()


# ---------------------------------------------------------------- with a store


class Encoder:
    """An encoder of the texts above that counts them."""

    name = fingerprint = "by hand"

    def __init__(self):
        self.computed = []

    def vectors(self, texts):
        self.computed += texts
        return expected(texts)

    def warn_of_cut(self, texts):
        pass

    def silence(self):
        self.silent = True

    def n_cut(self, texts):
        self.computed += texts
        return sum(t.endswith("7") for t in texts)

    def cut_note(self, texts, n_cut):
        return f"{n_cut(list(texts))} texts are cut"


@pytest.fixture
def many_is_ten(monkeypatch):
    monkeypatch.setattr(stored, "MANY", 10)


def test_many_texts_go_to_files_and_few_to_the_store(tmp_path, many_is_ten):
    encoder = Encoder()
    embed = StoredEmbedder(encoder, Store(tmp_path))
    np.testing.assert_array_equal(embed(TEXTS[:5]), expected(TEXTS[:5]))
    assert not (tmp_path / "vectors").exists()
    embed.keep(TEXTS)
    files = VectorFiles(next((tmp_path / "vectors").iterdir()))
    assert len(files) == 35, "the first five stay where they are"
    assert sorted(encoder.computed) == sorted(TEXTS), "each once"
    asked = [TEXTS[i] for i in (39, 0, 20, 4, 0, 5)]
    np.testing.assert_array_equal(embed(asked), expected(asked))
    again = Encoder()
    np.testing.assert_array_equal(StoredEmbedder(again, Store(tmp_path))(TEXTS[::-1]), expected(TEXTS[::-1]))
    assert not again.computed


def test_stored_vectors_stay_valid_for_large_sets(tmp_path, many_is_ten, monkeypatch):
    """Those of a store that is older than the files, however many."""
    monkeypatch.setattr(stored, "MANY", 1000)
    StoredEmbedder(Encoder(), Store(tmp_path))(TEXTS)
    monkeypatch.setattr(stored, "MANY", 10)
    encoder = Encoder()
    np.testing.assert_array_equal(StoredEmbedder(encoder, Store(tmp_path))(TEXTS), expected(TEXTS))
    assert not encoder.computed
    assert not (tmp_path / "vectors").exists()


def test_another_encoder_has_files_of_its_own(tmp_path, many_is_ten):
    first, second = Encoder(), Encoder()
    second.fingerprint = "another"
    for encoder in (first, second):
        StoredEmbedder(encoder, Store(tmp_path))(TEXTS)
        assert len(encoder.computed) == 40


def test_what_is_counted_of_many_texts_is_kept(tmp_path, many_is_ten):
    """In parts, so that other texts at the end change the last part alone."""
    encoder = Encoder()
    for _ in range(2):
        assert StoredEmbedder(encoder, Store(tmp_path)).cut_note(TEXTS[:35]) == "3 texts are cut"
    assert encoder.computed == TEXTS[:35]
    assert StoredEmbedder(encoder, Store(tmp_path)).cut_note(TEXTS) == "4 texts are cut"
    assert encoder.computed[35:] == TEXTS[30:]


def test_token_counts_of_many_texts_are_kept(tmp_path, many_is_ten, tiny_lm, monkeypatch):
    asked = []
    counted = tiny_lm.count_tokens
    monkeypatch.setattr(tiny_lm, "count_tokens", lambda texts: asked.append(list(texts)) or counted(texts))
    lm = stored.StoredLM(tiny_lm, Store(tmp_path))
    for _ in range(2):
        assert lm.count_tokens(TEXTS[:25]) == [len(t) for t in TEXTS[:25]], "a token is a character"
        assert lm.count_tokens(TEXTS[:3]) == [6, 6, 6]
    assert asked == [TEXTS[:10], TEXTS[10:20], TEXTS[20:25], TEXTS[:3], TEXTS[:3]], "few are not worth it"


def test_the_store_lists_verifies_and_removes_them(tmp_path, many_is_ten):
    StoredEmbedder(Encoder(), Store(tmp_path))(TEXTS)
    store = Store(tmp_path)
    listed = [s for s in store.stages() if s["stage"] == "vectors"]
    assert [(s["results"], s["bytes"] > 40 * 12) for s in listed] == [(40, True)]
    assert store.verify() == (40, 0)
    victim = next((tmp_path / "vectors").glob("*/*.npy"))
    victim.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.verify() == (33, 1)
    assert store.clean() == 32
    assert not list((tmp_path / "vectors").iterdir())
