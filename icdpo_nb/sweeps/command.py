"""`icdpo-nb sweep FILE.yaml`."""

import sys
from pathlib import Path

from ..reports.progress import display_on_terminal
from ..reports.report import is_current
from ..store.store import Store
from .backends import open_backend
from .combined import write_combined_report
from .driver import run_jobs
from .plan import Sweep, read_sweep
from .prepare import prepare
from .watch import Watch


def sweep(path: str, on: str | None = None, jobs: int | None = None, out: str | None = None, dry_run: bool = False) -> int:
    """Run a sweep and write its combined report. Returns the largest exit code of its runs."""
    found = read_sweep(path, out)
    if dry_run:
        print(plan_text(found))
        return 0
    backend = open_backend(found.on, on, jobs)
    prepare(job for job in found.jobs if not is_current(job))
    with display_on_terminal() as display:
        outcomes, joined = run_jobs(found, backend, Watch(len(found.jobs), display), Store())
    if joined.new or joined.different:
        print(f"from the jobs' own stores: {joined.sentence}", file=sys.stderr)
    print(write_combined_report(found, outcomes))
    return max(outcome.code for outcome in outcomes)


def plan_text(found: Sweep) -> str:
    """What a sweep would run: a line for each job, with the command that makes its report alone."""
    done = [is_current(job) for job in found.jobs]
    lines = [f"{len(found.jobs)} runs, {sum(done)} of them done, into {Path(found.jobs[0].out)}"]
    for job, was in zip(found.jobs, done, strict=True):
        lines.append(f"  {'done  ' if was else 'to run'}  {job.run_id}  {job.command}")
    return "\n".join(lines)
