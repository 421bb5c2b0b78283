"""The union of two stores, and a copy of one that another machine can begin with."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..common.errors import InputError
from ..common.files import written_whole
from .journal import Added, Rows
from .store import Store

AT_A_TIME = 2000  # results that are read and added together


def store_at(place: Path | str) -> Store:
    """The store in a folder, or that of a file store.sqlite; made if there is none. Raises `InputError` for another file."""
    path = Path(place).expanduser()
    if path.is_file() and path.name != "store.sqlite":
        raise InputError(f"{path}: not a store; give a folder with store.sqlite, or such a file")
    return Store(path.parent if path.name == "store.sqlite" else path)


def join(store: Store, other: Path | str) -> Added:
    """Add what another store has to `store`; `other` is its folder or its file and stays as it is.

    Damaged results are left out. Where both have a value for the same key, that of `store` stays. Raises `InputError` if there
    is no store at `other`, or if it is the same one.
    """
    path = Path(other).expanduser()
    path = path / "store.sqlite" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no store there; give a folder with store.sqlite, or such a file")
    if store.path.exists() and path.samefile(store.path):
        raise InputError(f"{path}: both stores are the same; give another one")
    total = Added()
    for rows in _chunks(path):
        total += store.add(rows)
    return total


def _chunks(path: Path) -> Iterator[Rows]:
    """The rows of a store's file, `AT_A_TIME` results with their costs at a time."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a damaged text then fails its checksum
        stages = db.execute("SELECT space, stage, inputs, created FROM stages").fetchall()
        read = db.execute("SELECT space, key, value, sha256 FROM results")
        yield {"stages": stages, "results": [], "costs": []}
        while results := read.fetchmany(AT_A_TIME):
            query = "SELECT space, key, cost, sha256 FROM costs WHERE space = ? AND key = ?"
            costs = [row for result in results for row in db.execute(query, result[:2])]
            yield {"stages": [], "results": results, "costs": costs}
        db.close()
    except sqlite3.Error as error:
        raise InputError(f"{path}: not a store that can be read ({error}); give another one") from None


def snapshot(store: Store, target: Path) -> None:
    """Write a copy of a store as one file at `target`, whole or not at all, which may lie on a network file system.

    It is made on a disk of this machine, and holds no claims: the processes that made them are not its reader's.
    """
    with tempfile.TemporaryDirectory(prefix="icdpo-snapshot-") as folder:
        copy = Path(folder) / "store.sqlite"
        with store.turn:
            store.file.use(lambda: store.file.db.execute("VACUUM INTO ?", (str(copy),)))
        db = sqlite3.connect(copy, isolation_level=None)
        db.execute("DELETE FROM claims")
        db.close()
        with open(copy, "rb") as made, written_whole(target) as file:
            shutil.copyfileobj(made, file)
