"""How long a model's passes take, from measured calls: a linear model of their time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Passes:
    """The work of a call: context tokens, decoding steps, tokens decoded in them, cached keys read for these, scored tokens."""

    context: int = 0
    steps: int = 0
    decoded: int = 0
    keys: int = 0
    scored: int = 0


class Pace:
    """Seconds of scoring, a + b · scored, and of sampling, b · context + c · steps + d · decoded + e · keys.

    All constants are at least 0, fitted to measured calls. A context token takes as long as a scored one: in small calls, its
    time could not be told from that of the steps. Only if no scoring was measured, it is fitted as well. A kind of call that
    was not measured takes no time.
    """

    def __init__(self, calls: Sequence[tuple[Passes, float]]):
        scoring = [((1, work.scored), seconds) for work, seconds in calls if work.scored]
        sampling = [(_row(work), seconds) for work, seconds in calls if not work.scored]
        self.scoring = _not_negative(scoring, 2)
        if scoring:
            token = self.scoring[1]
            rest = [(row[1:], max(0.0, seconds - token * row[0])) for row, seconds in sampling]
            self.sampling = np.array([token, *_not_negative(rest, 3)])
        else:
            self.sampling = _not_negative(sampling, 4)

    def seconds(self, work: Passes) -> float:
        """The time of a call with this work."""
        scored = (1, work.scored) if work.scored else (0, 0)
        return float(np.dot(self.sampling, _row(work)) + np.dot(self.scoring, scored))


def _row(work: Passes) -> tuple[int, ...]:
    return work.context, work.steps, work.decoded, work.keys


def _not_negative(calls: Sequence[tuple[Sequence[int], float]], n: int) -> np.ndarray:
    """n constants of at least 0 by least squares, each square in relation to the time: long calls are surer."""
    from scipy.optimize import nnls

    if not calls:
        return np.zeros(n)
    rows, seconds = (np.array(column, float) for column in zip(*calls, strict=True))
    scale = np.maximum(rows.max(0), 1)  # of numbers that differ by orders of magnitude
    weight = np.maximum(seconds, 1e-6) ** -0.5
    return nnls(rows / scale * weight[:, None], seconds * weight)[0] / scale


def lasting(lengths: Sequence[float], slots: int) -> float:
    """How long work of these lengths lasts, of which `slots` pieces are done at a time, each followed by the next.

    >>> lasting([5, 3, 4], 2)
    7
    """
    ends = [0] * max(1, min(slots, len(lengths)))
    for length in lengths:
        first = ends.index(min(ends))
        ends[first] += length
    return max(ends)
