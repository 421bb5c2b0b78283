"""What a sweep says while it runs: on a terminal a live table, and a line for each run that has ended."""

import json
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from ..common.escaping import scrubbed, visible
from ..reports.html import read_record
from ..reports.job import Job
from ..reports.progress import Display, in_line
from .plan import Outcome


class Watch:
    """Prints what has ended; with a display, shows what runs, too."""

    def __init__(self, n: int, display: Display | None = None):
        self.n, self.display, self.shown = n, display, {}

    def look(self, states: Mapping[Path, str], waiting: int, ended: Collection[Outcome]) -> None:
        """Show the runs that go on, by the files in which they say how far they are, and how many are left."""
        if not self.display:
            return
        for path in self.shown.keys() - states.keys():
            self.display.drop(self.shown.pop(path))
        for path, run in states.items():
            with suppress(OSError, ValueError, KeyError):
                self.display.show(json.loads(path.read_text(encoding="utf-8")))
                self.shown[path] = run
        failed = sum(outcome.code != 0 for outcome in ended)
        counts = {"done": len(ended) - failed, "failed": failed, "begun": len(states), "waiting": waiting}
        self.display.head = f"{self.n} runs: " + ", ".join(f"{n} {word}" for word, n in counts.items() if n)

    def settled(self, outcome: Outcome) -> None:
        """A job has ended for good."""
        job = outcome.job
        if outcome.code:
            self._complain(f"{job.run_id} failed: {outcome.reason}")
        else:
            print(in_line(job.folder, read_record(job.folder / "run.json"), "as it was" if outcome.was else ""), flush=True)

    def again(self, job: Job, reason: str) -> None:
        """A job failed for the first time and is tried again."""
        self._complain(f"{job.run_id} failed and is tried again: {reason}")

    def _complain(self, said: str) -> None:
        print(f"icdpo-nb: {visible(scrubbed(' '.join(said.split())))}", file=sys.stderr, flush=True)
