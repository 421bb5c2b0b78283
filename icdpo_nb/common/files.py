"""The cache folder, atomic file writes, and digests."""

import hashlib
import json
import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder for cached files: $ICDPO_CACHE, or ~/.cache/icdpo_nb."""
    return Path(os.environ.get("ICDPO_CACHE") or "~/.cache/icdpo_nb").expanduser()


def digest(value: object) -> str:
    """The sha256 of a value's canonical JSON."""
    return checksum(json.dumps(value, sort_keys=True, ensure_ascii=False))


def checksum(text: str) -> str:
    """The sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # UTF-8 cannot encode unpaired surrogates
    os.replace(partial, path)
