"""Who wrote a teacher column: the record `mine.teacher.json` beside `mine.jsonl`, with an entry for each column.

`icdpo-nb teach` writes both; see `analyses.teaching`.
"""

import json
import re
from os import PathLike
from pathlib import Path

from ..common.errors import InputError
from ..common.escaping import visible
from ..common.files import write_whole

OWN = ("prompt", "chosen", "rejected", "split", "domain", "id", "prompt_id", "info", "summaries", "choice")  # columns of a set


def column_of(name: str) -> str:
    """The column of a source of demonstrations: "teacher-a" -> "teacher_a", "raw" -> "chosen"."""
    return "chosen" if name == "raw" else name.replace("-", "_")


def teacher_column(name: str) -> str:
    """The column of a new teacher. Raises `InputError` for a name that is not fit for one."""
    column = column_of(name)
    if not re.fullmatch(r"[A-Za-z]\w*", column, re.ASCII) or column in OWN:
        raise InputError(
            f"the teacher's name is {visible(name, 40)!r}, but must be letters, digits and hyphens, such as teacher-x"
        )
    return column


def record_file(file: Path) -> Path:
    """The record that belongs to a file of preferences: mine.jsonl -> mine.teacher.json."""
    return file.with_name(f"{file.name.removesuffix('.gz').rpartition('.')[0] or file.name}.teacher.json")


def records(source: object) -> dict[str, dict]:
    """The entries of a file's record by column; none for another source, or where there is no readable record."""
    if not isinstance(source, str | PathLike):
        return {}
    try:
        found = json.loads(record_file(Path(str(source)).expanduser()).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def write_records(file: Path, entries: dict[str, dict]) -> None:
    """Write the record of a file of preferences."""
    write_whole(record_file(file), json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def written_by(source: object, demonstrations: str) -> str:
    """Who wrote the demonstrations, in a few words; "" where the record does not say."""
    entry = records(source).get(column_of(demonstrations))
    if not entry:
        return ""
    settings = [f"{name.replace('_', '-')} {entry[name]}" for name in ("temperature", "top_p") if entry.get(name) is not None]
    said = ", ".join([f"{entry.get('lm')} ({entry.get('revision')})", *settings, f"licence {entry.get('licence')}"])
    return visible(f"by {said}", 400)
