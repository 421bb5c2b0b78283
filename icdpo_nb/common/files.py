"""Where prepared files lie, how a file is written, and digests of values."""

import hashlib
import json
import os
from pathlib import Path


def cache_folder() -> Path:
    """Where prepared weights lie: $ICDPO_CACHE, else ~/.cache/icdpo_nb."""
    return Path(os.environ.get("ICDPO_CACHE") or "~/.cache/icdpo_nb").expanduser()


def digest(value: object) -> str:
    """sha256 of a value's canonical JSON."""
    return checksum(json.dumps(value, sort_keys=True, ensure_ascii=False))


def checksum(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # half a surrogate pair has no UTF-8
    os.replace(partial, path)
