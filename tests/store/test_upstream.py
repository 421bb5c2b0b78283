"""A store with another one upstream: what that one has is not computed, and what is computed goes there first."""

import threading
import time

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.store.store import Store
from icdpo_nb.store.upstream import UPSTREAM, Upstream, answering


@pytest.fixture
def head(tmp_path):
    """The store upstream, by the address where it answers."""
    store = Store(tmp_path / "head")
    answers = {"read": store.rows, "add": lambda rows: store.add(tuples(rows)) and None}
    answers |= {"claim": store.claim, "release": store.release}
    with answering(tmp_path / "socket", lambda what, *about: answers[what](*about)):
        yield store, str(tmp_path / "socket")


def tuples(rows: dict) -> dict:
    return {table: [tuple(row) for row in entries] for table, entries in rows.items()}


def below(head, folder, monkeypatch) -> Store:
    """A store in a folder, with the other one upstream."""
    with monkeypatch.context() as patch:
        patch.setenv(UPSTREAM, head[1])
        return Store(folder)


def doubles(store: Store, items: list[int], log: list[int]) -> list[int]:
    def run(indices):
        log.extend(items[i] for i in indices)
        return [2 * items[i] for i in indices]

    return store.compute("double", {}, items, run)


def test_what_one_store_computed_another_finds_upstream(head, tmp_path, monkeypatch):
    a, b = (below(head, tmp_path / name, monkeypatch) for name in "ab")
    log = []
    assert doubles(a, [1, 2, 3], log) == [2, 4, 6]
    assert doubles(b, [2, 3, 4], log) == [4, 6, 8]
    assert log == [1, 2, 3, 4]
    assert doubles(head[0], [1, 2, 3, 4], []) == [2, 4, 6, 8]
    assert head[0].file.db.execute("SELECT COUNT(*) FROM claims").fetchone() == (0,)
    assert [stage["results"] for stage in b.stages()] == [3], "it keeps what it found"


def test_costs_come_along(head, tmp_path, monkeypatch):
    class Meter:
        def __init__(self):
            self.used = {}

        def start(self):
            pass

        def spent(self):
            return {"tokens": 6}

    a, b = (below(head, tmp_path / name, monkeypatch) for name in "ab")
    a.compute("s", {}, ["x", "y"], lambda indices: indices, meter=Meter())
    found = Meter()
    b.compute("s", {}, ["x", "y"], lambda indices: pytest.fail("computed again"), meter=found)
    assert [cost["tokens"] for cost in found.used.values()] == [3.0, 3.0]


def test_what_another_computes_is_awaited(head, tmp_path, monkeypatch):
    """The claim is upstream's, so a store elsewhere waits for the result, and does not compute it."""
    a = below(head, tmp_path / "a", monkeypatch)
    log, begun, go_on = [], threading.Event(), threading.Event()

    def slow(indices):
        begun.set()
        go_on.wait(10)
        return [0 for _ in indices]

    first = threading.Thread(target=lambda: a.compute("double", {}, [7], slow))
    first.start()
    begun.wait(10)
    waiting = threading.Thread(target=lambda: found.extend(doubles(below(head, tmp_path / "b", monkeypatch), [7, 8], log)))
    found: list[int] = []
    waiting.start()
    time.sleep(0.5)
    assert log == [8], "what nobody computes is done meanwhile"
    assert not found
    go_on.set()
    first.join(10)
    waiting.join(10)
    assert (found, log) == ([0, 16], [8])


def test_a_store_upstream_that_is_gone_or_broken_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the store behind .*nowhere does not answer .*its sweep may have ended"):
        Upstream(str(tmp_path / "nowhere"))

    def broken(what, *about):
        raise OSError("no space left")

    with answering(tmp_path / "socket", broken):
        with pytest.raises(InputError, match=r"the store of the sweep cannot be used \(no space left\)"):
            doubles(below((None, str(tmp_path / "socket")), tmp_path / "a", monkeypatch), [1], [])
