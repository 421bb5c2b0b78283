"""A run with workers: the same bytes whatever their number, also if one is killed, which the report then says."""

import html
import json
import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.reports.job import notebook_names, open_notebook
from icdpo_nb.reports.parameters import check_parameters
from icdpo_nb.reports.report import run_notebook
from icdpo_nb.store.store import Store

TOY = {
    "lms": ["sandbox-small"],
    "demonstrations": ["teacher-a"],
    "teacher": "none",
    "reward": "sandbox-reward",
    "n_prompts": 25,
    "max_new_tokens": 12,
}


def test_every_notebook_has_the_parameter():
    for name in notebook_names():
        declared = open_notebook(name)[1]
        assert declared["workers"].default == 1, name
        assert check_parameters({"workers": "8"}, declared, name) == {"workers": 8}
        with pytest.raises(InputError, match="workers is 0, but must be at least 1"):
            check_parameters({"workers": "0"}, declared, name)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ICDPO_WORKERS", "1")
    runs = [run(tmp_path / "one", monkeypatch)]
    monkeypatch.delenv("ICDPO_WORKERS")
    killed: list[int] = []
    runs.append(run(tmp_path / "two", monkeypatch, 2, killed))
    runs.append(run(tmp_path / "three", monkeypatch, 3))
    without = run(tmp_path / "none", monkeypatch)
    tables = [{p.name: p.read_bytes() for p in folder.glob("*.jsonl")} for folder in [*runs, without]]
    for other in tables[1:]:
        assert other.keys() == tables[0].keys()
        assert [name for name in other if other[name] != tables[0][name]] == ["work.jsonl"]
    assert len({(folder / "headline.json").read_bytes() for folder in [*runs, without]}) == 1
    records = [json.loads((folder / "run.json").read_text()) for folder in runs]
    assert [record["workers"]["workers"] for record in records] == [1, 2, 3]
    assert [[loss["process"] for loss in record["workers"]["lost"]] for record in records] == [[], killed, []]
    assert len({record["tokens"] for record in records}) == 1, "what was lost with a worker does not count"
    pages = [html.unescape((folder / "report.html").read_text()) for folder in runs]
    said = [re.search(r"<dt>workers</dt><dd>([^<]*)", page).group(1) for page in pages]
    assert (said[0], said[2]) == ("1 over Ray", "3 over Ray")
    assert said[1].startswith(f"2 over Ray; 1 was lost, and what it did was done again: process {killed[0]} on ")
    assert not [page for page in pages if 'class="stderr"' in page], "Ray says nothing"
    assert not [p for p in psutil.Process().children(recursive=True) if "ray" in p.name()], "Ray has ended"


def run(folder: Path, monkeypatch, workers: int = 1, killed: list[int] | None = None) -> Path:
    """The folder of a run with a new store. With a list, a worker is killed at work, and its process id put into it."""
    monkeypatch.setenv("ICDPO_STORE", str(folder / "store"))
    if killed is not None:
        threading.Thread(target=kill_one, args=(folder / "store", killed), daemon=True).start()
    return run_notebook("01_method", TOY | {"workers": workers}, folder / "reports")


def kill_one(store: Path, killed: list[int]) -> None:
    """SIGKILL to a worker of this process's run that works on a chunk, as soon as another chunk was sampled."""
    while not killed:
        time.sleep(0.01)
        if not (store / "store.sqlite").exists() or not any(
            s["results"] for s in Store(store).stages() if s["stage"] == "sample"
        ):
            continue
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if not killed and process.cmdline()[:1] == ["ray::Host.run"]:
                    killed.append(process.pid)
                    os.kill(process.pid, signal.SIGKILL)
