"""Which items of a call a rehearsal computes: a few, evenly spaced, and one call at a time."""

from collections.abc import Callable
from functools import wraps
from threading import RLock

PROBED = 3  # prompts of each call that are computed
PROBED_MORE, PROBED_MOST = 12, 48  # of its first call, and of one with longer contexts, to tell what grows with their number
PROBING = 3.0  # seconds that more than `PROBED_MORE` of them may take at the rate of the few
PROBED_TEXTS = 64  # texts that an encoder or a reward computes of a large call
TURN = RLock()  # whoever has it computes


def spread_indices(n: int, k: int) -> list[int]:
    """At most k of n indices, evenly spaced.

    >>> spread_indices(10, 3)
    [0, 3, 6]
    """
    return [i * n // k for i in range(k)] if k < n else [*range(n)]


def one_at_a_time(call: Callable) -> Callable:
    """A method that no thread runs beside another one, since the interpreter's lock would slow down short measured calls."""

    @wraps(call)
    def alone(*args, **kwargs):
        with TURN:
            return call(*args, **kwargs)

    return alone
