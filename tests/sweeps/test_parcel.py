"""Parcels: what a job needs and what it leaves arrive as they were."""

import dataclasses
import json
import os

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.reports.job import load_job, read_job
from icdpo_nb.sweeps import parcel as module
from icdpo_nb.sweeps.backend import JOB, WHERE
from icdpo_nb.sweeps.parcel import parcel, place, unpack, work_off


@pytest.fixture
def attempt(tmp_path):
    """The folder of an attempt at 03, which reads a report of 01."""
    out, folder = tmp_path / "reports", tmp_path / "attempt"
    (out / "01_method").mkdir(parents=True)
    folder.mkdir()
    for name in ("run.json", "headline.json", "per_prompt.jsonl", "report.html", "notebook.ipynb"):
        (out / "01_method" / name).write_text(f'{{"{name}": 1}}')
    dataclasses.replace(read_job("03_demo_source_nll", {"n_prompts": 3}), out=out).save(folder / JOB)
    (folder / WHERE).write_text(str(tmp_path))
    return folder


def pretend(code: str):
    """In the place of `backend.start`: a process that runs some Python in an attempt's folder."""

    def start(folder, more, unless_given=None):
        import subprocess
        import sys

        given = {"folder": str(folder), "where": (folder / WHERE).read_text(), "out": str(load_job(folder / JOB).out)}
        (folder / "out").write_bytes(b"said\n")
        (folder / "err").write_bytes(b"")
        return subprocess.Popen([sys.executable, "-c", code, json.dumps(given)], env={**os.environ, **more})

    return start


RUN = """
import json, os, pathlib, sys, time
given = json.loads(sys.argv[1])
pathlib.Path(given["folder"], "progress.json").write_text("half")
time.sleep(1)
out = pathlib.Path(given["out"])
report = out / "03_demo_source_nll-RUN"
report.mkdir()
read = sorted(path.name for path in (out / "01_method").iterdir())
variables = [k for k in os.environ if k.startswith("ICDPO_")]
report.joinpath("run.json").write_text(json.dumps([given["where"], read, variables]))
(out / "index.html").write_text("the front page of a node")
"""


def test_a_job_runs_with_what_it_reads_and_its_report_returns(attempt, tmp_path, monkeypatch):
    run_id = load_job(attempt / JOB).run_id
    monkeypatch.setattr(module, "start", pretend(RUN.replace("03_demo_source_nll-RUN", run_id)))
    told = []
    returned = work_off(parcel(attempt), lambda *asked: pytest.fail("nothing was asked"), told.append)
    assert (returned.code, returned.out, returned.err) == (0, b"said\n", b"")
    assert told == ["half"]
    out = tmp_path / "reports"
    (out / run_id).mkdir()
    (out / run_id / "older.json").touch()
    place(returned.reports, out)
    where, read, variables = json.loads((out / run_id / "run.json").read_text())
    assert where == str(tmp_path), "the folder that relative names begin at"
    assert read == ["headline.json", "per_prompt.jsonl", "run.json"], "its tables, not its page"
    assert {"ICDPO_STORE", "ICDPO_UPSTREAM"} <= set(variables)
    assert sorted(p.name for p in (out / run_id).iterdir()) == ["run.json"], "it took the place of an older one"
    assert sorted(p.name for p in out.iterdir()) == sorted(["01_method", run_id])


def test_a_folder_that_is_not_there_is_not_needed(attempt, monkeypatch):
    (attempt / WHERE).write_text("/no/such/folder")
    run_id = load_job(attempt / JOB).run_id
    monkeypatch.setattr(module, "start", pretend(RUN.replace("03_demo_source_nll-RUN", run_id)))
    returned = work_off(parcel(attempt), print, print)
    unpack(returned.reports, attempt)
    where = json.loads((attempt / run_id / "run.json").read_text())[0]
    assert where.endswith("attempt")
    assert where != str(attempt)


def test_an_interrupt_ends_the_process(attempt, monkeypatch):
    begun = []

    def start(*given):
        begun.append(pretend("import time; time.sleep(60)")(*given))
        raise_at_first_look()
        return begun[0]

    def raise_at_first_look():
        monkeypatch.setattr(module.time, "sleep", interrupted)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "start", start)
    with pytest.raises(KeyboardInterrupt):
        work_off(parcel(attempt), print, print)
    assert begun[0].poll() is not None


def test_another_version_of_the_package_is_refused(attempt):
    with pytest.raises(InputError, match="another version of the package; install the driver's on all machines"):
        work_off(parcel(attempt)._replace(code="0"), print, print)
