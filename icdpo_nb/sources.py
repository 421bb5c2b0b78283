"""Raw rows from files, folders and the hub, each with its place, so that every complaint names a file and a line.

It knows formats of files (JSON Lines, JSON, CSV, Parquet, gzipped or not), not the meaning of columns: that is `data.py`.
"""

import csv
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from .protocol import InputError

PACKAGE = Path(__file__).parent
PACKAGED = {"pocket": PACKAGE / "pocket.jsonl", "sandbox": PACKAGE / "sandbox" / "data"}  # name -> file or folder of files
HUB = {  # short name -> (hub id, revision, data_dir)
    "hh-rlhf": ("Anthropic/hh-rlhf", None, None),
    "synthetic-gpt": ("Dahoas/synthetic-instruct-gptj-pairwise", None, None),
    "tldr": ("openai/summarize_from_feedback", "refs/convert/parquet", "comparisons"),
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
SPLITS = {"train": "support", "support": "support", "dev": "dev", "validation": "dev", "valid": "dev", "test": "test"}

Rows = Iterator[tuple[str, dict]]  # (place, row): the place is "file, line 7"


def read_source(source: str, data_dir: str | None, revision: str | None) -> tuple[Rows, str, str]:
    """Rows with their place, the set's name and its revision, for a packaged name, a path, or a hub id."""
    family, _, domain = source.partition("/")
    if family in PACKAGED and not Path(source).exists():
        return _packaged(family, domain), source, "packaged"
    path = Path(source).expanduser()
    if path.exists():
        folder = path / data_dir if data_dir else path
        if not folder.exists():
            inside = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir())) or "no sub-folder"
            raise InputError(f"{path}: there is no sub-folder {data_dir!r}; it has {inside}")
        return _read_path(folder), f"{path.name}/{data_dir}" if data_dir else path.name, "local"
    if source in HUB or re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in SUFFIXES:
        hub_id, default_revision, default_dir = HUB.get(source, (source, None, None))
        version = revision or default_revision
        return _read_hub(hub_id, data_dir or default_dir, version), hub_id, version or "main"
    names = ", ".join([*PACKAGED, *HUB])
    raise InputError(f"preferences {source!r}: no such file or folder, and not one of {names} or a hub id like owner/name")


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
    """Rows of one file, or of all data files below a folder; a file named train/dev/test… gives the split, a folder
    named like HH-RLHF's `harmless-base` the domain."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.name.endswith(SUFFIXES))
    if not files:
        raise InputError(f"{path}: no data file ({' '.join(SUFFIXES)})")
    for file in files:
        named = {
            "split": next((s for s in SPLITS if re.match(rf"{s}\b", file.name)), None),
            "domain": _domain(file.parent.name),
        }
        for place, row in _read_file(file):
            if not isinstance(row, dict):
                raise InputError(f"{place}: a row must be an object with named columns, not {type(row).__name__}")
            yield place, {**{k: v for k, v in named.items() if v}, **row}


def _domain(folder: str) -> str | None:
    return folder.removesuffix("-base") if folder.endswith("-base") else None


def _read_file(file: Path) -> Rows:
    """(file and line, row) for each row of one file."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        try:
            rows = parquet.read_table(file).to_pylist()
        except Exception as error:  # pyarrow raises many kinds; for the reader they mean one thing
            raise InputError(f"{file}: not a readable Parquet file ({str(error)[:80]})") from None
        yield from ((f"{file}, row {i}", row) for i, row in enumerate(rows, 1))
        return
    if not file.name.endswith(SUFFIXES):
        raise InputError(f"{file}: unknown kind of file; use one of {' '.join(SUFFIXES)}")
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8", newline="") as lines:
            reader = _read_csv if ".csv" in file.suffixes else _read_json
            yield from reader(file, lines)
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); convert it to UTF-8") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None


def _read_csv(file: Path, lines) -> Rows:
    reader = csv.DictReader(lines, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{file}, line {reader.line_num}: not as many fields as the header has columns")
            yield f"{file}, line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: not valid CSV ({error})") from None


def _read_json(file: Path, lines) -> Rows:
    """JSON Lines, or one JSON array of objects."""
    first = lines.read(1)
    lines.seek(0)
    if first == "[":
        try:
            yield from ((f"{file}, item {i}", row) for i, row in enumerate(json.load(lines), 1))
        except json.JSONDecodeError as error:
            raise InputError(f"{file}, line {error.lineno}: not valid JSON ({error.msg})") from None
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield f"{file}, line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}, line {number}: not valid JSON ({error.msg})") from None


def _read_hub(hub_id: str, data_dir: str | None, revision: str | None) -> Rows:
    """Rows of a hub data set; without a `data_dir` HH-RLHF's harmless-base and helpful-base, the paper's two domains."""
    import datasets

    folders = [data_dir] if data_dir else ["harmless-base", "helpful-base"] if hub_id == "Anthropic/hh-rlhf" else [None]
    for folder in folders:
        try:
            loaded = datasets.load_dataset(hub_id, data_dir=folder, revision=revision)
        except Exception as error:  # datasets raises many kinds; the reader needs the one way out
            why = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise InputError(
                f"data set {hub_id!r} cannot be loaded from the hub ({why}); without a network pass a local folder or file, "
                "or use preferences='pocket', which needs none"
            ) from None
        for split, table in loaded.items():
            named = {"split": split, **({"domain": d} if (d := _domain(folder or "")) else {})}
            yield from ((f"{hub_id} {split}, row {i}", {**named, **row}) for i, row in enumerate(table, 1))
