"""What the program waits for, said in one sentence: a download, the embedding of a large set, a long call of a model."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from .files import write_whole

NOTE = "ICDPO_NOTE"  # set for a notebook's run: the file in which it says what it waits for, see reports.progress

_lines: dict[object, str] = {}  # what is waited for now, in each place that waits
_turn = Lock()


@contextmanager
def told(sentence: str) -> Iterator[Callable[[str], None]]:
    """Say a sentence for as long as it is true. Yields a function that puts a later sentence in its place.

    A notebook's run shows them in its progress line; anything else writes the first one to stderr. "" says nothing.
    """
    if sentence and NOTE not in os.environ:
        print(sentence, file=sys.stderr, flush=True)
    with told_later() as say:
        say(sentence)
        yield say if sentence else lambda text: None


@contextmanager
def told_later() -> Iterator[Callable[[str], None]]:
    """Yields a function that says a sentence, in a notebook's progress line alone, until the block ends or another is said."""
    place = object()
    try:
        yield lambda text: _say(place, text)
    finally:
        _say(place, "")


def _say(place: object, text: str) -> None:
    """Show a sentence, in a line, beside those of other threads; "" takes it away."""
    text = " ".join(text.split())
    if not (note := os.environ.get(NOTE)) or text == _lines.get(place, ""):
        return
    with _turn, suppress(OSError):  # a full disk is no reason to stop
        _lines[place] = text
        if not text:
            del _lines[place]
        if _lines:
            write_whole(Path(note), "\n".join(_lines.values()))
        else:
            Path(note).unlink(missing_ok=True)
