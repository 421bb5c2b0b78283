"""Statistics: means and paired differences over prompts, with intervals that cover at the n in use.

An interval must hold the truth as often as it says, also for a handful of skewed or tied values; a percentile bootstrap does
not. `docs/coverage.md` shows how often those of this module do, `make coverage` measures it again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..common.errors import InputError

MIN_VALUES = 20  # values in each group; fewer have a mean and no interval, since none would cover for skewed values
RESAMPLES = 9999
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int  # prompts
    p: float = float("nan")  # two-sided, of a true mean of 0; below 0.05 where the interval leaves 0 out

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 2) -> str:
        """mean [low, high], with so many digits."""
        mean, low, high = (f"{v:.{digits}f}" for v in (self.mean, self.low, self.high))
        if math.isnan(self.mean):
            return "–"
        return f"{mean} [–]" if math.isnan(self.low) else f"{mean} [{low}, {high}]"

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below 0, else 0: no difference could be shown."""
        return int(self.low > 0) - int(self.high < 0)


def mean_ci(
    groups: Sequence[np.ndarray], totals: str = "macro", seed: int = 0, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Mean over prompts with a 95 % interval: the wider of a studentised bootstrap's and Student's t.

    `groups`: one array of per-prompt values for each domain; prompts are resampled within their domain. `totals`: "macro"
    averages the domains' means (the paper's tables), "micro" all prompts (its code). `bounds`: the least and the largest
    possible value, as (0, 1) of shares, whose interval is then exact (`share_limits`). There is no interval where a domain has
    fewer than `MIN_VALUES` prompts, nor without bounds where all values of each domain are equal.

    The studentised bootstrap (Efron and Tibshirani 1993, section 12.5) follows skewness, and Student's t keeps it from being
    too narrow where values are tied or few. 9,999 resamples.
    """
    return mean_cis(groups, totals, seed, bounds)[-1]


def mean_cis(
    groups: Sequence[np.ndarray], totals: str = "macro", seed: int = 0, bounds: tuple[float, float] | None = None
) -> list[Estimate]:
    """`mean_ci` of each group and, last, of all of them, from the same resamples; a group without values is left out."""
    if totals not in ("macro", "micro"):
        raise InputError(f"totals is {totals!r}, but must be macro or micro")
    groups = [np.asarray(g, float) for g in groups if len(g)]
    if not groups or not all(np.isfinite(g).all() for g in groups):
        raise InputError("a mean needs at least one finite value for each prompt")
    sizes = np.array([len(g) for g in groups])
    share = sizes / sizes.sum() if totals == "micro" else np.full(len(groups), 1 / len(groups))
    parts = [([g], np.ones(1)) for g in groups] + [(groups, share)]  # each group alone, and all of them with their weights
    if bounds:
        return [_bounded(*part, bounds) for part in parts]
    known = [_moments(g, seed + k) if len(g) >= MIN_VALUES else None for k, g in enumerate(groups)]
    return [_unbounded(g, w, m) for (g, w), m in zip(parts, [*([m] for m in known), known], strict=True)]


@lru_cache(16)
def _counts(n: int, seed: int) -> np.ndarray:
    """How often each of n values is drawn in each resample, (RESAMPLES, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float32)


