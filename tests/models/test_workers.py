"""Workers: chunks are done once, by whichever is free, and again by another if a worker dies. No model is needed.

What starts Ray is slow; `test_replicas.py` has a fast test with a worker that is killed.
"""

import os
import signal
import time
import warnings
from collections import Counter
from functools import partial

import pandas as pd
import pytest
from parts import two_workers

from icdpo_nb.analyses.cost import cost_facts
from icdpo_nb.common.errors import InputError
from icdpo_nb.models import crew as crew_module
from icdpo_nb.models import workers as module
from icdpo_nb.models.crew import Part
from icdpo_nb.models.workers import Workers, account, account_text, choose_workers, threads, workers


@pytest.fixture(scope="module")
def two():
    with two_workers(__name__) as made:
        yield made


@pytest.fixture
def nobody(monkeypatch):
    """This process has no workers, before and after."""
    monkeypatch.setattr(module, "_workers", None)
    monkeypatch.setattr(module, "_chosen", 1)
    monkeypatch.delenv("ICDPO_WORKERS", raising=False)


def note(folder, k: int) -> None:
    """Note in a file of a folder that chunk k was begun, and by which process."""
    with open(folder / f"{k}", "a") as file:
        file.write(f"{os.getpid()}\n")


def wait_until(true) -> None:
    """Wait until true() is true, at most two minutes."""
    ends = time.monotonic() + 120
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)


def square(copy: list, folder, k: int) -> int:
    """The toy part is a list, which each copy fills."""
    note(folder, k)
    copy.append(k)
    return k * k


def square_by_both(copy: list, folder, k: int) -> int:
    """As `square`, but whoever has chunk 0 waits until another has begun chunk 1."""
    value = square(copy, folder, k)
    if k == 0:
        wait_until((folder / "1").exists)
    return value


def kill_itself(copy: list, folder, k: int, last: int = 1) -> int:
    """As `square`, but chunk 3 kills its worker, as often as `last` says."""
    note(folder, k)
    if k == 3 and len((folder / "3").read_text().split()) <= last:
        os.kill(os.getpid(), signal.SIGKILL)
    return k * k


def complain(copy: list, folder, k: int) -> int:
    """Chunk 1 is worth a warning, chunk 2 is bad input once the caller has heard of the first, the others wait for its end."""
    note(folder, k)
    if k == 1:
        warnings.warn("item 1 is odd", stacklevel=1)
    if k == 2:
        wait_until((folder / "heard").exists)
        raise InputError("item 2 is bad; leave it out")
    if k > 2:
        wait_until((folder / "over").exists)
    return k


def begun(folder) -> Counter:
    """How often each chunk was begun."""
    return Counter({int(path.name): len(path.read_text().split()) for path in folder.iterdir() if path.name.isdigit()})


def spread(crew: Workers, do, folder, n: int) -> dict[int, int]:
    """The results of n chunks. Makes the file named heard when that of chunk 1 has arrived."""
    chunks, done = [{"folder": folder, "k": k} for k in range(n)], {}
    for k, value in crew.spread(Part(str(folder), "numbers", list), None, do, chunks, [f"number {k}" for k in range(n)]):
        done[k] = value
        if k == 1:
            (folder / "heard").touch()
    return done


@pytest.mark.slow
def test_every_chunk_is_done_once_by_whoever_is_free(two, tmp_path):
    two.begin().wait_for_all()
    assert spread(two, square_by_both, tmp_path, 12) == {k: k * k for k in range(12)}
    assert begun(tmp_path) == dict.fromkeys(range(12), 1)
    by = Counter((tmp_path / f"{k}").read_text() for k in range(12))
    assert len(by) == 2, "both had some"


@pytest.mark.slow
def test_a_killed_worker_costs_its_chunk_alone(two, tmp_path):
    two.begin().wait_for_all()
    before = {place["process"] for place in two.crew.places.values()}
    known = len(two.losses)
    assert spread(two, kill_itself, tmp_path, 10) == {k: k * k for k in range(10)}
    assert begun(tmp_path) == {k: 2 if k == 3 else 1 for k in range(10)}
    (loss,) = two.losses[known:]
    assert (loss["doing"], loss["process"] in before) == ("number 3", True)
    assert loss["why"].startswith("Worker exit type")
    first, second = map(int, (tmp_path / "3").read_text().split())
    assert first == loss["process"] != second
    wait_until(lambda: len(two.crew.places) == 2)
    after = {place["process"] for place in two.crew.places.values()}
    assert len(after) == 2, "the worker was replaced"
    assert loss["process"] not in after


