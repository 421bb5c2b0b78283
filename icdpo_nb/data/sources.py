"""Raw rows from files, folders and the hub, each with its location (file and line) for error messages.

This module handles file formats (JSON Lines, JSON, CSV, Parquet, optionally gzipped); `rows.py` interprets the columns.
"""

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..common.downloads import announced, data_files
from ..common.errors import InputError, first_line

HERE = Path(__file__).parent
PACKAGED = {"pocket": HERE / "pocket.jsonl", "sandbox": HERE.parent / "sandbox" / "data"}  # name -> file or folder
HUB = {  # short name -> (hub id, revision, data_dir)
    "hh-rlhf": ("Anthropic/hh-rlhf", None, None),
    "synthetic-gpt": ("Dahoas/synthetic-instruct-gptj-pairwise", None, None),
    "tldr": ("openai/summarize_from_feedback", "refs/convert/parquet", "comparisons"),
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
SPLITS = {"train": "support", "support": "support", "dev": "dev", "validation": "dev", "valid": "dev", "test": "test"}
LONGEST_LINE = 10_000_000  # bytes of a row; ten times the longest context of any model
LONGEST_ARRAY = 500_000_000  # bytes of a JSON array, which is read as a whole

Rows = Iterator[tuple[str, dict]]  # (place, row), where place is e.g. "file, line 7"


def read_source(source: str, data_dir: str | None, revision: str | None) -> tuple[Rows, str, str]:
    """The rows, name and revision of a set given by a packaged name, a path or a hub id."""
    family, _, domain = source.partition("/")
    if family in PACKAGED and not os.path.exists(source):
        if data_dir:
            raise InputError(f"preferences {source!r} has no sub-folder {data_dir!r}; give a domain as '{family}/helpful'")
        return _packaged(family, domain), source, "packaged"
    path = Path(os.path.expanduser(source))
    if source.strip() and os.path.exists(path):
        folder = path / data_dir if data_dir else path
        if not os.path.exists(folder):
            present = ", ".join(sorted(p.name for p in path.glob("*/"))) or "no sub-folder"
            raise InputError(f"{path}: there is no sub-folder {data_dir!r}; it has {present}")
        return _read_path(folder), f"{path.name}/{data_dir}" if data_dir else path.name, "local"
    if source in HUB or re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.endswith(SUFFIXES):
        hub_id, folder, version = _on_hub(source, data_dir, revision)
        return _read_hub(hub_id, folder, version), hub_id, version or "main"
    names = ", ".join([*PACKAGED, *HUB])
    raise InputError(
        f"preferences {source[:200]!r}: no such file or folder, and not one of {names} or a hub id like owner/name"
    )


def _packaged(family: str, domain: str) -> Rows:
    found = False
    for place, row in _read_path(PACKAGED[family]):
        if not domain or row["domain"] == domain:
            found = True
            yield place, row
    if not found:
        domains = sorted({row["domain"] for _, row in _read_path(PACKAGED[family])})
        raise InputError(f"preferences '{family}/{domain}': {family} has the domains {', '.join(domains)}")


def _read_path(path: Path) -> Rows:
    """The rows of a file, or of all data files below a folder.

    The split is taken from file names (train, dev, test, …), the domain from folder names such as `harmless-base`.
    """
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.name.endswith(SUFFIXES))
    if not files:
        raise InputError(f"{path}: no data file ({' '.join(SUFFIXES)})")
    for file in files:
        defaults = {
            "split": next((s for s in SPLITS if re.match(rf"{s}\b", file.name)), None),
            "domain": _domain(file.parent.name),
        }
        for place, row in _read_file(file):
            if not isinstance(row, dict):
                raise InputError(f"{place}: a row must be an object with named columns, not {type(row).__name__}")
            yield place, {**{k: v for k, v in defaults.items() if v}, **row}


def _domain(folder: str) -> str | None:
    return folder.removesuffix("-base") if folder.endswith("-base") else None


