"""The tables of a store: results by space (a stage with its inputs) and key (an item), their costs, and what the spaces are.

Every value has a checksum; a damaged one counts as missing.
"""

import json
import time
from collections.abc import Mapping, Sequence

from ..common.files import checksum
from . import claims
from .database import Database, transaction
from .journal import Added, Rows

TABLES = """
CREATE TABLE IF NOT EXISTS stages (space TEXT PRIMARY KEY, stage TEXT, inputs TEXT, created REAL);
CREATE TABLE IF NOT EXISTS results (space TEXT, key TEXT, value TEXT, sha256 TEXT, PRIMARY KEY (space, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (space TEXT, key TEXT, cost TEXT, sha256 TEXT, PRIMARY KEY (space, key)) WITHOUT ROWID;
"""
VALUES = {"results": "value", "costs": "cost"}  # table -> the column of its values


class Results(Database):
    """The tables in a SQLite file at `path`. All methods are for use within `Database.use`."""

    def __init__(self, path):
        super().__init__(path, TABLES + claims.TABLE)

    def begin(self, space: str, stage: str, inputs: object) -> None:
        """Name a space, once."""
        self.db.execute("INSERT OR IGNORE INTO stages VALUES (?, ?, ?, ?)", (space, stage, as_text(inputs), time.time()))

    def read(self, space: str, keys: Sequence[str], table: str = "results") -> dict[str, object]:
        """The undamaged values (or costs) of the keys."""
        entries = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self.db.execute(
                f"SELECT key, {VALUES[table]}, sha256 FROM {table} WHERE space = ? AND key IN ({marks})", (space, *part)
            )
            entries |= {key: json.loads(text) for key, text, check in rows if _intact(text, check)}
        return entries

    def rows(self, space: str, keys: Sequence[str]) -> Rows:
        """The rows of the keys, for another store."""
        query = "SELECT * FROM {} WHERE space = ? AND key = ?"
        found = {table: [self.db.execute(query.format(table), (space, key)).fetchone() for key in keys] for table in VALUES}
        return {"stages": self._stage(space), **{table: [row for row in rows if row] for table, rows in found.items()}}

    def new_rows(self, space: str, values: Mapping[str, object], costs: Mapping[str, object]) -> Rows:
        """Values and costs by key as rows of a space."""
        texts = {"results": values, "costs": costs}
        rows = {table: [(space, key, *_checked(value)) for key, value in of.items()] for table, of in texts.items()}
        return {"stages": self._stage(space), **rows}

    def write(self, rows: Rows) -> None:
        """Write results and costs in one step, in the place of what the keys had."""
        with transaction(self.db):
            self._replace(rows)

    def add(self, rows: Rows) -> Added:
        """Add the rows of another store or of a journal that are intact and new, in one step.

        Where both have a value for the same key, the one that is here stays. Costs come with the results that are new.
        """
        intact = [row for row in rows["results"] if len(row) == 4 and _intact(*row[2:])]
        query = "SELECT value, sha256 FROM results WHERE space = ? AND key = ?"
        with transaction(self.db):
            found = {row[:2]: self.db.execute(query, row[:2]).fetchone() or (None, None) for row in intact}
            here = {pair: value for pair, (value, check) in found.items() if _intact(value, check)}
            new = {row[:2]: row for row in intact if row[:2] not in here}
            costs = [row for row in rows["costs"] if len(row) == 4 and row[:2] in new and _intact(*row[2:])]
            stages = [row for row in rows["stages"] if len(row) == 4]
            self.db.executemany("INSERT OR IGNORE INTO stages VALUES (?, ?, ?, ?)", stages)
            self._replace({"results": new.values(), "costs": costs})
        different = sum(here.get(row[:2], row[2]) != row[2] for row in intact)
        return Added(len(new), len(intact) - len(new) - different, len(rows["results"]) - len(intact), different)

    def _replace(self, rows: Rows) -> None:
        for table in VALUES:
            self.db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", rows[table])

    def _stage(self, space: str) -> list[tuple]:
        return self.db.execute("SELECT * FROM stages WHERE space = ?", (space,)).fetchall()

    def contents(self) -> list[dict]:
        """Stage, inputs, number of results, bytes and creation time of each space."""
        rows = self.db.execute(
            "SELECT stage, inputs, COUNT(key), COALESCE(SUM(LENGTH(value)), 0), created FROM stages LEFT JOIN results "
            "USING (space) GROUP BY space ORDER BY created"
        ).fetchall()
        return [
            {"stage": stage, "inputs": _value(inputs), "results": n, "bytes": size, "created": created}
            for stage, inputs, n, size, created in rows
        ]

    def verify(self) -> tuple[int, int]:
        """Remove damaged results. Returns the numbers of all and of damaged ones."""
        n, bad = 0, []
        for space, key, text, check in self.db.execute("SELECT space, key, value, sha256 FROM results"):
            n += 1
            if not _intact(text, check):
                bad.append((space, key))
        self.db.executemany("DELETE FROM results WHERE space = ? AND key = ?", bad)
        return n, len(bad)

    def clean(self) -> int:
        """Remove everything. Returns the number of removed results."""
        (n,) = self.db.execute("SELECT COUNT(*) FROM results").fetchone()
        for table in ("results", "costs", "stages", "claims"):
            self.db.execute(f"DELETE FROM {table}")
        self.db.execute("VACUUM")
        return n


def as_text(value: object) -> str:
    """A value as it is stored."""
    return json.dumps(value, ensure_ascii=False)


def _checked(value: object) -> tuple[str, str]:
    """The text of a value, and its checksum."""
    text = as_text(value)
    return text, checksum(text)


def _intact(text: object, check: object) -> bool:
    return isinstance(text, str) and checksum(text) == check


def _value(text: object) -> object:
    """The JSON value of a text, or {} if the text is damaged."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return {}
