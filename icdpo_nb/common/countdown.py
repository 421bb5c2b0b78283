"""How far a long call is, and how long the rest of it takes, in words."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from .notes import told_later

LONG = 60  # seconds; what takes longer says so
SETTLED = 0.1  # of the items that must be computed before the rest can be told in the first minute: all begin before one ends
PAUSE = 1.0  # seconds between two sentences


def spoken(seconds: float) -> str:
    """A time in words: 7 s, 3 min 05 s, 1 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Countdown:
    """A progress bar in words for a call that computes `total` items; `bar`, one of tqdm's, moves with it.

    The first `update` counts the items that need no computing, each later one those that a part of the call has computed. What
    computes a part may count its items as it goes on, see `part`. A call of less than a minute says nothing.
    """

    def __init__(self, doing: str, total: int, say: Callable[[str], None], bar):
        self.doing, self.total, self.say, self.bar = doing, total, say, bar
        self.known: int | None = None
        self.done, self.ahead = 0, 0.0  # ahead: of the part that is computed now
        self.began = self.told = 0.0

    def update(self, n: int) -> None:
        """n more items are there."""
        if self.known is None:
            self.known, self.began = n, time.monotonic()
        self.done, self.ahead = self.done + n, 0.0
        self.bar.update(n)
        self._tell()

    def part(self, items: int) -> Callable:
        """A `progress` for what computes the next `items` items; it is called like tqdm and may count in units of its own."""

        @contextmanager
        def progress(total: int) -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(update=lambda n=1: self._move(n * items / max(1, total)))

        return progress

    def _move(self, share: float) -> None:
        self.ahead += share
        self._tell()

    def _tell(self) -> None:
        now, there = time.monotonic(), self.done + self.ahead
        spent, computed = now - self.began, there - (self.known or 0)
        few = spent < LONG and computed < SETTLED * (self.total - (self.known or 0))
        if computed <= 0 or few or now - self.told < PAUSE:
            return
        left = spent * max(0.0, self.total - there) / computed
        if spent + left >= LONG:
            self.told = now
            self.say(f"{self.doing}: {int(there):,} of {self.total:,}, about {spoken(left)} left")


@contextmanager
def counted(doing: str, total: int, bar: Callable) -> Iterator[Countdown]:
    """A countdown for the block. `bar` creates a progress bar and is called like tqdm."""
    with bar(total=total) as shown, told_later() as say:
        yield Countdown(doing, total, say, shown)
