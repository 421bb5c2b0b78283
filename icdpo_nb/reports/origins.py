"""What a report was made from: the code, the versions of what it rests on, and the files that its parameters name, as digests.

Two reports with the same parameters and the same origins need not both be made. The revision that git names is not among them:
a tree with uncommitted changes has none of its own, and a commit that touches no code changes no report.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..common.files import digest
from .run import project, versions

PACKAGE = Path(__file__).parents[1]
LARGE_BYTES = 64 * 2**20  # bytes; of a larger file the size and the time of its last change stand for its content


def origins(node, values: Mapping[str, object], reports: Path) -> dict:
    """The origins of a report: of a notebook, run with these parameter values, in this folder of reports.

    `code`: the package, packaged data and models included, and the notebook's cells. `files`: every file and folder that a
    parameter names, as preferences and models, and the tables of the reports that the notebook reads. The hub is not asked
    whether a model or data set has changed there.
    """
    named = {text: found for text in _texts(values) if (found := _digest_of(text))}
    read = {f"report {name}": _tables(reports / name) for name in reads(node)}
    return {"code": _code(node), "versions": versions(), "files": named | read}


def reads(node) -> tuple[str, ...]:
    """The notebooks whose reports a notebook reads, as its metadata say."""
    return tuple(node.metadata.get("icdpo_nb", {}).get("reads", ()))


def _code(node) -> str:
    cells = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in node.cells]
    return digest([folder_digest(PACKAGE), cells])


def folder_digest(folder: Path) -> str:
    """A digest of the files below a folder, by name and content; bytecode left out."""
    return digest([[str(path.relative_to(folder)), _file_digest(path)] for path in _files(folder)])


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _file_digest(path: Path) -> str:
    about = path.stat()
    if about.st_size > LARGE_BYTES:
        return f"{about.st_size} {about.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _texts(values: Mapping[str, object]) -> Iterator[str]:
    """The texts among parameter values; of a model with adapters, base+folder, its parts too."""
    for value in values.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield from dict.fromkeys([text, *text.split("+")])


def _digest_of(text: str) -> str | None:
    """A digest of the file or folder that a text names, from the current folder or from the project's; None for other texts."""
    for path in (Path(os.path.expanduser(text)), project() / text):
        try:
            if text.strip() and path.is_file():
                return _file_digest(path)
            if text.strip() and path.is_dir():
                return folder_digest(path)
        except (OSError, ValueError):  # too long for a name, or not to be read
            continue
    return None


def _tables(run: Path) -> str | None:
    """A digest of what a run found: its tables and headline numbers, without what it cost; None if there is no such run."""
    kept = [p for p in (run / "headline.json", *sorted(run.glob("*.jsonl"))) if p.is_file() and p.name != "work.jsonl"]
    return digest([[path.name, _file_digest(path)] for path in kept]) if kept else None
