"""Raw rows from memory: a pandas DataFrame, a `datasets.Dataset` or `DatasetDict`, or a list of dicts.

Their values are turned into those of JSON, so that the same rows in a file give the same preference set.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence

from ..common.errors import InputError
from ..common.files import cache_folder, checksum, write_whole
from .sources import Rows, read_source

NAMES = {"list": "list of rows", "tuple": "list of rows", "dict": "dict of tables"}  # other types keep their own name


def is_in_memory(source: object) -> bool:
    """Whether a source is a table in memory, and not a name, a path or a hub id."""
    return not hasattr(source, "__fspath__") and not isinstance(source, str)


def read_rows(source: object, data_dir: str | None = None, revision: str | None = None) -> tuple[Rows, str, str]:
    """The rows, name and revision of a set from anywhere; see `preferences.load_preferences`."""
    if not is_in_memory(source):
        return read_source(str(source), data_dir, revision)
    if data_dir:
        raise InputError(f"data_dir is {data_dir!r}, but a table in memory has no sub-folder; leave it out")
    return *read_frame(source), "in memory"


def read_frame(source: object) -> tuple[Rows, str]:
    """The rows of a table in memory, and a name for it. A mapping, such as a `DatasetDict`, names the split of its tables.

    Missing values (NaN, None, pd.NA) become null. Raises `InputError` for an object of another type.
    """
    name = NAMES.get(type(source).__name__, type(source).__name__)
    if isinstance(source, Mapping):
        return _tables(source, name), name
    return ((f"{name}, row {i}", row) for i, row in enumerate(_records(source, name), 1)), name


def save_frame(source: object) -> str:
    """Write a table in memory as JSON Lines to the cache, under a digest of its content. Returns the path."""
    rows, name = read_frame(source)
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for _, row in rows)
    folder = cache_folder() / "frames"
    path = folder / f"{name.replace(' ', '-')}-{checksum(text)[:12]}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    return str(path)


def _tables(tables: Mapping, name: str) -> Rows:
    for split, table in tables.items():
        if not isinstance(split, str):
            raise InputError(f"{name}: the name of a split is {str(split)[:40]!r}, but must be text such as train or test")
        place = f"{name}, {split}"
        yield from ((f"{place}, row {i}", {"split": split, **row}) for i, row in enumerate(_records(table, place), 1))


def _records(table: object, place: str) -> Iterator[dict]:
    """The rows of one table as dicts of JSON values."""
    if hasattr(table, "to_dict") and hasattr(table, "iloc"):  # a DataFrame
        header = list(table.columns)
        if duplicates := [c for c in header if header.count(c) > 1]:
            raise InputError(f"{place}: the column {str(duplicates[0])[:40]!r} occurs twice; rename one of them")
        rows = table.to_dict("records")
    elif hasattr(table, "with_format"):  # a Dataset, perhaps set to return arrays
        rows = table.with_format(None)
    elif isinstance(table, Sequence) and not isinstance(table, str | bytes):
        rows = table
    else:
        raise InputError(
            f"{place}: preferences are given as {type(table).__name__}, but must be a name, a path, a hub id, a pandas "
            "DataFrame, a datasets.Dataset or DatasetDict, or a list of dicts"
        )
    for i, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise InputError(f"{place}, row {i}: a row must be a dict with named columns, not {type(row).__name__}")
        yield {str(k): _plain(v) for k, v in row.items()}


def _plain(value: object) -> object:
    """A value in JSON's own types: arrays as lists, numpy's numbers as Python's, missing values as None, others as text.

    A whole number that pandas stores as a float, since others of its column are missing, becomes an int again.
    """
    if type(value) in (str, bool, int) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if type(value) is float:
        return (int(value) if value.is_integer() else value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # arrays and scalars of numpy
        return _plain(value.tolist())
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)
