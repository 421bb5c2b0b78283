"""The store: a persistent cache of embeddings, samples, log-probabilities, rewards and verdicts, shared between runs.

The key of a result is a digest of everything that can change it: the stage's inputs (model, protocol, seed, code) and
the item (a context, or a context with its responses). A changed parameter therefore recomputes only the results that
depend on it, and a resumed run continues where it stopped. SQLite makes writes atomic, durable and safe across processes.
Every result has a checksum; damaged results are recomputed. The cost of each result is stored with it, so that a run
that reuses the result can still report its cost.
"""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Protocol as Interface

from ..common.files import cache_folder, checksum, digest
from . import claims, journal
from .database import Database, damaged
from .upstream import upstream
from .vectors import VectorFiles, folders_of_encoders

SCHEMA = 4  # increase when a code change alters results or their format
ITEMS_AT_A_TIME = 256  # items that are computed and written together
WAIT_SECONDS = 0.2  # polling interval while another process computes an item

TABLES = """
CREATE TABLE IF NOT EXISTS stages (space TEXT PRIMARY KEY, stage TEXT, inputs TEXT, created REAL);
CREATE TABLE IF NOT EXISTS results (space TEXT, key TEXT, value TEXT, sha256 TEXT, PRIMARY KEY (space, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (space TEXT, key TEXT, cost TEXT, sha256 TEXT, PRIMARY KEY (space, key)) WITHOUT ROWID;
"""


class Meter(Interface):
    """Measures the cost of results. `Store.compute` calls it around each chunk and fills in `used`."""

    used: dict[tuple[str, str], dict | None]  # (stage, item) -> cost, or None if no cost is stored

    def start(self) -> None:
        """Called before a chunk is computed."""

    def spent(self) -> dict:
        """The cost of the chunk. Numbers are divided among its items; other values are copied to each item."""


def store_folder() -> Path:
    """The folder of the store: $ICDPO_STORE, or `store` in the cache folder."""
    return Path(os.environ.get("ICDPO_STORE") or cache_folder() / "store").expanduser()


