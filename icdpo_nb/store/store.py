"""The store: a persistent cache of embeddings, samples, log-probabilities, rewards and verdicts, shared between runs.

The key of a result is a digest of everything that can change it: the stage's inputs (model, protocol, seed, code) and
the item (a context, or a context with its responses). A changed parameter therefore recomputes only the results that
depend on it, and a resumed run continues where it stopped. SQLite makes writes atomic, durable and safe across processes.
Every result has a checksum; damaged results are recomputed. The cost of each result is stored with it, so that a run
that reuses the result can still report its cost.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import RLock
from typing import Protocol as Interface

from ..common.files import cache_folder, digest
from . import claims, journal
from .database import damaged
from .results import Results, as_text
from .upstream import upstream
from .vectors import VectorFiles, folders_of_encoders

SCHEMA = 4  # increase when a code change alters results or their format
ITEMS_AT_A_TIME = 256  # items that are computed and written together
WAIT_SECONDS = 0.2  # polling interval while another process computes an item


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
        self.file = Results(self.path)
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
                sizes = [len(as_text(items[indices[p]])) for p in places]
                yield places, values, [None] * len(values) if meter is None else _shares(meter.spent(), sizes)
                if meter is not None:
                    meter.start()

        with self.turn:
            values = self.file.use(lambda: self._values(space, stage, inputs, first, work, bar, chunk or ITEMS_AT_A_TIME))
            if meter is not None:
                new = [key for key in first if (space, key) not in meter.used]
                costs = self.file.use(lambda: self.file.read(space, new, "costs"))
                meter.used |= {(space, key): costs.get(key) for key in new}
        return [values[key] for key in keys]

    def missing(self, stage: str, inputs: dict, items: Sequence[object]) -> list[int]:
        """The indices of the items without a stored value; for equal items, only the first index."""
        space, first = digest([SCHEMA, stage, inputs]), _first([digest(item) for item in items])
        with self.turn:
            stored = self.file.use(lambda: self.file.read(space, list(first)))
        return [i for key, i in first.items() if key not in stored]

    def _values(self, space: str, stage: str, inputs: dict, first: dict[str, int], work, bar, chunk: int) -> dict[str, object]:
        """The values of the keys of `first`, which maps each key to the index of its item."""
        self.file.begin(space, stage, inputs)
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
        """Store results and their costs, here and wherever else they go. Returns the keys that have a value."""
        found = {k: value for k, value in zip(keys, values, strict=True) if value is not None}
        spent = {k: cost for k, cost in zip(keys, costs, strict=True) if k in found and cost is not None}
        if found:
            rows = self.file.new_rows(space, found, spent)
            journal.record(rows)
            if self.upstream:
                self.upstream.add(rows)
            self.file.write(rows)
        return found.keys()

    def _found(self, space: str, keys: Sequence[str]) -> dict[str, object]:
        """The stored values of the keys, with those that the store upstream has."""
        here = self.file.read(space, keys)
        if self.upstream and len(here) < len(keys):
            self.file.add(self.upstream.read(space, [key for key in keys if key not in here]))
            here = self.file.read(space, keys)
        return here

    def _claim(self, space: str, keys: Sequence[str]) -> list[str]:
        """Claim the keys that nobody has claimed and that have no result, here and upstream, and return them."""
        claimed = claims.claim(self.file.db, space, keys, lambda keys: self.file.read(space, keys))
        if not self.upstream:
            return claimed
        granted = self.upstream.claim(space, claimed)
        claims.release(self.file.db, space, [key for key in claimed if key not in granted])
        return granted

    def _release(self, space: str, keys: Sequence[str]) -> None:
        claims.release(self.file.db, space, keys)
        if self.upstream:
            self.upstream.release(space, keys)

    def rows(self, space: str, keys: Sequence[str]) -> journal.Rows:
        """The stored results of the keys, with their costs, for another store."""
        with self.turn:
            return self.file.use(lambda: self.file.rows(space, keys))

    def claim(self, space: str, keys: Sequence[str]) -> list[str]:
        """Claim items for another store: those that no other process has claimed and that have no result."""
        with self.turn:
            return self.file.use(lambda: self._claim(space, keys))

    def release(self, space: str, keys: Sequence[str]) -> None:
        """Release claims."""
        with self.turn:
            self.file.use(lambda: self._release(space, keys))

    def add(self, rows: journal.Rows) -> journal.Added:
        """Add the rows of another store or of a journal that are intact and new; see `Results.add`."""
        with self.turn:
            return self.file.use(lambda: self.file.add(rows))

    def stages(self) -> list[dict]:
        """The contents of the store: stage, inputs, number of results, bytes and creation time."""
        found = self.file.use(self.file.contents)
        for folder in folders_of_encoders(self.path.parent):
            size = sum(file.stat().st_size for file in folder.glob("*.npy"))
            about = {"stage": "vectors", "inputs": {"folder": folder.name}, "bytes": size}
            found.append(about | {"results": len(VectorFiles(folder)), "created": folder.stat().st_ctime})
        return found

    def verify(self) -> tuple[int, int]:
        """Remove damaged results, which are then recomputed. Returns the numbers of all and of damaged results.

        A damaged file of vectors counts as one result.
        """
        n, bad = self.file.use(self.file.verify)
        files = [VectorFiles(folder) for folder in folders_of_encoders(self.path.parent)]
        damaged_files = sum(f.damaged for f in files)
        return n + sum(map(len, files)) + damaged_files, bad + damaged_files

    def clean(self) -> int:
        """Remove everything. Returns the number of removed results."""
        n = self.file.use(self.file.clean)
        for folder in folders_of_encoders(self.path.parent):
            n += len(VectorFiles(folder))
            shutil.rmtree(folder)
        return n


def _shares(cost: dict, sizes: Sequence[int]) -> list[dict]:
    """Divide a chunk's cost among its items in proportion to their sizes; values that are not numbers are copied."""
    fractions = [size / sum(sizes) for size in sizes]
    return [{k: v * fraction if isinstance(v, int | float) else v for k, v in cost.items()} for fraction in fractions]


def _first(keys: Sequence[str]) -> dict[str, int]:
    """Map each key to the index of its first item."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return first