def _read_file(file: Path) -> Rows:
    """The rows of one file, each with its place."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        try:
            rows = parquet.read_table(file).to_pylist()
        except Exception as error:  # pyarrow raises many exception types
            raise InputError(f"{file}: not a readable Parquet file ({_line(error)}); write or download it again") from None
        yield from ((f"{file}, row {i}", row) for i, row in enumerate(rows, 1))
        return
    if not file.name.endswith(SUFFIXES):
        raise InputError(f"{file}: unknown kind of file; use one of {' '.join(SUFFIXES)}")
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as opened:
            yield from (_read_csv if ".csv" in file.suffixes else _read_json)(file, opened)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read ({_line(error)}); write or download it again") from None


def _lines(file: Path, opened) -> Iterator[str]:
    """The lines of an open file as text, without a byte order mark. Raises `InputError` at an overlong line."""
    number = 0
    while line := opened.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise InputError(f"{file}, line {number}: longer than {LONGEST_LINE:,} bytes; write each row on a line of its own")
        yield _text(line, f"{file}, line {number}")


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why = f"{error.reason} at byte {error.start + 1}"
        raise InputError(f"{place}: not UTF-8 text ({why}); convert the file to UTF-8") from None


def _read_csv(file: Path, opened) -> Rows:
    reader = csv.DictReader(_lines(file, opened), strict=True)
    try:
        header = reader.fieldnames or []
        if duplicates := [name for name in header if header.count(name) > 1]:
            raise InputError(f"{file}, line 1: the column {duplicates[0]!r} occurs twice; rename one of them")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{file}, line {reader.line_num}: the number of fields differs from the header's ({len(header)}); quote "
                    "texts that contain a comma"
                )
            yield f"{file}, line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: not valid CSV ({error}); write it with a CSV library") from None


def _read_json(file: Path, opened) -> Rows:
    """The rows of a JSON Lines file, or of a JSON array of objects."""
    start = opened.read(4).removeprefix(b"\xef\xbb\xbf")
    opened.seek(0)
    if start.startswith(b"["):
        content = opened.read(LONGEST_ARRAY + 1)
        if len(content) > LONGEST_ARRAY:
            raise InputError(f"{file}: a JSON array of more than {LONGEST_ARRAY:,} bytes; write it as JSON Lines")
        yield from ((f"{file}, item {i}", row) for i, row in enumerate(_parse_json(_text(content, str(file)), file), 1))
        return
    for number, line in enumerate(_lines(file, opened), 1):
        if line.strip():
            yield f"{file}, line {number}", _parse_json(line, file, number)


def _parse_json(text: str, file: Path, number: int | None = None):
    """Parse JSON strictly: NaN and repeated names in an object are errors."""
    try:
        return STRICT.decode(text)
    except RecursionError:
        why = "too deeply nested"
    except json.JSONDecodeError as error:
        why, number = error.msg, number or error.lineno
    except ValueError as error:
        why = _line(error)
    line = f", line {number}" if number else ""
    raise InputError(f"{file}{line}: not valid JSON ({why}); write one object per line, or one array of objects")


def _reject_constant(name: str):
    raise ValueError(f"{name} is not a JSON number, use null")


def _object(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} occurs twice in one object")
    return result


STRICT = json.JSONDecoder(parse_constant=_reject_constant, object_pairs_hook=_object)


def _line(error: Exception) -> str:
    """The first line of an exception's message, shortened."""
    return first_line(error, 120)


def fetch(source: str, data_dir: str | None = None, revision: str | None = None) -> None:
    """Download a set from the hub without reading it; nothing for one that is here. Raises `InputError` as reading does."""
    _, _, version = read_source(source, data_dir, revision)  # its rows are read when they are asked for
    if version not in ("packaged", "local"):
        for _ in _hub_tables(*_on_hub(source, data_dir, revision)):
            pass


def _on_hub(source: str, data_dir: str | None, revision: str | None) -> tuple[str, str | None, str | None]:
    """The hub id, folder and revision of a short name or a hub id."""
    hub_id, default_revision, default_dir = HUB.get(source, (source, None, None))
    return hub_id, data_dir or default_dir, revision or default_revision


def _read_hub(hub_id: str, data_dir: str | None, revision: str | None) -> Rows:
    """The rows of a hub data set."""
    for folder, loaded in _hub_tables(hub_id, data_dir, revision):
        for split, table in loaded.items():
            defaults = {"split": split, **({"domain": d} if (d := _domain(folder or "")) else {})}
            yield from ((f"{hub_id} {split}, row {i}", {**defaults, **row}) for i, row in enumerate(table, 1))


def _hub_tables(hub_id: str, data_dir: str | None, revision: str | None) -> Iterator[tuple[str | None, dict]]:
    """The folders of a hub data set, each with its splits. For HH-RLHF these are by default the paper's two domains."""
    import datasets

    folders = [data_dir] if data_dir else ["harmless-base", "helpful-base"] if hub_id == "Anthropic/hh-rlhf" else [None]
    for folder in folders:
        try:
            with announced(hub_id, partial(data_files, folder=folder), revision, "dataset"):
                loaded = datasets.load_dataset(hub_id, data_dir=folder, revision=revision)
        except InputError:
            raise
        except Exception as error:  # datasets raises many exception types
            raise InputError(
                f"data set {hub_id!r} cannot be loaded from the hub ({_line(error)}); without a network pass a local folder or "
                "file, or use preferences='pocket', which needs none"
            ) from None
        yield folder, loaded