@pytest.mark.slow
def test_errors_and_warnings_of_workers_are_those_of_the_caller(two, tmp_path):
    with pytest.warns(UserWarning, match="item 1 is odd"), pytest.raises(InputError, match="^item 2 is bad; leave it out$"):
        spread(two, complain, tmp_path, 40)
    (tmp_path / "over").touch()
    assert spread(two, square, tmp_path, 1) == {0: 0}, "the workers are still there"
    assert len(begun(tmp_path)) < 20, "what nobody had begun was withdrawn"


@pytest.mark.slow
def test_a_chunk_that_kills_every_worker_ends_the_run(two, tmp_path):
    known = len(two.losses)
    with pytest.raises(InputError, match=r"number 3 cost 3 workers, one after the other \(.*use fewer workers"):
        spread(two, partial(kill_itself, last=9), tmp_path, 4)
    assert len(two.losses) == known + 3


@pytest.mark.slow
def test_a_cluster_without_room_says_so(two, tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "START_SECONDS", 3.0)
    monkeypatch.setattr(crew_module, "share", lambda n, threads: {"num_cpus": 1000})
    two.close()  # it starts again when it is needed
    crowd = Workers(1)
    with pytest.raises(InputError, match=r"no worker of 1 is left \(Ray had no room for one within 3 s\)"):
        spread(crowd, square, tmp_path, 1)
    crowd.close()


def test_the_number_of_workers_is_the_parameter_or_the_environments(nobody, monkeypatch):
    pytest.importorskip("ray")
    assert workers() is None
    monkeypatch.setenv("ICDPO_WORKERS", "1")
    assert workers().n == 1, "one worker is a worker"
    choose_workers(3)
    assert workers().n == 3, "what a notebook asks for comes first"
    choose_workers(1)
    assert workers().n == 1
    assert account() == {}, "none was started"
    monkeypatch.delenv("ICDPO_WORKERS")
    assert workers() is None


def test_bad_numbers_and_a_missing_ray_are_one_sentence(nobody, monkeypatch):
    with pytest.raises(InputError, match="workers is 0, but must be at least 1"):
        choose_workers(0)
    for bad in ("0", "two", "-1"):
        monkeypatch.setenv("ICDPO_WORKERS", bad)
        with pytest.raises(InputError, match=f"ICDPO_WORKERS is '{bad}', but must be a whole number of at least 1"):
            workers()
    monkeypatch.delenv("ICDPO_WORKERS")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    choose_workers(2)
    with pytest.raises(InputError, match=r"workers is 2, but Ray is not installed; run: pip install .*\[ray\]"):
        workers()


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch):
    """At once, and before anything of Ray is loaded."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"the Ray cluster at 127.0.0.1:1 cannot be reached \(Connection refused\); see ray"):
        Workers(2).begin()


def test_threads_do_not_depend_on_the_number_of_workers(monkeypatch):
    for said, expected in (("", 1), ("4", 4), ("2,1", 2), ("many", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert threads() == expected


def test_a_loss_is_said_in_the_costs_of_a_report(nobody, monkeypatch):
    pytest.importorskip("ray")
    assert (account(), account_text()) == ({}, "")
    choose_workers(3)
    crew = workers()
    crew.begun = True
    work = pd.DataFrame([{"tokens": 5, "added tokens": 5, "published": 20, "sampling, s": 1.0, "scoring, s": 0.0}])
    assert cost_facts(work)["workers"] == "3 over Ray"
    crew.losses.append(
        {"at": "now", "node": "n1", "process": 7, "doing": "sample with m, items 1 to 32 of 40", "why": "killed"}
    )
    said = "3 over Ray; 1 was lost, and what it did was done again: process 7 on n1 during sample with m, items 1 to 32 of 40"
    assert cost_facts(work)["workers"] == f"{said} (killed)"
    assert account() == {"workers": 3, "lost": crew.losses}
