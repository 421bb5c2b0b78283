"""The SQLite file of the store. A damaged file is moved aside and replaced by a new one."""

import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..common.errors import InputError

T = TypeVar("T")


class Database:
    """A SQLite file at `path`. `open` sets the connection `db`.

    `tables` is SQL that creates the missing tables.
    """

    def __init__(self, path: Path, tables: str):
        self.path, self.tables = path, tables

    def open(self) -> None:
        """Open the file, or create it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self.db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a damaged text then fails its checksum
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")  # committed results survive a power failure
        self.db.executescript(self.tables)

    def use(self, action: Callable[[], T]) -> T:
        """Call `action()`. If the file is damaged, move it aside and call `action()` again with a new file.

        Raises `InputError` if the file cannot be opened, read or written.
        """
        try:
            return action()
        except UnicodeDecodeError as error:  # raised for a damaged schema, which SQLite quotes in its message
            self._move_aside(error)
        except (OSError, sqlite3.Error) as error:
            if not getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise self._unusable(error) from None
            self._move_aside(error)
        try:
            self.open()
            return action()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None

    def _move_aside(self, error: Exception) -> None:
        self.db.close()
        backup = self.path.with_name(f"damaged-{time.time_ns()}.sqlite")
        for suffix in ("", "-wal", "-shm"):
            if (part := Path(f"{self.path}{suffix}")).exists():
                part.rename(f"{backup}{suffix}")
        warnings.warn(f"the store {self.path} was damaged ({error}) and has been moved to {backup.name}", stacklevel=4)

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"the store {self.path} cannot be used ({error}); free some space, repair or remove it, or set ICDPO_STORE to "
            "another folder"
        )


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """What the block writes comes to the disk in one step, or not at all if an error leaves it."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield


def damaged(why: str) -> sqlite3.DatabaseError:
    """The error that SQLite raises for a damaged file, for damage that SQLite does not detect."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error
