"""What the program waits for, said in one sentence: a download, or the embedding of a large set."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .files import write_whole

NOTE = "ICDPO_NOTE"  # set for a notebook's run: the file in which it says what it waits for, see reports.progress


@contextmanager
def told(sentence: str) -> Iterator[Callable[[str], None]]:
    """Say a sentence for as long as it is true. Yields a function that puts a later sentence in its place.

    A notebook's run shows them in its progress line; anything else writes the first one to stderr. "" says nothing.
    """
    note = os.environ.get(NOTE)

    def say(text: str) -> None:
        with suppress(OSError):  # a full disk is no reason to stop
            write_whole(Path(note), text)

    if sentence and not note:
        print(sentence, file=sys.stderr, flush=True)
    if not sentence or not note:
        yield lambda text: None
        return
    say(sentence)
    try:
        yield say
    finally:
        with suppress(OSError):
            Path(note).unlink()
