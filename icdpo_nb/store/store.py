"""The stage store: what was embedded, retrieved, sampled, scored and rewarded once is found again, by a resumed run or another.

Each result lies under the digest of everything that can change it: the stage's inputs (model, protocol, seed, code) and the
item (a context, a context and its responses). So a changed parameter recomputes only what depends on it, and a resumed run
goes on where it was. SQLite keeps it durable, whole or absent, and safe for several processes; every result carries its
checksum, and what is damaged is never believed but computed anew. Beside a result stands what it cost to compute, so that a
run which finds it can still say so.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol as Interface

from ..common.files import cache_folder, checksum, digest
from . import claims
from .database import Database, damaged

SCHEMA = 4  # raise it when a change to the code changes results or their form
ITEMS_AT_A_TIME = 256  # items that are computed, and then kept, at a time
WAIT_SECONDS = 0.2  # seconds between two looks at what another process computes

TABLES = """
CREATE TABLE IF NOT EXISTS stages (space TEXT PRIMARY KEY, stage TEXT, inputs TEXT, created REAL);
CREATE TABLE IF NOT EXISTS results (space TEXT, key TEXT, value TEXT, sha256 TEXT, PRIMARY KEY (space, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (space TEXT, key TEXT, cost TEXT, sha256 TEXT, PRIMARY KEY (space, key)) WITHOUT ROWID;
"""


class Meter(Interface):
    """Measures what results cost: `store.compute` calls it around each chunk, and tells it the cost of all that it gave."""

    used: dict[tuple[str, str], dict | None]  # by stage and item; None where no cost was kept

    def start(self) -> None:
        """A chunk is about to be computed."""

    def spent(self) -> dict:
        """What that chunk cost. Numbers are shared out among its items, all else each of them keeps whole."""


def store_folder() -> Path:
    """Where the store lies: $ICDPO_STORE, else `store` in the cache folder."""
    return Path(os.environ.get("ICDPO_STORE") or cache_folder() / "store").expanduser()


class Store:
    """Results by stage and item, in `folder`/store.sqlite. Raises `InputError` where it cannot be opened or written.

    A damaged file is put aside, with a warning, and a new one begun. Several threads may use a store, one at a time.
    """

    def __init__(self, folder: Path | str | None = None):
        self.path = Path(folder or store_folder()) / "store.sqlite"
        self.file = Database(self.path, TABLES + claims.TABLE)
        self.file.use(self.file.open)

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
        """The value of every item: found, or computed by `run(indices)`, which returns a JSON value for each.

        None is no value: it is returned, but not kept. `chunk`: how many are computed, and then kept, at a time, if not 256.
        What another process is computing is waited for, not computed again. With a meter, each result is kept with its cost:
        the share of its chunk's that its item has of the chunk's text.
        """
        space, keys = digest([SCHEMA, stage, inputs]), [digest(item) for item in items]
        first = _first(keys)

        def work(indices: list[int]) -> tuple[list, list[dict | None]]:
            if meter is None:
                return run(indices), [None] * len(indices)
            meter.start()
            values = run(indices)
            return values, _shares(meter.spent(), [len(_text(items[i])) for i in indices])

        found = self.file.use(lambda: self._find(space, stage, inputs, first, work, bar, chunk or ITEMS_AT_A_TIME))
        if meter is not None:
            new = [key for key in first if (space, key) not in meter.used]
            costs = self.file.use(lambda: self._read(space, new, "costs", "cost"))
            meter.used |= {(space, key): costs.get(key) for key in new}
        return [found[key] for key in keys]

    def missing(self, stage: str, inputs: dict, items: Sequence[object]) -> list[int]:
        """The indices of the items that have no value yet; of equal items the first alone."""
        space, first = digest([SCHEMA, stage, inputs]), _first([digest(item) for item in items])
        found = self.file.use(lambda: self._read(space, list(first)))
        return [i for key, i in first.items() if key not in found]

    def _find(self, space: str, stage: str, inputs: dict, first: dict[str, int], work, bar, chunk: int) -> dict[str, object]:
        """The values of the keys of `first`, which gives each the number of its item."""
        self.file.db.execute("INSERT OR IGNORE INTO stages VALUES (?, ?, ?, ?)", (space, stage, _text(inputs), time.time()))
        found: dict[str, object] = {}
        written: set[str] = set()
        while missing := [key for key in first if key not in found]:
            new = self._read(space, missing)
            found |= new
            if bar:
                bar.update(len(new))
            wanted = [key for key in missing if key not in new][:chunk]
            mine = claims.claim(self.file.db, space, wanted, lambda keys: self._read(space, keys))
            if written & set(mine):
                raise damaged("a result that was written is not found again")
            written |= set(mine)
            if mine:
                found |= dict.fromkeys(self._run(space, mine, [first[key] for key in mine], work))
            elif not new:
                time.sleep(WAIT_SECONDS)
        return found

    def _run(self, space: str, keys: list[str], indices: list[int], work: Callable) -> list[str]:
        """Compute claimed items and keep them, all or none; the claim ends in either case. Returns the keys without a value."""
        try:
            values, costs = work(indices)
            texts = {k: _text(value) for k, value in zip(keys, values, strict=True) if value is not None}
            spent = {k: _text(cost) for k, cost in zip(keys, costs, strict=True) if k in texts and cost is not None}
            self.file.db.execute("BEGIN IMMEDIATE")
            for table, kept in (("results", texts), ("costs", spent)):
                rows = [(space, k, t, checksum(t)) for k, t in kept.items()]
                self.file.db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", rows)
            self.file.db.execute("COMMIT")
            return [k for k in keys if k not in texts]
        except sqlite3.Error:
            if self.file.db.in_transaction:
                self.file.db.execute("ROLLBACK")
            raise
        finally:
            claims.release(self.file.db, space, keys)

    def _read(self, space: str, keys: Sequence[str], table: str = "results", column: str = "value") -> dict[str, object]:
        """The values, or the costs, that are there and whole."""
        found = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self.file.db.execute(
                f"SELECT key, {column}, sha256 FROM {table} WHERE space = ? AND key IN ({marks})", (space, *part)
            )
            found |= {k: json.loads(text) for k, text, check in rows if _whole(text, check)}
        return found

    def stages(self) -> list[dict]:
        """What the store holds: stage, inputs, how many results, bytes, when it began."""
        rows = self.file.use(lambda: self.file.db.execute(
            "SELECT stage, inputs, COUNT(key), COALESCE(SUM(LENGTH(value)), 0), created FROM stages LEFT JOIN results "
            "USING (space) GROUP BY space ORDER BY created"
        ).fetchall())  # fmt: skip
        return [
            {"stage": stage, "inputs": _value(inputs), "results": n, "bytes": size, "created": created}
            for stage, inputs, n, size, created in rows
        ]

    def verify(self) -> tuple[int, int]:
        """How many results there are, and how many of them are damaged; the damaged are removed, to be computed anew."""
        return self.file.use(self._verify)

    def _verify(self) -> tuple[int, int]:
        n, bad = 0, []
        for space, key, text, check in self.file.db.execute("SELECT space, key, value, sha256 FROM results"):
            n += 1
            bad += [(space, key)] if not _whole(text, check) else []
        self.file.db.executemany("DELETE FROM results WHERE space = ? AND key = ?", bad)
        return n, len(bad)

    def clean(self) -> int:
        """Remove everything; how many results there were."""
        return self.file.use(self._clean)

    def _clean(self) -> int:
        (n,) = self.file.db.execute("SELECT COUNT(*) FROM results").fetchone()
        for table in ("results", "costs", "stages", "claims"):
            self.file.db.execute(f"DELETE FROM {table}")
        self.file.db.execute("VACUUM")
        return n


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shares(cost: dict, sizes: Sequence[int]) -> list[dict]:
    """A chunk's cost shared out in proportion to the sizes of its items; what is no number each of them has whole."""
    parts = [size / sum(sizes) for size in sizes]
    return [{k: v * part if isinstance(v, int | float) else v for k, v in cost.items()} for part in parts]


def _first(keys: Sequence[str]) -> dict[str, int]:
    """Each key with the number of the first item that has it."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return first


def _whole(text: object, check: object) -> bool:
    return isinstance(text, str) and checksum(text) == check


def _value(text: object) -> object:
    """What a text says, or nothing if it is damaged."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return {}
