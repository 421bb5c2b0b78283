"""Order, retries, resuming and interrupts of a sweep, with a backend that runs nothing."""

import json
import shutil

import pytest
from sweeping import Pretended, leave_report, saved, small_notebooks

from icdpo_nb.common.files import checksum
from icdpo_nb.store.journal import Added, record
from icdpo_nb.store.store import Store
from icdpo_nb.sweeps.driver import run_jobs, work_folder
from icdpo_nb.sweeps.plan import read_sweep
from icdpo_nb.sweeps.watch import Watch


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_notebooks(tmp_path, monkeypatch, light=True)


def run(found, backend):
    return run_jobs(found, backend, Watch(len(found.jobs)), Store())


@pytest.fixture
def three(small, tmp_path):
    return read_sweep(saved(tmp_path, "notebooks: 05_small\ngrid: {size: [1, 2, 4]}\n"), small)


def test_all_run_in_order_and_nothing_is_left(three, small, capsys):
    backend = Pretended()
    outcomes, added = run(three, backend)
    ids = [job.run_id for job in three.jobs]
    assert backend.log == ids
    assert backend.most == backend.closed == 1
    assert [(o.job.run_id, o.code, o.tries, o.was) for o in outcomes] == [(i, 0, 1, False) for i in ids]
    assert added == Added()
    assert sorted(p.name for p in small.iterdir()) == sorted([*ids, "index.html"])
    assert capsys.readouterr().out.count("report.html  1 min 01 s  so") == 3


def test_what_is_ready_goes_together_as_far_as_there_are_slots(three):
    assert Pretended(slots=9).batches == []
    for slots, batches in ((9, [3]), (2, [2, 1])):
        backend = Pretended(slots=slots)
        run(three, backend)
        assert (backend.batches, backend.most) == (batches, min(slots, 3))
        for job in three.jobs:
            shutil.rmtree(job.folder)


def test_a_run_that_fails_once_is_tried_again_and_one_that_fails_twice_is_reported(three, small, capsys):
    once, never, good = (job.run_id for job in three.jobs)
    backend = Pretended({once: [3, 0], never: [4, 5]})
    outcomes, _ = run(three, backend)
    assert backend.log == [once, once, never, never, good]
    assert [(o.code, o.reason, o.tries) for o in outcomes] == [(0, "", 2), (5, "the machine is gone", 2), (0, "", 1)]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"icdpo-nb: {once} failed and is tried again: the machine is gone",
        f"icdpo-nb: {never} failed and is tried again: the machine is gone",
        f"icdpo-nb: {never} failed: the machine is gone",
    ]
    assert work_folder(three).is_dir(), "what the failed one said stays"


def test_the_reason_is_what_the_run_says_itself(three, small):
    """In its record, if this attempt left one; else the backend's, else the last line that it wrote."""
    job = three.jobs[0]
    failed = small / f"{job.run_id}.failed"
    failed.mkdir(parents=True)
    (failed / "run.json").write_text(json.dumps({"status": "failed", "exception": "of an earlier attempt"}))
    backend = Pretended({job.run_id: [3]}, during=lambda folder: (folder / "err").write_text("icdpo-nb: no\n"))
    assert run(three, backend)[0][0].reason == "the machine is gone"

    def fails(folder):
        if folder.name == job.run_id:
            failed.mkdir(exist_ok=True)
            (failed / "run.json").write_text(json.dumps({"status": "failed", "exception": "thirteen"}))

    assert run(three, Pretended({job.run_id: [3]}, during=fails))[0][0].reason == "thirteen"


def test_a_report_that_is_missing_is_a_failure(three):
    """An exit code of 0 alone proves nothing."""
    backend = Pretended()
    backend.submit = lambda folders: [
        type("Silent", (), {"code": lambda self: 0, "reason": lambda self: ""})() for _ in folders
    ]
    outcomes, _ = run(three, backend)
    assert [(o.code, o.reason) for o in outcomes] == [(1, "it left no report and did not say why")] * 3


def test_what_is_done_is_left_as_it_is(three, capsys):
    leave_report(three.jobs[1])
    backend = Pretended()
    outcomes, _ = run(three, backend)
    assert backend.log == [three.jobs[0].run_id, three.jobs[2].run_id]
    assert [o.was for o in outcomes] == [False, True, False]
    assert "as it was" in capsys.readouterr().out
    again = Pretended()
    assert all(o.was for o in run(three, again)[0])
    assert again.log == []


def test_a_notebook_runs_after_those_that_it_reads(small, tmp_path):
    """Also after one that fails; what it reads is part of whether its own report is still the same."""
    found = read_sweep(saved(tmp_path, "notebooks: [06_reader, 05_small]\n"), small)
    assert found.after() == [{1}, set()]
    backend = Pretended({"05_small": [3]}, slots=9)
    run(found, backend)
    assert backend.log == ["05_small", "05_small", "06_reader"]
    again = Pretended(slots=9)
    run(found, again)
    assert again.log == ["05_small"], "it leaves no tables, so the reader's report is the same"
    (small / "05_small" / "table.jsonl").write_text("{}")
    third = Pretended(slots=9)
    run(found, third)
    assert third.log == ["06_reader"]


def rows(key, text):
    return {"stages": [("space", "stage", "{}", 0.0)], "results": [("space", key, text, checksum(text))], "costs": []}


def test_journals_of_attempts_come_into_the_store_each_file_once(three):
    def noting(folder):
        record(rows(folder.name, "1"), folder / "journal")

    backend = Pretended({three.jobs[0].run_id: [3, 0]}, apart=True, during=noting)
    outcomes, added = run(three, backend)
    assert added == Added(new=3, known=1), "the second attempt at the first one noted the same again"
    assert Store().verify() == (3, 0)
    assert not work_folder(three).exists()


def test_an_interrupt_ends_the_backend_and_keeps_what_was_computed(three):
    def interrupted(folder):
        record(rows(folder.name, "1"), folder / "journal")
        assert (folder.parent / "store.sqlite").is_file(), "what the driver's store had"
        if folder.name == three.jobs[1].run_id:
            raise KeyboardInterrupt

    backend = Pretended(apart=True, during=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(three, backend)
    assert backend.closed == 1
    assert Store().verify() == (2, 0)
    backend = Pretended(apart=True)
    outcomes, added = run(three, backend)
    assert backend.log == [job.run_id for job in three.jobs[1:]]
    assert added == Added(known=2), "left by attempts that had no time to be read"
    assert not work_folder(three).exists()


def test_jobs_are_saved_so_that_they_run_anywhere(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read_sweep(saved(tmp_path, "notebooks: 05_small\n"), "reports")
    folders = []
    run(found, Pretended(during=folders.append))
    assert folders == [small / ".grid.sweep" / "05_small"]
