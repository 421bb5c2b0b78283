"""Runs the jobs of a sweep on a backend: in the order in which they read each other's reports, each tried again once.

A job whose report is there and would come out the same is left as it is, so that a sweep that was interrupted goes on at the
next call. The folders of its attempts lie in a hidden folder beside the reports; it goes when all jobs are done.
"""

import dataclasses
import shutil
import time
from contextlib import suppress
from pathlib import Path

from ..reports.front import write_front_page
from ..reports.html import is_done, read_record
from ..reports.report import is_current
from ..reports.run import writing
from ..store.joining import snapshot
from ..store.journal import Added, replay
from ..store.store import Store
from .backend import ERR, JOB, JOURNAL_FOLDER, SNAPSHOT, STATE, WHERE, Attempt, Backend
from .plan import Outcome, Sweep
from .watch import Watch

TRIES = 2
LARGEST_SNAPSHOT = 2 * 2**30  # bytes of a store that is copied for jobs on other machines
POLL_SECONDS = {False: 0.1, True: 1.0}  # between two looks at attempts here, and at those on other machines


def work_folder(sweep: Sweep) -> Path:
    """Where the attempts of a sweep have their folders."""
    return sweep.jobs[0].out.absolute() / f".{sweep.name}.sweep"


def run_jobs(sweep: Sweep, backend: Backend, watch: Watch, store: Store) -> tuple[list[Outcome], Added]:
    """Run the jobs of a sweep that are not done. Returns the outcome of each, in order, and what came from journals.

    If this process is interrupted, all attempts end, and what they computed is in `store`.
    """
    work = work_folder(sweep)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    driver = _Driver(sweep, backend, watch, store, work)
    try:
        outcomes = driver.run()
    finally:
        backend.close()
        driver.collect()
        with suppress(OSError):
            write_front_page(sweep.jobs[0].out)  # two that end at once may each have missed the other
    if all(outcome.code == 0 for outcome in outcomes):
        shutil.rmtree(work, ignore_errors=True)
    return outcomes, driver.added


class _Driver:
    """One run of a sweep: which jobs wait, which run, and how the others ended."""

    def __init__(self, sweep: Sweep, backend: Backend, watch: Watch, store: Store, work: Path):
        self.jobs, self.after, self.backend, self.watch, self.store, self.work = (
            sweep.jobs, sweep.after(), backend, watch, store, work,
        )  # fmt: skip
        self.waiting = list(range(len(self.jobs)))
        self.running: dict[int, Attempt] = {}
        self.tries = [0] * len(self.jobs)
        self.outcomes: dict[int, Outcome] = {}
        self.added, self.read = Added(), set()  # from journals, and their files

    def run(self) -> list[Outcome]:
        """Run all jobs."""
        self.collect()  # of attempts that were killed together with their driver
        if self.backend.apart and self.store.path.stat().st_size <= LARGEST_SNAPSHOT:
            with writing(self.work):
                snapshot(self.store, self.work / SNAPSHOT)
        while self.waiting or self.running:
            self._begin()
            for i, attempt in list(self.running.items()):
                if (code := attempt.code()) is not None:
                    del self.running[i]
                    self._ended(i, code, attempt)
            self.watch.look({self.folder(i) / STATE: self.jobs[i].run_id for i in self.running}, len(self.waiting), self.done())
            if self.running:
                time.sleep(POLL_SECONDS[self.backend.apart])
        return [self.outcomes[i] for i in range(len(self.jobs))]

    def done(self) -> list[Outcome]:
        """The outcomes so far."""
        return [*self.outcomes.values()]

    def folder(self, i: int) -> Path:
        """The folder of the attempts at job i."""
        return self.work / self.jobs[i].run_id

    def _begin(self) -> None:
        """Begin as many of the jobs that are ready as the backend takes."""
        ready = [i for i in self.waiting if self.after[i] <= self.outcomes.keys()]
        chosen: list[int] = []
        while ready and len(chosen) + len(self.running) < self.backend.slots:
            i = ready.pop(0)
            self.waiting.remove(i)
            if not self.tries[i] and is_current(dataclasses.replace(self.jobs[i])):  # a fresh job: what it reads may be new
                self._settle(i, Outcome(self.jobs[i], 0))
            else:
                chosen.append(i)
        for i in chosen:
            self._prepare(i)
        for i, attempt in zip(chosen, self.backend.submit([self.folder(i) for i in chosen]) if chosen else [], strict=True):
            self.running[i] = attempt

    def _prepare(self, i: int) -> None:
        """The folder of an attempt, with its job; the journal of an earlier one stays."""
        self.tries[i] += 1
        folder = self.folder(i)
        with writing(folder):
            folder.mkdir(exist_ok=True)
            (folder / STATE).unlink(missing_ok=True)
            dataclasses.replace(self.jobs[i], out=self.jobs[i].out.absolute()).save(folder / JOB)
            (folder / WHERE).write_text(str(Path.cwd()), encoding="utf-8")
        shutil.rmtree(self._failed(i), ignore_errors=True)  # of an earlier attempt, so that what is read there is this one's

    def _ended(self, i: int, code: int, attempt: Attempt) -> None:
        """An attempt has ended: take over its results, and try again if it failed for the first time."""
        self.added += replay(self.folder(i) / JOURNAL_FOLDER, self.store, self.read)
        if code == 0 and not is_done(read_record(self.jobs[i].folder / "run.json")):
            code = 1
        reason = self._reason(i, attempt) if code else ""
        if code and self.tries[i] < TRIES:
            self.watch.again(self.jobs[i], reason)
            self.waiting.insert(0, i)
        else:
            self._settle(i, Outcome(self.jobs[i], code, reason, self.tries[i]))

    def _settle(self, i: int, outcome: Outcome) -> None:
        self.outcomes[i] = outcome
        self.watch.settled(outcome)

    def _failed(self, i: int) -> Path:
        return self.jobs[i].out / f"{self.jobs[i].run_id}.failed"

    def _reason(self, i: int, attempt: Attempt) -> str:
        """Why a run failed: as its record says, or the backend, or the last line that it wrote."""
        said = read_record(self._failed(i) / "run.json").get("exception") or attempt.reason()
        if said:
            return str(said)
        with suppress(OSError):
            if lines := (self.folder(i) / ERR).read_text(encoding="utf-8", errors="replace").strip().splitlines():
                return lines[-1].removeprefix("icdpo-nb: ")
        return "it left no report and did not say why"

    def collect(self) -> None:
        """Add what all attempts have in their journals to the store."""
        for journal in sorted(self.work.glob(f"*/{JOURNAL_FOLDER}")):
            self.added += replay(journal, self.store, self.read)
