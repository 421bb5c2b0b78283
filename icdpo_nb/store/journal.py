"""The journal: a copy of what a store commits, in plain files that outlive the machine that the store is on.

SQLite must not lie on a network file system. A job on another machine therefore has a store of its own on that machine's disk
and, where $ICDPO_JOURNAL names a folder, writes each chunk of results there, too, before it commits them. A file appears whole
or not at all and is named by the sha256 of its content, so a journal can be read while it is written, and what a killed job had
computed is not lost. `replay` adds the files of a journal to a store.

A file has one JSON array a line: `["stages", space, stage, inputs, created]`, then `["results", space, key, value, sha256]` and
`["costs", space, key, cost, sha256]`, as the rows of the store's tables.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface

from ..common.errors import InputError
from ..common.files import checksum, written_whole

JOURNAL = "ICDPO_JOURNAL"  # the folder to which a process writes what its store commits; unset for none
TABLES = ("stages", "results", "costs")
SUFFIX = ".jsonl"

Rows = Mapping[str, Sequence[Sequence]]  # table -> its rows


@dataclass(frozen=True)
class Added:
    """What became of rows that were added to a store: new, there already, damaged, or of another value than the store's."""

    new: int = 0
    known: int = 0
    damaged: int = 0
    different: int = 0

    def __add__(self, other: "Added") -> "Added":
        return Added(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def sentence(self) -> str:
        """The counts in words."""
        said = [f"{self.new} results added", f"{self.known} known before"]
        said += [f"{self.damaged} damaged and left out"] * bool(self.damaged)
        said += [f"{self.different} of another value, of which the value that was there is kept"] * bool(self.different)
        return ", ".join(said)


class Adds(Interface):
    """A store that rows can be added to."""

    def add(self, rows: Rows) -> Added:
        """Add the rows that are intact and new."""


def record(rows: Rows, folder: Path | str | None = None) -> None:
    """Write the rows of one chunk into a folder, by default $ICDPO_JOURNAL; does nothing if there is none.

    Raises `InputError` if the folder cannot be written: results that could be lost unnoticed would be worse.
    """
    folder = folder or os.environ.get(JOURNAL)
    if not folder:
        return
    lines = (json.dumps([table, *row], ensure_ascii=False) for table in TABLES for row in rows.get(table, ()))
    text = "".join(f"{line}\n" for line in lines)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with written_whole(Path(folder) / f"{time.time_ns()}-{checksum(text)}{SUFFIX}") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())  # it is on the disk when this returns
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"the journal {folder} cannot be written ({why}); free some space, or unset {JOURNAL}") from None


def replay(folder: Path | str, store: Adds, seen: set[Path] | None = None) -> Added:
    """Add what a journal holds to a store, file by file in the order of their writing.

    A file that is not what its name says counts as one damaged row. `seen`: files that were added before; those that are added
    now join them.
    """
    seen, total = set() if seen is None else seen, Added()
    for path in sorted(set(Path(folder).glob(f"[!.]*{SUFFIX}")) - seen):
        rows = _rows(path)
        total += Added(damaged=1) if rows is None else store.add(rows)
        seen.add(path)
    return total


def _rows(path: Path) -> Rows | None:
    try:
        text = path.read_bytes().decode()
        if checksum(text) != path.name.removesuffix(SUFFIX).partition("-")[2]:
            return None
        lines = [json.loads(line) for line in text.splitlines()]
        return {table: [tuple(row) for name, *row in lines if name == table] for table in TABLES}
    except (OSError, ValueError):
        return None
