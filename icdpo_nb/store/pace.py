"""How long a model's passes take, from a few measured ones: a linear model of their time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DOUBT = 2.0  # a single measurement may change a forecast by at most this factor


@dataclass(frozen=True)
class Passes:
    """The work of a call: context tokens, decoding steps, tokens decoded in them, and scored tokens."""

    context: int = 0
    steps: int = 0
    decoded: int = 0
    scored: int = 0


class Pace:
    """Seconds of sampling, γ · context + α · steps + β · decoded, and of scoring, a + b · scored.

    All constants are at least 0. They are fitted to a small and a large measured call of each kind.
    """

    def __init__(self):
        self.sampling = self.scoring = None

    def fit_sampling(self, context_seconds: float, calls: Sequence[tuple[Passes, float]]) -> None:
        """From the time of a context token, and a small and a large call with their seconds."""
        rows = np.array([[w.steps, w.decoded] for w, _ in calls], float)
        rest = np.array([max(0.0, t - context_seconds * w.context) for w, t in calls])
        self.sampling = (context_seconds, *_not_negative(rows, rest))

    def fit_scoring(self, calls: Sequence[tuple[Passes, float]]) -> None:
        """From a small and a large call with their seconds."""
        rows = np.array([[1, w.scored] for w, _ in calls], float)
        self.scoring = _not_negative(rows, np.array([t for _, t in calls]))

    def seconds(self, work: Passes) -> float:
        """The time of a call with this work."""
        context, step, token = self.sampling or (0.0, 0.0, 0.0)
        fixed, scored = (self.scoring or (0.0, 0.0)) if work.scored else (0.0, 0.0)
        return context * work.context + step * work.steps + token * work.decoded + fixed + scored * work.scored

    def forecast(self, work: Passes, small: Passes, took: float) -> float:
        """The time of a call, corrected by how long a small part of it took."""
        expected = self.seconds(small)
        factor = min(DOUBT, max(1 / DOUBT, took / expected)) if expected else 1.0
        return self.seconds(work) * factor


def _not_negative(rows: np.ndarray, seconds: np.ndarray) -> tuple[float, ...]:
    """Least squares with constants of at least 0, in relative terms."""
    from scipy.optimize import nnls

    weight = 1 / np.maximum(seconds, 1e-9)
    return tuple(nnls(rows * weight[:, None], seconds * weight)[0])


def steps_in_slots(lengths: Sequence[int], slots: int) -> int:
    """Decoding steps of rows of these lengths, of which `slots` are decoded at a time, each followed by the next.

    >>> steps_in_slots([5, 3, 4], 2)
    7
    """
    ends = [0] * max(1, min(slots, len(lengths)))
    for length in lengths:
        first = ends.index(min(ends))
        ends[first] += length
    return max(ends)
