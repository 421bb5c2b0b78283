"""The journal: what a store commits outlives the machine that it is on, whole or not at all, and is added to another store."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.common.files import checksum
from icdpo_nb.store.journal import JOURNAL, Added, record, replay
from icdpo_nb.store.store import Store

INPUTS = {"model": "m"}


class Costs:
    """A meter that charges two seconds for each chunk."""

    def __init__(self):
        self.used = {}

    def start(self):
        pass

    def spent(self):
        return {"seconds": 2.0}


def computed(store, items, calls=None, **options):
    """Squares, by the store; the numbers that had to be computed join `calls`."""

    def run(indices):
        (calls if calls is not None else []).extend(items[i] for i in indices)
        return [items[i] ** 2 for i in indices]

    return store.compute("square", INPUTS, items, run, **options)


@pytest.fixture
def journal(tmp_path, monkeypatch):
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal"))
    return tmp_path / "journal"


def test_what_one_store_commits_another_finds_with_its_cost(tmp_path, journal, monkeypatch):
    computed(Store(tmp_path / "node"), [1, 2, 3, 4, 5], chunk=2, meter=Costs())
    assert len([*journal.iterdir()]) == 3, "a file for each chunk"
    monkeypatch.delenv(JOURNAL)
    here, seen, meter, calls = Store(tmp_path / "here"), set(), Costs(), []
    assert replay(journal, here, seen) == Added(new=5)
    assert replay(journal, here, seen) == Added(), "each file once"
    assert replay(journal, here) == Added(known=5)
    assert computed(here, [1, 2, 3, 4, 5, 6], calls, meter=meter) == [1, 4, 9, 16, 25, 36]
    assert calls == [6]
    assert sorted(cost["seconds"] for cost in meter.used.values()) == [1.0, 1.0, 1.0, 1.0, 2.0, 2.0]
    assert [(s["stage"], s["inputs"], s["results"]) for s in here.stages()] == [("square", INPUTS, 6)]


def test_without_the_variable_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(JOURNAL, raising=False)
    computed(Store(tmp_path / "store"), [1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


def test_what_is_not_stored_is_not_in_the_journal(tmp_path, journal):
    Store(tmp_path / "node").compute("none", {}, [1, 2], lambda indices: [None for _ in indices])
    assert not journal.exists()


def test_damage_is_left_out_and_counted(tmp_path, journal):
    """A file that was cut, one whose name is another's, and a row whose value is not that of its checksum."""
    computed(Store(tmp_path / "node"), [1, 2, 3], chunk=1)
    first, second, third = sorted(journal.iterdir())
    first.write_bytes(first.read_bytes()[:-9])
    second.rename(second.with_name(f"{second.name.partition('-')[0]}-{checksum('another')}.jsonl"))
    text = third.read_text().replace('"9"', '"8"')
    third.unlink()
    (journal / f"9-{checksum(text)}.jsonl").write_text(text)
    (journal / f".9-{checksum('half')}.jsonl.77").write_text("half")  # being written by a process that was killed
    here = Store(tmp_path / "here")
    assert replay(journal, here) == Added(damaged=3)
    assert sum(stage["results"] for stage in here.stages()) == 0


def test_another_value_for_the_same_key_does_not_replace_ours(tmp_path, journal, monkeypatch):
    Store(tmp_path / "node").compute("guess", {}, ["a", "b"], lambda indices: ["theirs" for _ in indices])
    monkeypatch.delenv(JOURNAL)
    here = Store(tmp_path / "here")
    here.compute("guess", {}, ["a"], lambda indices: ["ours" for _ in indices])
    added = replay(journal, here)
    assert added == Added(new=1, different=1)
    assert added.sentence == "1 results added, 0 known before, 1 of another value, of which the value that was there is kept"
    assert here.compute("guess", {}, ["a", "b"], None) == ["ours", "theirs"]


def test_a_damaged_row_of_ours_is_mended(tmp_path, journal, monkeypatch):
    computed(Store(tmp_path / "node"), [3])
    monkeypatch.delenv(JOURNAL)
    here = Store(tmp_path / "here")
    computed(here, [3])
    here.file.db.execute("UPDATE results SET value = '7'")
    assert replay(journal, here) == Added(new=1)
    assert computed(here, [3], calls := []) == [9]
    assert calls == []


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path, journal):
    journal.write_text("a file in its place")
    with pytest.raises(InputError, match="the journal .* cannot be written .*; free some space, or unset ICDPO_JOURNAL"):
        computed(Store(tmp_path / "node"), [1])
    with pytest.raises(InputError, match="cannot be written"):
        record({"results": [("s", "k", "1", checksum("1"))]}, journal / "below")


def _slow_squares(folder, journal, counted, n):
    """Compute n squares, one a chunk, noting each before it is returned."""
    os.environ[JOURNAL] = str(journal)

    def run(indices):
        with open(counted, "a") as file:
            file.writelines(f"{i}\n" for i in indices)
        time.sleep(0.02)
        return [i**2 for i in indices]

    Store(folder).compute("square", INPUTS, list(range(n)), run, chunk=2)


def test_a_killed_job_loses_no_more_than_the_chunk_in_flight(tmp_path):
    """kill -9 in the middle; its journal fills the next store, and each number is computed once, but for two of a chunk."""
    journal, counted, n = tmp_path / "journal", tmp_path / "counted", 60
    context = multiprocessing.get_context("fork")
    first = context.Process(target=_slow_squares, args=(tmp_path / "node1", journal, counted, n))
    first.start()
    while len([*journal.glob("[!.]*")]) < 8:
        assert first.is_alive()
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    before = counted.read_text().split()
    assert 16 <= len(before) < n
    other = Store(tmp_path / "node2")
    recovered = replay(journal, other)
    assert recovered.damaged == 0
    assert recovered.new >= len(before) - 2
    again = context.Process(target=_slow_squares, args=(tmp_path / "node2", journal, counted, n))
    again.start()
    again.join()
    assert again.exitcode == 0
    done = counted.read_text().split()
    assert set(done) == {str(i) for i in range(n)}
    assert len(done) - n == len(before) - recovered.new <= 2
    final = Store(tmp_path / "driver")
    assert replay(journal, final).new == n
    rows = final.file.db.execute("SELECT value FROM results").fetchall()
    assert sorted(json.loads(text) for (text,) in rows) == sorted(i**2 for i in range(n))
