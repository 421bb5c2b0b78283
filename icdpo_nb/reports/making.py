"""Jobs made into reports, one after another or side by side, with a line that says how each ended."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .compare import read_run
from .expectation import expectation
from .front import write_front_page
from .job import Job
from .processes import side_by_side
from .progress import Display, Listener, Watcher, in_line
from .report import is_current, run_job


def make(job: Job, listener: Listener | None = None, display: Display | None = None) -> str:
    """Make a report, or leave it as it is; the line that says so."""
    if job.resume and is_current(job):
        return in_line(job.folder, read_run(job.folder), "as it was")
    if said := expectation(job):
        print(said, file=sys.stderr, flush=True)
    try:
        folder = run_job(job, listener)
    finally:
        if display:
            display.clear()
    return in_line(folder, read_run(folder))


def make_several(todo: Sequence[Job], jobs: int, watcher: Watcher | None) -> int:
    """Make reports side by side, each in a process of its own. Returns the largest exit code."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.json" for i in range(len(todo))]
        for job, file in zip(todo, files, strict=True):
            job.save(file)
        commands = [[sys.executable, "-m", "icdpo_nb", "run", str(file)] for file in files]
        try:
            return side_by_side(commands, jobs, after(todo), watcher)
        finally:  # two that end at once, by an interrupt say, may each have missed the other
            if todo[0].out.is_dir():
                write_front_page(todo[0].out)


def after(todo: Sequence[Job]) -> list[set[int]]:
    """For each job the numbers of those before it whose reports it reads."""
    return [{j for j in range(i) if todo[j].notebook in job.reads} for i, job in enumerate(todo)]
