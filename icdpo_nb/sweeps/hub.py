"""The hub of a sweep over several machines: the driver's store, which the stores of all attempts ask and add to.

It lives on the driver's machine. A claim belongs to an attempt; `forget` releases those of one that ended or was lost.
"""

from collections.abc import Sequence
from pathlib import Path

from ..store.journal import Added, Rows
from ..store.store import Store


class Hub:
    """The store in `folder`, for attempts by name."""

    def __init__(self, folder: str):
        self.store = Store(folder)
        self.taken: dict[tuple[str, str], str] = {}  # (space, key) -> the attempt that computes it
        self.added = Added()

    def read(self, attempt: str, space: str, keys: Sequence[str]) -> Rows:
        """What the store has of these results, with their costs."""
        return self.store.rows(space, keys)

    def claim(self, attempt: str, space: str, keys: Sequence[str]) -> list[str]:
        """Those of the keys that the attempt may compute: no other process or attempt does, and there is no result."""
        free = [key for key in keys if self.taken.get((space, key), attempt) == attempt]
        claimed = self.store.claim(space, free)
        self.taken |= {(space, key): attempt for key in claimed}
        return claimed

    def add(self, attempt: str, rows: Rows) -> None:
        """Add results of an attempt, and release its claims on them."""
        self.added += self.store.add({table: [tuple(row) for row in entries] for table, entries in rows.items()})
        for space in {row[0] for row in rows["results"]}:
            self.release(attempt, space, [row[1] for row in rows["results"] if row[0] == space])

    def release(self, attempt: str, space: str, keys: Sequence[str]) -> None:
        """Leave items that an attempt claimed to others."""
        own = [key for key in keys if self.taken.get((space, key)) == attempt]
        self.store.release(space, own)
        for key in own:
            del self.taken[space, key]

    def forget(self, attempt: str) -> None:
        """Release all claims of an attempt, which has ended."""
        own = [pair for pair, owner in self.taken.items() if owner == attempt]
        for space in {space for space, _ in own}:
            self.release(attempt, space, [key for of, key in own if of == space])

    def tell(self, path: str, text: str) -> None:
        """Write how far an attempt is where the driver reads it."""
        Path(path).write_text(text, encoding="utf-8")

    def account(self) -> Added:
        """What attempts added so far."""
        return self.added
