"""What a sweep says: lines for what has ended, and on a terminal the runs that go on with counts."""

import io
import json

import pytest
from rich.console import Console
from sweeping import leave_report, saved, small_notebooks

from icdpo_nb.reports.progress import Display
from icdpo_nb.sweeps.plan import Outcome, read_sweep
from icdpo_nb.sweeps.watch import Watch


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    out = small_notebooks(tmp_path, monkeypatch, light=True)
    return read_sweep(saved(tmp_path, "notebooks: 05_small\ngrid: {size: [1, 2]}\n"), out).jobs


def test_a_line_for_each_end(jobs, capsys, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "hf_secret_of_ours")
    leave_report(jobs[0])
    watch = Watch(2)
    watch.settled(Outcome(jobs[0], 0))
    watch.again(jobs[1], "no\naccess with hf_secret_of_ours \x1b[31m")
    watch.look({}, 0, [])
    said = capsys.readouterr()
    assert said.out == f"{jobs[0].folder}/report.html  as it was  so\n"
    assert said.err == f"icdpo-nb: {jobs[1].run_id} failed and is tried again: no access with [HUB_TOKEN] ␛[31m\n"


def test_the_table_has_the_runs_that_go_on_and_counts(jobs, tmp_path):
    display = Display()
    watch = Watch(5, display)
    state = {
        "run": jobs[0].run_id,
        "step": "scoring",
        "cell": 2,
        "cells": 4,
        "began": 0.0,
        "since": 0.0,
        "this": None,
        "rest": None,
    }
    path = tmp_path / "progress.json"
    path.write_text(json.dumps({**state, "note": str(tmp_path / "none")}))
    watch.look(
        {path: jobs[0].run_id, tmp_path / "not-begun.json": jobs[1].run_id}, 1, [Outcome(jobs[1], 3), Outcome(jobs[1], 0)]
    )
    assert display.head == "5 runs: 1 done, 1 failed, 2 begun, 1 waiting"
    assert [*display.states] == [jobs[0].run_id]
    console = Console(width=100, file=io.StringIO())
    console.print(display.live.get_renderable())
    head, line = console.file.getvalue().splitlines()
    assert head.strip() == display.head
    assert line.split()[:5] == [jobs[0].run_id, "scoring", "cell", "2", "of"]
    watch.look({}, 1, [Outcome(jobs[1], 0)])
    assert not display.states
    assert display.head == "5 runs: 1 done, 1 waiting"
