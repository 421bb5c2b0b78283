"""The store's SQLite file: opened, and where it is damaged put aside and begun anew."""

import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..common.errors import InputError

T = TypeVar("T")


class Database:
    """A SQLite file, `path`; `db` is the connection to it, as soon as `open` was used.

    `tables`: SQL that makes those tables that are not there.
    """

    def __init__(self, path: Path, tables: str):
        self.path, self.tables = path, tables

    def open(self) -> None:
        """Open the file, or begin it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self.db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a damaged text then fails its checksum
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")  # what is kept survives a power cut
        self.db.executescript(self.tables)

    def use(self, action: Callable[[], T]) -> T:
        """`action()`; if the file turns out to be damaged, it is put aside and `action()` begins again with a new one.

        Raises `InputError` where the file cannot be opened, read or written.
        """
        try:
            return action()
        except UnicodeDecodeError as error:  # SQLite quotes a damaged schema
            self._put_aside(error)
        except (OSError, sqlite3.Error) as error:
            if not getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise self._unusable(error) from None
            self._put_aside(error)
        try:
            self.open()
            return action()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None

    def _put_aside(self, error: Exception) -> None:
        self.db.close()
        aside = self.path.with_name(f"damaged-{time.time_ns()}.sqlite")
        for ending in ("", "-wal", "-shm"):
            if (part := Path(f"{self.path}{ending}")).exists():
                part.rename(f"{aside}{ending}")
        warnings.warn(f"the store {self.path} was damaged ({error}); it now lies in {aside.name}", stacklevel=4)

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"the store {self.path} cannot be used ({error}); free some space, repair or remove it, or set ICDPO_STORE to "
            "another folder"
        )


def damaged(why: str) -> sqlite3.DatabaseError:
    """What SQLite raises for a damaged file, where it has not noticed."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error
