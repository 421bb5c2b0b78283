"""For the tests of sweeps: two small notebooks of their own, and a backend that runs nothing."""

import json
import re

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from icdpo_nb.reports import job, origins
from icdpo_nb.reports.job import load_job
from icdpo_nb.sweeps import driver

PARAMETERS = """size: int = 3  # how many
name: str = "x"  # what it does
seed: int = 0  # seed"""
BODY = """import json, os, pathlib, signal, time
place = pathlib.Path(os.environ["ICDPO_TEST"])
with (place / "begun").open("a") as file: print(name, size, seed, os.getpid(), file=file)
if name == "once" and not (place / "second").exists():
    (place / "second").touch()
    raise ValueError("only once")
if name == "never": raise ValueError(f"never with {size}")
if name == "killed": os.kill(os.getppid(), signal.SIGKILL)
if name == "slow": time.sleep(600)
estimate = {"lm": "m", "source": "s", "domain": "total", "low": size - 1.0, "high": size + 1.0, "n": 40}
means = [{**estimate, "method": method, "mean": float(size)} for method in ("Base", "ICDPO")]
found = {"finding": "higher", "verdict": "agrees", "same": 0.0, "p": 0.01}
claims = [{**estimate, "claim": "ICDPO > Base", "mean": float(size), **found}]
headline = {"answer": f"size is {size}", "margin": 0.5, "means": means, "claims": claims}
pathlib.Path(os.environ["ICDPO_RUN_DIR"], "headline.json").write_text(json.dumps(headline))"""


def small_notebooks(tmp_path, monkeypatch, light=False):
    """Put notebooks `05_small` and `06_reader`, which reads its reports, in place of ours; returns the folder of reports.

    `light`: the package is no part of what a report is made from; only where no other process looks for that.
    """
    cell = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    (tmp_path / "notebooks").mkdir()
    for name, reads in {"05_small": [], "06_reader": ["05_small"]}.items():
        node = new_notebook(cells=[new_markdown_cell("# A small question?"), cell, new_code_cell(BODY)])
        node.metadata["icdpo_nb"] = {"reads": reads}
        nbformat.write(node, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(job, "NOTEBOOKS", tmp_path / "notebooks")
    if light:
        monkeypatch.setattr(origins, "PACKAGE", tmp_path / "notebooks")
        monkeypatch.setattr(driver, "POLL_SECONDS", dict.fromkeys((False, True), 0.001))
    monkeypatch.setenv("ICDPO_TEST", str(tmp_path))
    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "store"))
    return tmp_path / "reports"


def saved(folder, text, name="grid.yaml"):
    """A sweep file."""
    (folder / name).write_text(text)
    return folder / name


def begun(folder):
    """What the runs of the small notebook noted as they began: name, size, seed."""
    return [line.split()[:3] for line in (folder / "begun").read_text().splitlines()]


class Pretended:
    """A backend that leaves the report of a job, or none: `codes` holds the exit codes of the attempts at each run.

    An attempt ends when it is looked at for the third time. `log` has the runs in the order of their attempts.
    """

    def __init__(self, codes=None, slots=1, apart=False, during=lambda folder: None):
        self.codes, self.slots, self.apart, self.during = {k: [*v] for k, v in (codes or {}).items()}, slots, apart, during
        self.log, self.batches, self.closed, self.most = [], [], 0, 0
        self.going = set()

    def submit(self, folders):
        self.batches.append(len(folders))
        return [_Pretended(self, folder) for folder in folders]

    def close(self):
        self.closed += 1


class _Pretended:
    def __init__(self, backend, folder):
        self.backend, self.folder, self.job, self.looks = backend, folder, load_job(folder / "job.json"), 0
        backend.log.append(self.job.run_id)
        backend.going.add(self)
        backend.most = max(backend.most, len(backend.going))
        backend.during(folder)

    def code(self):
        self.looks += 1
        if self.looks < 3:
            return None
        self.backend.going.discard(self)
        codes = self.backend.codes.get(self.job.run_id) or [0]
        code = codes.pop(0) if len(codes) > 1 else codes[0]
        if not code:
            leave_report(self.job)
        return code

    def reason(self):
        return "the machine is gone"


def leave_report(job, **headline):
    """The record of a finished run in its place."""
    job.folder.mkdir(parents=True, exist_ok=True)
    record = {"run": job.run_id, "notebook": job.notebook, "status": "done", "finished": "2026-11-29 12:00:00", "seconds": 61.0}
    record |= {"parameters": job.values, "origins": job.origins, "headline": {"answer": "so", **headline}}
    (job.folder / "run.json").write_text(json.dumps(record))
    (job.folder / "report.html").write_text("a report")


def texts_of(page):
    """The words of a page of HTML, without its style sheets."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", "", page)))