class Store:
    """Results by stage and item, in `folder`/store.sqlite. Raises `InputError` if the file cannot be opened or written.

    A damaged file is moved aside with a warning and replaced by a new one. Threads that share a store take turns.
    """

    def __init__(self, folder: Path | str | None = None):
        self.path = Path(folder or store_folder()) / "store.sqlite"
        self.file = Database(self.path, TABLES + claims.TABLE)
        self.file.use(self.file.open)
        self.upstream = upstream()
        self.turn = RLock()  # a connection has one transaction at a time, so threads that share a store take turns

    def compute(
        self,
        stage: str,
        inputs: dict,
        items: Sequence[object],
        run: Callable[[list[int]], list],
        bar=None,
        chunk: int = 0,
        meter: Meter | None = None,
    ) -> list[object]:
        """The value of every item, read from the store or computed by `run(indices)`, which returns one JSON value per index.

        `run` may also return an iterator of (places in `indices`, values), which are stored as they come. None values are
        returned but not stored. `chunk` is the number of items to compute at a time (0: 256). Items that another process
        is computing are awaited, not recomputed. With a meter, each result is stored with its cost: the cost of results
        that come together is divided in proportion to the text lengths of the items.
        """
        space, keys = digest([SCHEMA, stage, inputs]), [digest(item) for item in items]
        first = _first(keys)

        def work(indices: list[int]) -> Iterator[tuple[Sequence[int], list, list[dict | None]]]:
            """Yield places in `indices`, their values and their costs."""
            if meter is not None:
                meter.start()
            done = run(indices)
            for places, values in [(range(len(indices)), done)] if isinstance(done, list) else done:
                sizes = [len(_text(items[indices[p]])) for p in places]
                yield places, values, [None] * len(values) if meter is None else _shares(meter.spent(), sizes)
                if meter is not None:
                    meter.start()

        with self.turn:
            values = self.file.use(lambda: self._values(space, stage, inputs, first, work, bar, chunk or ITEMS_AT_A_TIME))
            if meter is not None:
                new = [key for key in first if (space, key) not in meter.used]
                costs = self.file.use(lambda: self._read(space, new, "costs", "cost"))
                meter.used |= {(space, key): costs.get(key) for key in new}
        return [values[key] for key in keys]

    def missing(self, stage: str, inputs: dict, items: Sequence[object]) -> list[int]:
        """The indices of the items without a stored value; for equal items, only the first index."""
        space, first = digest([SCHEMA, stage, inputs]), _first([digest(item) for item in items])
        with self.turn:
            stored = self.file.use(lambda: self._read(space, list(first)))
        return [i for key, i in first.items() if key not in stored]

    def _values(self, space: str, stage: str, inputs: dict, first: dict[str, int], work, bar, chunk: int) -> dict[str, object]:
        """The values of the keys of `first`, which maps each key to the index of its item."""
        self.file.db.execute("INSERT OR IGNORE INTO stages VALUES (?, ?, ?, ?)", (space, stage, _text(inputs), time.time()))
        values: dict[str, object] = {}
        written: set[str] = set()
        while missing := [key for key in first if key not in values]:
            new = self._found(space, missing)
            values |= new
            if bar:
                bar.update(len(new.keys() - written))
            wanted = [key for key in missing if key not in new][:chunk]
            claimed = self._claim(space, wanted)
            if written & set(claimed):
                raise damaged("a written result cannot be read back")
            written |= set(claimed)
            if claimed:
                values |= dict.fromkeys(self._run(space, claimed, [first[key] for key in claimed], work, bar))
            elif not new:
                time.sleep(WAIT_SECONDS)
        return values

    def _run(self, space: str, keys: list[str], indices: list[int], work: Callable, bar) -> list[str]:
        """Compute claimed items, store those that come together, and release the claims. Returns the keys without a value."""
        kept: set[str] = set()
        try:
            for places, values, costs in work(indices):
                kept |= self._keep(space, [keys[p] for p in places], values, costs)
                if bar:
                    bar.update(len(places))
            return [k for k in keys if k not in kept]
        finally:
            self._release(space, keys)

    def _keep(self, space: str, keys: list[str], values: Sequence, costs: Sequence[dict | None]) -> set[str]:
        """Store results and their costs in one transaction. Returns the keys that have a value."""
        texts = {k: _text(value) for k, value in zip(keys, values, strict=True) if value is not None}
        cost_texts = {k: _text(cost) for k, cost in zip(keys, costs, strict=True) if k in texts and cost is not None}
        rows = {name: _rows(space, entries) for name, entries in (("results", texts), ("costs", cost_texts))}
        if rows["results"]:
            stage = self.file.db.execute("SELECT * FROM stages WHERE space = ?", (space,)).fetchall()
            journal.record({"stages": stage, **rows})
            if self.upstream:
                self.upstream.add({"stages": stage, **rows})
        try:
            self.file.db.execute("BEGIN IMMEDIATE")
            for table, entries in rows.items():
                self.file.db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", entries)
            self.file.db.execute("COMMIT")
        except sqlite3.Error:
            if self.file.db.in_transaction:
                self.file.db.execute("ROLLBACK")
            raise
        return texts.keys()

    def _found(self, space: str, keys: Sequence[str]) -> dict[str, object]:
        """The stored values of the keys, with those that the store upstream has."""
        here = self._read(space, keys)
        if self.upstream and len(here) < len(keys):
            self._add(self.upstream.read(space, [key for key in keys if key not in here]))
            here = self._read(space, keys)
        return here

    def _claim(self, space: str, keys: Sequence[str]) -> list[str]:
        """Claim the keys that nobody has claimed and that have no result, here and upstream, and return them."""
        claimed = claims.claim(self.file.db, space, keys, lambda keys: self._read(space, keys))
        if not self.upstream:
            return claimed
        granted = self.upstream.claim(space, claimed)
        claims.release(self.file.db, space, [key for key in claimed if key not in granted])
        return granted

    def _release(self, space: str, keys: Sequence[str]) -> None:
        claims.release(self.file.db, space, keys)
        if self.upstream:
            self.upstream.release(space, keys)

    def _read(self, space: str, keys: Sequence[str], table: str = "results", column: str = "value") -> dict[str, object]:
        """The stored and undamaged values (or costs) of the keys."""
        entries = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self.file.db.execute(
                f"SELECT key, {column}, sha256 FROM {table} WHERE space = ? AND key IN ({marks})", (space, *part)
            )
            entries |= {key: json.loads(text) for key, text, check in rows if _intact(text, check)}
        return entries

    def rows(self, space: str, keys: Sequence[str]) -> journal.Rows:
        """The stored results of the keys, with their costs, for another store."""
        with self.turn:
            return self.file.use(lambda: self._rows_of(space, keys))

    def _rows_of(self, space: str, keys: Sequence[str]) -> journal.Rows:
        stages = self.file.db.execute("SELECT * FROM stages WHERE space = ?", (space,)).fetchall()
        query = "SELECT * FROM {} WHERE space = ? AND key = ?"
        found = {table: [self.file.db.execute(query.format(table), (space, key)).fetchone() for key in keys]
                 for table in ("results", "costs")}  # fmt: skip
        return {"stages": stages, **{table: [row for row in rows if row] for table, rows in found.items()}}

    def claim(self, space: str, keys: Sequence[str]) -> list[str]:
        """Claim items for another store: those that no other process has claimed and that have no result."""
        with self.turn:
            return self.file.use(lambda: self._claim(space, keys))

    def release(self, space: str, keys: Sequence[str]) -> None:
        """Release claims."""
        with self.turn:
            self.file.use(lambda: self._release(space, keys))

    def add(self, rows: journal.Rows) -> journal.Added:
        """Add the rows of another store or of a journal that are intact and new, in one transaction.

        Where both have a value for the same key, the one that is here stays. Costs come with the results that are new.
        """
        with self.turn:
            return self.file.use(lambda: self._add(rows))

    def _add(self, rows: journal.Rows) -> journal.Added:
        intact = [row for row in rows["results"] if len(row) == 4 and _intact(*row[2:])]
        db, query = self.file.db, "SELECT value, sha256 FROM results WHERE space = ? AND key = ?"
        with db:  # rolls back if an error leaves it
            db.execute("BEGIN IMMEDIATE")
            found = {row[:2]: db.execute(query, row[:2]).fetchone() or (None, None) for row in intact}
            here = {pair: value for pair, (value, check) in found.items() if _intact(value, check)}
            new = {row[:2]: row for row in intact if row[:2] not in here}
            costs = [row for row in rows["costs"] if len(row) == 4 and row[:2] in new and _intact(*row[2:])]
            db.executemany("INSERT OR IGNORE INTO stages VALUES (?, ?, ?, ?)", [r for r in rows["stages"] if len(r) == 4])
            for table, entries in (("results", new.values()), ("costs", costs)):
                db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", entries)
        different = sum(here.get(row[:2], row[2]) != row[2] for row in intact)
        return journal.Added(len(new), len(intact) - len(new) - different, len(rows["results"]) - len(intact), different)

    def stages(self) -> list[dict]:
        """The contents of the store: stage, inputs, number of results, bytes and creation time."""
        rows = self.file.use(lambda: self.file.db.execute(
            "SELECT stage, inputs, COUNT(key), COALESCE(SUM(LENGTH(value)), 0), created FROM stages LEFT JOIN results "
            "USING (space) GROUP BY space ORDER BY created"
        ).fetchall())  # fmt: skip
        found = [
            {"stage": stage, "inputs": _value(inputs), "results": n, "bytes": size, "created": created}
            for stage, inputs, n, size, created in rows
        ]
        for folder in folders_of_encoders(self.path.parent):
            size = sum(file.stat().st_size for file in folder.glob("*.npy"))
            about = {"stage": "vectors", "inputs": {"folder": folder.name}, "bytes": size}
            found.append(about | {"results": len(VectorFiles(folder)), "created": folder.stat().st_ctime})
        return found

    def verify(self) -> tuple[int, int]:
        """Remove damaged results, which are then recomputed. Returns the numbers of all and of damaged results.

        A damaged file of vectors counts as one result.
        """
        n, bad = self.file.use(self._verify)
        files = [VectorFiles(folder) for folder in folders_of_encoders(self.path.parent)]
        damaged_files = sum(f.damaged for f in files)
        return n + sum(map(len, files)) + damaged_files, bad + damaged_files

    def _verify(self) -> tuple[int, int]:
        n, bad = 0, []
        for space, key, text, check in self.file.db.execute("SELECT space, key, value, sha256 FROM results"):
            n += 1
            if not _intact(text, check):
                bad.append((space, key))
        self.file.db.executemany("DELETE FROM results WHERE space = ? AND key = ?", bad)
        return n, len(bad)

    def clean(self) -> int:
        """Remove everything. Returns the number of removed results."""
        n = self.file.use(self._clean)
        for folder in folders_of_encoders(self.path.parent):
            n += len(VectorFiles(folder))
            shutil.rmtree(folder)
        return n

    def _clean(self) -> int:
        (n,) = self.file.db.execute("SELECT COUNT(*) FROM results").fetchone()
        for table in ("results", "costs", "stages", "claims"):
            self.file.db.execute(f"DELETE FROM {table}")
        self.file.db.execute("VACUUM")
        return n


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shares(cost: dict, sizes: Sequence[int]) -> list[dict]:
    """Divide a chunk's cost among its items in proportion to their sizes; values that are not numbers are copied."""
    fractions = [size / sum(sizes) for size in sizes]
    return [{k: v * fraction if isinstance(v, int | float) else v for k, v in cost.items()} for fraction in fractions]


def _rows(space: str, entries: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    return [(space, key, text, checksum(text)) for key, text in entries.items()]


def _first(keys: Sequence[str]) -> dict[str, int]:
    """Map each key to the index of its first item."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return first


def _intact(text: object, check: object) -> bool:
    return isinstance(text, str) and checksum(text) == check


def _value(text: object) -> object:
    """The JSON value of a text, or {} if the text is damaged."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return {}
