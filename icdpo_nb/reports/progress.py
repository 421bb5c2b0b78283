"""How far reports are: on a terminal one line a notebook, with its step, the time it took so far and the time that is left.

A run tells its state, a small dict, to whoever listens: a `Display` in the same process, or a file that the process which runs
several notebooks at a time reads (`Watcher`). How much is left is known from the last finished run with the same parameters,
cell by cell.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread

from ..common.countdown import spoken
from ..common.escaping import label
from ..common.files import write_whole

STATE_FILE = "ICDPO_PROGRESS"  # set for a process that runs one of several notebooks: where it leaves its state
REFRESHES_PER_SECOND = 4  # times a second that a terminal's lines are drawn

Listener = Callable[[dict], None]


def steps(cells: Sequence) -> list[str]:
    """What each cell of a notebook does, for whoever waits: its `# papermill_description=…`, else the nearest heading above."""
    heading, found = "", []
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = ([heading] + re.findall(r"^#+ +(.+)$", cell.source, re.M))[-1]
        named = re.search(r"^# papermill_description=(\S+)", cell.source, re.M)
        found.append(named.group(1).replace("-", " ") if named and cell.cell_type == "code" else heading)
    return found


class Progress:
    """Follows one run from cell to cell, and tells a listener its state at each.

    `last`: the record of an earlier run with the same parameters, whose `cells` tell how long each cell took. A state holds the
    run, its step, how many of its cells began, when it and its cell began (seconds since 1970), how long this cell and the
    rest took the last time, or null, and the file `note` in which the notebook says what it waits for, see `common.notes`.
    """

    def __init__(
        self, run: str, cells: Sequence, last: Mapping, listener: Listener | None = None, note: Path | str = os.devnull
    ):
        self.run, self.steps, self.listener, self.note = run, steps(cells), listener, str(note)
        known = last.get("cells")
        fits = isinstance(known, list) and len(known) == len(cells) and all(isinstance(s, int | float) for s in known)
        self.known = known if fits else None
        self.seconds = [0.0] * len(cells)  # of each cell, in this run
        self.cell, self.began = -1, time.time()
        self.since = self.began
        self._tell("starting")

    def enter(self, cell: int) -> None:
        """A cell begins, and the one before has ended; past the last one, the report is rendered."""
        self._leave()
        self.cell, self.since = cell, time.time()
        self._tell(self.steps[cell] if cell < len(self.steps) else "rendering")

    def _leave(self) -> None:
        if 0 <= self.cell < len(self.steps):
            self.seconds[self.cell] = round(time.time() - self.since, 1)

    def _tell(self, step: str) -> None:
        if self.listener is None:
            return
        past, at = self.known, self.cell
        self.listener({
            "run": self.run, "step": step, "cell": min(at + 1, len(self.steps)), "cells": len(self.steps),
            "began": self.began, "since": self.since,
            "this": None if past is None else past[at] if 0 <= at < len(past) else 0.0,
            "rest": None if past is None else sum(past[at + 1 :]), "note": self.note,
        })  # fmt: skip


@contextmanager
def said_once(run: str, note: Path) -> Iterator[None]:
    """Write to stderr what a run's notebook says that it waits for, where nobody listens for its progress.

    After the name of the run, since several may run side by side. Once each: a sentence that only counts on, as
    `sampling with m: 64 of 200, …` does, is not written again.
    """
    ended = Event()

    def look() -> None:
        known = set()
        while not ended.wait(1 / REFRESHES_PER_SECOND):
            for said in _note(note):
                what = re.sub(r": [\d,]+ of .*", "", said)
                if what not in known:
                    print(f"{run}: {label(said, 200)}", file=sys.stderr, flush=True)
                known.add(what)

    looking = Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


def doing(state: Mapping) -> str:
    """What a run does now: what its notebook says that it waits for, a download say, else its step."""
    return "; ".join(_note(state["note"])) or state["step"]


def _note(path: Path | str) -> list[str]:
    """The lines of a note; none if there is no note."""
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8").splitlines()
    return []


def remaining(state: Mapping, now: float) -> float | None:
    """Seconds that a run still takes if it goes as the last one; None if that is not known."""
    if state["rest"] is None:
        return None
    return max(0.0, state["this"] - (now - state["since"])) + state["rest"]


def in_line(folder: Path, record: Mapping, took: str = "") -> str:
    """A finished run in one line: its report, how long it took, and its answer, cut."""
    answer = str((record.get("headline") or {}).get("answer", ""))
    return f"{folder / 'report.html'}  {took or spoken(record.get('seconds') or 0)}  {label(answer, 140)}".rstrip()


def to_file(path: Path | str) -> Listener:
    """A listener that keeps the last state in a file, which is at no moment half."""

    def keep(state: dict) -> None:
        with suppress(OSError):  # a full disk is no reason to stop a run
            write_whole(Path(path), json.dumps(state))

    return keep


class Display:
    """A line for each run that goes on, at the foot of a terminal; what is printed meanwhile stands above."""

    def __init__(self):
        from rich.console import Console
        from rich.live import Live

        self.states: dict[str, dict] = {}
        self.head = ""  # a line above those of the runs
        self.live = Live(
            get_renderable=self._lines,
            console=Console(file=sys.stderr),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            vertical_overflow="visible",
        )

    def __enter__(self) -> "Display":
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def show(self, state: dict) -> None:
        """Change the line of a run, or add one."""
        self.states = {**self.states, state["run"]: state}  # drawn by a thread of its own

    def drop(self, run: str) -> None:
        """Take the line of a run away."""
        self.states = {name: state for name, state in self.states.items() if name != run}
        self.live.refresh()  # what is printed next is drawn with the lines of the last refresh

    def clear(self) -> None:
        """Take all lines away."""
        self.states = {}
        self.live.refresh()

    def _lines(self):
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table, now = Table.grid(padding=(0, 2)), time.time()
        for column in range(5):
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1 if column == 1 else None)
        for state in self.states.values():
            left = remaining(state, now)
            cells = [
                state["run"],
                label(doing(state), 100),
                f"cell {state['cell']} of {state['cells']}",
                spoken(now - state["began"]),
                "time left unknown" if left is None else f"about {spoken(left)} left",
            ]
            table.add_row(*(Text(cell) for cell in cells))  # as text: a heading may hold brackets
        return Group(Text(self.head), table) if self.head else table


@contextmanager
def display_on_terminal() -> Iterator[Display | None]:
    """A display where stderr is a terminal; None elsewhere."""
    with Display() if sys.stderr.isatty() else nullcontext() as display:
        yield display


class Watcher:
    """Shows on a display how far several commands are, by the states that they leave in files, and prints what they said."""

    def __init__(self, display: Display):
        self.display, self.runs = display, {}
        self.folder = tempfile.TemporaryDirectory(prefix="icdpo-progress-")

    def start(self, i: int, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
        """Start command i, in a session of its own; what it prints is held back until it has ended."""
        told = {**environment, STATE_FILE: str(self._path(i, "json"))}
        with open(self._path(i, "out"), "wb") as out, open(self._path(i, "err"), "wb") as err:
            return subprocess.Popen(command, env=told, stdout=out, stderr=err, start_new_session=True)

    def look(self, running: Iterable[int], ended: Iterable[int]) -> None:
        """Show how far those are that run; print what those said that have ended, and take their lines away."""
        for i in running:
            with suppress(OSError, ValueError):
                state = json.loads(self._path(i, "json").read_text(encoding="utf-8"))
                self.runs[i] = state["run"]
                self.display.show(state)

        for i in ended:
            self.display.drop(self.runs.get(i, ""))
            for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
                stream.write(self._path(i, name).read_text(encoding="utf-8", errors="replace"))
                stream.flush()

    def _path(self, i: int, name: str) -> Path:
        return Path(self.folder.name) / f"{i}.{name}"
