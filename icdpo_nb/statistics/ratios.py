"""The ratio of two means over the same prompts, such as the share of a possible gain that a method attains."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from .intervals import Estimate, mean_ci

STEPS = 40  # doublings of the distance within which a limit is sought


def ratio_ci(
    numerators: Sequence[np.ndarray], denominators: Sequence[np.ndarray], totals: str = "macro", seed: int = 0
) -> Estimate:
    """Ratio of two paired means with a 95 % interval, by Fieller's argument (Fieller 1954) applied to `mean_ci`.

    A value ρ belongs to the interval unless the mean of numerator - ρ · denominator is shown to differ from 0. The interval
    thus inherits the coverage of `mean_ci`, for skewed and tied values and for means over domains, and needs no normal ratio.

    The arguments hold one array of per-prompt values for each domain, paired. The ratio is NaN if the denominators' mean is 0.
    There is no interval if `mean_ci` has none, if that mean is not shown to differ from 0, since all ratios would then be
    possible, or if the numerators are a fixed multiple of the denominators. `p` refers to a true ratio of 0.
    """
    above = [np.asarray(g, float) for g in numerators if len(g)]
    below = [np.asarray(g, float) for g in denominators if len(g)]
    top, bottom = mean_ci(above, totals, seed), mean_ci(below, totals, seed)
    if bottom.mean < 0:
        below, above = [-g for g in below], [-g for g in above]
    ratio = top.mean / bottom.mean if bottom.mean else math.nan

    @cache  # the ends of a search are asked for again
    def difference(rho: float) -> Estimate:
        return mean_ci([a - rho * b for a, b in zip(above, below, strict=True)], totals, seed)

    if not bottom.sign or _constant([a - ratio * b for a, b in zip(above, below, strict=True)]):
        return Estimate(ratio, math.nan, math.nan, top.n)
    there = difference(ratio)
    step = (there.high - there.low) / abs(bottom.mean)
    low = _crossing(lambda rho: difference(rho).low, ratio, -step)
    high = _crossing(lambda rho: difference(rho).high, ratio, step)
    return Estimate(ratio, low, high, top.n, top.p) if math.isfinite(low + high) else Estimate(ratio, math.nan, math.nan, top.n)


def _constant(groups: Sequence[np.ndarray]) -> bool:
    return all(np.ptp(g) <= 1e-9 * max(1.0, np.abs(g).max()) for g in groups)


def _crossing(limit, start: float, step: float) -> float:
    """Where a limit of the difference is 0, sought from `start` outwards in the direction of `step`; NaN if nowhere."""
    from scipy.optimize import brentq

    far, begin = start + step, limit(start)
    for _ in range(STEPS):
        value = limit(far)
        if math.isnan(value):
            return math.nan
        if (value > 0) != (begin > 0):
            return float(brentq(limit, start, far, xtol=1e-4))
        far, step = far + step, 2 * step
    return math.nan