def _moments(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and squared standard error of the values (first) and of each of their resamples, centred at their mean."""
    n, centred = len(values), values - values.mean()
    scale = np.abs(centred).max() or 1.0  # squares of float32 stay exact enough whatever the unit
    drawn = _counts(n, seed % 2**32) @ np.stack([centred, centred**2 / scale], 1).astype(np.float32)
    mean, square = np.vstack([[0.0, (centred**2).sum() / scale], drawn]).T.astype(float) / n
    return mean, np.maximum(square * scale - mean**2, 0) / (n - 1)


def _unbounded(groups: Sequence[np.ndarray], weights: np.ndarray, moments: Sequence[tuple | None]) -> Estimate:
    """The weighted mean of the groups' means, with its interval and p."""
    from scipy.stats import t as student

    mean, n = float(sum(w * g.mean() for w, g in zip(weights, groups, strict=True))), sum(map(len, groups))
    none = float("nan")
    if any(m is None for m in moments) or not any(m[1][0] > 0 for m in moments):
        return Estimate(mean, none, none, n)
    errors = np.array([w**2 * m[1] for w, m in zip(weights, moments, strict=True)])  # (groups, 1 + resamples)
    error = np.sqrt(errors.sum(0))
    freedom = errors[:, 0].sum() ** 2 / sum(e[0] ** 2 / (len(g) - 1) for e, g in zip(errors, groups, strict=True))  # Welch
    shift = sum(w * m[0] for w, m in zip(weights, moments, strict=True))[1:]
    varied = error[1:] > 1e-3 * error[0]  # a resample of equal values has no ratio
    ratio = np.where(varied, shift / np.where(varied, error[1:], 1), 0)
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    wide, here = student.ppf(tails[1], freedom), mean / error[0]
    low, high, p = -wide, wide, 2 * student.sf(abs(here), freedom)
    if varied.mean() > 0.97:  # else too few values differ for the resamples to tell anything
        low, high = np.minimum(np.quantile(ratio, tails, method="closest_observation") * [1, -1], -wide) * [1, -1]
        beyond = (1 + min((ratio >= here).sum(), (ratio <= here).sum())) / (len(ratio) + 1)
        p = max(p, min(1.0, 2 * beyond))
    return Estimate(mean, mean - high * error[0], mean - low * error[0], n, float(p))


def share_limits(k: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact (Clopper-Pearson) limits of a share of k in n; matches scipy.stats.binomtest(k, n).proportion_ci().

    k may be a sum of values between 0 and 1, as of wins with ties at one half. Such values vary less than wins and defeats of
    the same mean, so the limits are then on the safe side.
    """
    from scipy.stats import beta

    tail = (1 - level) / 2
    return (beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0), (beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0)


def _bounded(groups: Sequence[np.ndarray], weights: np.ndarray, bounds: tuple[float, float]) -> Estimate:
    """The same for values within bounds: exact limits for each group, joined as independent errors (Zou and Donner 2008)."""
    low, high = bounds
    if any((g < low).any() or (g > high).any() for g in groups):
        raise InputError(f"a value lies outside its bounds, {low:g} to {high:g}")
    scaled = [(g - low) / (high - low) for g in groups]
    means, n = np.array([s.mean() for s in scaled]), sum(map(len, groups))
    mean = float(weights @ means)
    if min(map(len, groups)) < MIN_VALUES:
        return Estimate(low + mean * (high - low), float("nan"), float("nan"), n)
    limits = np.array([share_limits(s.sum(), len(s)) for s in scaled])
    down, up = (float(np.sqrt(((weights * (means - side)) ** 2).sum())) for side in limits.T)
    ends = (low + value * (high - low) for value in (mean, max(mean - down, 0.0), min(mean + up, 1.0)))
    return Estimate(*ends, n)


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values of a family of comparisons after Holm's correction; NaN stays NaN and counts for nothing.

    Matches statsmodels' multipletests(p, method="holm").
    """
    p = np.asarray(p, float)
    known = np.flatnonzero(~np.isnan(p))
    order, out = known[np.argsort(p[known], kind="stable")], p.copy()
    out[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def rank_correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Spearman's ρ of two values of each prompt, with a 95 % interval.

    By Fisher's z with the variance of Bonett and Wright (2000). NaN where one of the two never changes, and no interval for
    fewer than `MIN_VALUES` prompts.
    """
    from scipy.stats import norm, spearmanr

    x, y, none = np.asarray(x, float), np.asarray(y, float), float("nan")
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return Estimate(none, none, none, len(x))
    rho = float(spearmanr(x, y).statistic)
    if len(x) < MIN_VALUES or abs(rho) >= 1:
        return Estimate(rho, none, none, len(x))
    error = math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    reach = norm.ppf((1 + LEVEL) / 2) * error
    p = float(2 * norm.sf(abs(math.atanh(rho)) / error))
    return Estimate(rho, math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach), len(x), p)
