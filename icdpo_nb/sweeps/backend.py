"""What a backend is: it runs saved jobs somewhere and says how each ended.

The driver (`driver.py`) knows nothing else of where jobs run. The attempts at a job have a folder, below the hidden folder of
the sweep, with `job.json` and `where`, the folder that the sweep was asked for in. There an attempt leaves `out` and `err`, its
progress, and a journal of its results if it ran apart. A backend runs `command(folder)` by `start` where it shares the driver's
store. Where it does not, on another machine, it calls `work_apart(folder)` there, which needs the folder and this package.

To add one: write a module with a class like `local.Local`, and name it in `backends.py`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol as Interface

from ..common.errors import InputError, hint
from ..reports.processes import end
from ..reports.progress import STATE_FILE
from ..reports.report import hidden_folder
from ..store.journal import JOURNAL, replay
from ..store.store import Store

JOB, WHERE, OUT, ERR, STATE, JOURNAL_FOLDER = "job.json", "where", "out", "err", "progress.json", "journal"  # of an attempt
SNAPSHOT = "store.sqlite"  # beside the folders of the attempts: what the driver's store held when the sweep began
KILLED, TOO_LONG = 4, 5  # exit codes, as in `cli.py`


class Attempt(Interface):
    """One attempt at a job, begun or waiting for its turn."""

    def code(self) -> int | None:
        """Its exit code (see `cli.py`), or None before it has ended. Never blocks for long."""

    def reason(self) -> str:
        """Why it ended badly, where the run itself could not say so: killed, or never begun; "" if nothing is known."""


class Backend(Interface):
    """A place where jobs run."""

    apart: bool  # whether its jobs have stores of their own, on other machines
    slots: int  # attempts that it takes at a time; those that wait for their turn in its own queue count

    def submit(self, folders: Sequence[Path]) -> list[Attempt]:
        """Begin an attempt for each folder, which holds a saved job. Raises `InputError` if none can be begun."""

    def close(self) -> None:
        """End all attempts, and wait until they have ended. Called once, also after an interrupt."""


def command(folder: Path) -> list[str]:
    """The command that runs the job of an attempt."""
    return [sys.executable, "-m", "icdpo_nb", "run", str(folder / JOB)]


def environment(folder: Path) -> dict[str, str]:
    """What the command of an attempt needs in its environment, besides this process's."""
    return {STATE_FILE: str(folder / STATE)}


def start(folder: Path, more: Mapping[str, str], unless_given: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start the command of an attempt in a session of its own, so that Ctrl-C reaches the driver alone.

    `more`: variables of its environment; `unless_given`: those that this process's environment may say otherwise.
    """
    with open(folder / OUT, "wb") as out, open(folder / ERR, "wb") as err:
        told = {**(unless_given or {}), **os.environ, **environment(folder), **more}
        where = (folder / WHERE).read_text(encoding="utf-8")  # names of files are relative to it
        return subprocess.Popen(command(folder), cwd=where, env=told, stdout=out, stderr=err, start_new_session=True)


def work_apart(folder: Path, unless_given: Mapping[str, str] | None = None) -> int:
    """Run the job of an attempt on this machine with a store of its own; returns the exit code. `unless_given`: see `start`.

    The store lies in the machine's temporary folder ($TMPDIR). It begins with what the driver's store held and with the
    journals of all attempts so far, also of one that was killed. What it computes goes to the attempt's journal, too.
    """
    with hidden_folder(Path(tempfile.gettempdir()), "icdpo-node") as own:  # clears what killed jobs have left there
        fill(own, folder.parent)
        process = start(folder, {"ICDPO_STORE": str(own), JOURNAL: str(folder / JOURNAL_FOLDER)}, unless_given)
        try:
            code = process.wait()
        finally:
            end([process])
    if code < 0:
        with open(folder / ERR, "a", encoding="utf-8") as err:
            err.write(f"icdpo-nb: {killed_by(-code)}\n")
    return exit_code(code)


def exit_code(code: int) -> int:
    """The exit code of a process as the command line counts it: `KILLED` if a signal ended it."""
    return code if code >= 0 else KILLED


def killed_by(signal: int) -> str:
    """Why a process that a signal ended may have ended."""
    return f"killed by signal {signal}; perhaps it ran out of memory"


def fill(own: Path, work: Path) -> None:
    """Fill a store that is still empty with the snapshot and the journals of a sweep."""
    if (work / SNAPSHOT).is_file():
        shutil.copyfile(work / SNAPSHOT, own / SNAPSHOT)
    store = Store(own)
    for journal in sorted(work.glob(f"*/{JOURNAL_FOLDER}")):
        replay(journal, store)
    store.file.db.close()


def options(given: Mapping[str, object], known: Mapping[str, type], backend: str) -> dict[str, object]:
    """The options of a sweep file's section `on`, checked. `known`: their names and types, a list for lists of texts."""
    for name, value in given.items():
        if name not in known:
            raise InputError(f"the backend {backend} has no option {name!r}; {hint(name, known)}")
        fits = isinstance(value, known[name]) and not (isinstance(value, bool) and known[name] is not bool)
        if not fits or (isinstance(value, int) and value < (0 if name == "gpus" else 1)):
            raise InputError(f"option {name} of the backend {backend} must be {known[name].__name__}, not {value!r}")
    return dict(given)
