"""Processes side by side: a run that fails once, one that never works, one that is killed, the share of the machine, Ctrl-C."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest
from sweeping import begun, saved, small_notebooks

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.reports import job
from icdpo_nb.sweeps import local
from icdpo_nb.sweeps.backend import KILLED
from icdpo_nb.sweeps.local import Local, visible_gpus


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_notebooks(tmp_path, monkeypatch)


@pytest.mark.slow
def test_one_fails_once_one_always_and_the_rest_goes_on(small, tmp_path, capsys):
    """And a second call leaves what is done and tries the others again."""
    path = saved(tmp_path, "notebooks: 05_small\ngrid: {name: [once, never, killed, x]}\nseeds: [1]\n")
    assert main(["sweep", str(path), "-o", str(small), "-j", "2"]) == KILLED
    said = capsys.readouterr()
    assert sorted(name for name, *_ in begun(tmp_path)) == ["killed", "killed", "never", "never", "once", "once", "x"]
    assert said.err.count("failed and is tried again: the notebook broke: ValueError in cell 3: only once") == 1
    assert said.err.count("failed: the notebook broke: ValueError in cell 3: never with 3") == 1
    assert said.err.count("failed: killed by signal 9; perhaps it ran out of memory") == 1
    page = (small / "grid" / "report.html").read_text()
    assert "2 of 4 runs failed" in page
    assert "never with 3" in page
    record = json.loads((small / "grid" / "run.json").read_text())
    assert (record["status"], record["headline"]["runs"], record["headline"]["done"]) == ("done", 4, 2)
    assert main(["sweep", str(path), "-o", str(small)]) == KILLED
    assert sorted(name for name, *_ in begun(tmp_path)[7:]) == ["killed", "killed", "never", "never"]
    assert capsys.readouterr().out.count("as it was") == 2


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(small, tmp_path):
    """As a terminal sends it, to the driver alone: one line, and nothing goes on; those that ran are kept as failed."""
    path = saved(tmp_path, "notebooks: 05_small\ngrid: {name: [slow], size: [1, 2, 3]}\n")
    code = f"""import sys, pathlib, signal
from icdpo_nb import cli
from icdpo_nb.reports import job
job.NOTEBOOKS = pathlib.Path({str(job.NOTEBOOKS)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background inherits that it is ignored
sys.exit(cli.main(["sweep", {str(path)!r}, "-o", {str(small)!r}, "-j", "2"]))"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True) as command:
        while not (tmp_path / "begun").exists() or len(begun(tmp_path)) < 2:
            assert command.poll() is None
            time.sleep(0.05)
        going = psutil.Process(command.pid).children(recursive=True)
        assert len(going) >= 4, "two runs, each with its kernel"
        command.send_signal(signal.SIGINT)
        try:
            assert command.wait(120) == 130
        finally:
            command.kill()
        assert command.stderr.read() == "icdpo-nb: interrupted\n"
    psutil.wait_procs(going, 30)
    assert not [p for p in going if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert len([*small.glob("*.failed/run.json")]) == 2
    assert not (small / "grid").exists(), "a sweep that was interrupted has no report yet"


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """Commands that note their environment and wait for a file, in place of runs."""
    text = "import os, sys, time\nwhere = sys.argv[1]\n"
    text += "print(os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ['OMP_NUM_THREADS'], os.getcwd())\nsys.stdout.flush()\n"
    text += "while not os.path.exists(where + '/end'): time.sleep(0.01)\nsys.exit(int(open(where + '/end').read()))"
    monkeypatch.setattr("icdpo_nb.sweeps.backend.command", lambda folder: [sys.executable, "-c", text, str(folder)])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        (folder / "where").write_text(str(tmp_path))
    return folders


def ended(attempt):
    while (code := attempt.code()) is None:
        time.sleep(0.01)
    return code


def said(folder):
    while not (text := (folder / "out").read_text().split()):
        time.sleep(0.01)
    return text


def test_each_process_has_its_share_of_the_cores_and_a_gpu_in_turn(noted, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "3"])
    backend = Local({})
    assert backend.slots == 2
    first, second = backend.submit(noted[:2])
    share = str(max(1, os.cpu_count() // 2))
    assert [said(folder) for folder in noted[:2]] == [["0", share, str(tmp_path)], ["3", share, str(tmp_path)]]
    (noted[1] / "end").write_text("5")
    assert ended(second) == 5
    (third,) = backend.submit(noted[2:])
    assert said(noted[2])[0] == "3", "the GPU that is free"
    assert first.code() is None
    backend.close()
    assert (first.code(), third.code()) == (KILLED, KILLED)
    assert third.reason() == "killed by signal 15; perhaps it ran out of memory"


def test_options_of_the_file_and_of_the_command_line():
    assert (Local({"jobs": 3}).slots, Local({"jobs": 3}, 5).slots) == (3, 5)
    for options, says in (({"job": 3}, "has no option 'job'; did you mean 'jobs'"), ({"jobs": "2"}, "must be int, not '2'")):
        with pytest.raises(InputError, match=says):
            Local(options)
    with pytest.raises(InputError, match="option jobs of the backend local must be int, not 0"):
        Local({"jobs": 0})


def test_gpus_are_those_that_may_be_used(tmp_path, monkeypatch):
    for name in ("ICDPO_DEVICE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho 0\necho 1\n")
    asked.chmod(asked.stat().st_mode | stat.S_IEXEC)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-8f,5")
    assert visible_gpus() == ["2", "GPU-8f", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    monkeypatch.setenv("ICDPO_DEVICE", "balanced")
    assert visible_gpus() == [], "a model takes them all"
