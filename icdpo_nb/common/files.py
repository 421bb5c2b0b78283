"""The cache folder, atomic file writes, and digests."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def cache_folder() -> Path:
    """The folder for cached files: $ICDPO_CACHE, or ~/.cache/icdpo_nb."""
    return Path(os.environ.get("ICDPO_CACHE") or "~/.cache/icdpo_nb").expanduser()


def digest(value: object) -> str:
    """The sha256 of a value's canonical JSON."""
    return checksum(json.dumps(value, sort_keys=True, ensure_ascii=False))


def checksum(text: str) -> str:
    """The sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_texts(texts: Iterable[str]) -> str:
    """The sha256 of many texts in their order, without a copy of all of them."""
    total = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        total.update(b"%d:" % len(encoded) + encoded)  # the length keeps ("ab", "c") and ("a", "bc") apart
    return total.hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` in one step at the end, and only if nothing went wrong."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with written_whole(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))  # UTF-8 cannot encode unpaired surrogates
