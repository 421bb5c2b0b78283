"""A store with another one upstream: what that one has is not computed, and what is computed goes there first."""

import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.store.store import Store
from icdpo_nb.store.upstream import UPSTREAM, Upstream, answering
from icdpo_nb.sweeps.hub import Hub


@pytest.fixture
def head(tmp_path):
    """The store upstream, which answers two stores below it at a socket each, as a sweep's hub does."""
    hub = Hub(str(tmp_path / "head"))
    with ExitStack() as open_sockets:
        for name in "ab":
            answer = partial(lambda attempt, what, *about: getattr(hub, what)(attempt, *about), name)
            open_sockets.enter_context(answering(tmp_path / f"socket {name}", answer))
        yield hub.store


def below(tmp_path, name: str, monkeypatch) -> Store:
    """The store a or b, with the other one upstream."""
    with monkeypatch.context() as patch:
        patch.setenv(UPSTREAM, str(tmp_path / f"socket {name}"))
        return Store(tmp_path / name)


def doubles(store: Store, items: list[int], log: list[int]) -> list[int]:
    def run(indices):
        log.extend(items[i] for i in indices)
        return [2 * items[i] for i in indices]

    return store.compute("double", {}, items, run)


def test_what_one_store_computed_another_finds_upstream(head, tmp_path, monkeypatch):
    a, b = (below(tmp_path, name, monkeypatch) for name in "ab")
    log = []
    assert doubles(a, [1, 2, 3], log) == [2, 4, 6]
    assert doubles(b, [2, 3, 4], log) == [4, 6, 8]
    assert log == [1, 2, 3, 4]
    assert doubles(head, [1, 2, 3, 4], []) == [2, 4, 6, 8]
    assert head.file.db.execute("SELECT COUNT(*) FROM claims").fetchone() == (0,)
    assert [stage["results"] for stage in b.stages()] == [3], "it keeps what it found"


def test_costs_come_along(head, tmp_path, monkeypatch):
    class Meter:
        def __init__(self):
            self.used = {}

        def start(self):
            pass

        def spent(self):
            return {"tokens": 6}

    a, b = (below(tmp_path, name, monkeypatch) for name in "ab")
    a.compute("s", {}, ["x", "y"], lambda indices: indices, meter=Meter())
    found = Meter()
    b.compute("s", {}, ["x", "y"], lambda indices: pytest.fail("computed again"), meter=found)
    assert [cost["tokens"] for cost in found.used.values()] == [3.0, 3.0]


def test_what_another_computes_is_awaited(head, tmp_path, monkeypatch):
    """The claim is upstream's, so a store elsewhere waits for the result, and does not compute it."""
    a, b = (below(tmp_path, name, monkeypatch) for name in "ab")
    log, begun, go_on = [], threading.Event(), threading.Event()

    def slow(indices):
        begun.set()
        go_on.wait(10)
        return [0 for _ in indices]

    first = threading.Thread(target=lambda: a.compute("double", {}, [7], slow))
    first.start()
    begun.wait(10)
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.extend(doubles(b, [7, 8], log)))
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

    with (
        answering(tmp_path / "socket a", broken),
        pytest.raises(InputError, match=r"the store of the sweep cannot be used \(no space left\)"),
    ):
        doubles(below(tmp_path, "a", monkeypatch), [1], [])
