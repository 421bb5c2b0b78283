"""Means and paired differences over prompts, with confidence intervals that reach their nominal coverage.

The intervals are designed for small samples of skewed or tied values, for which a percentile bootstrap is too narrow.
`docs/coverage.md` reports their measured coverage, and `make coverage` repeats the measurement.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..common.errors import InputError

MIN_VALUES = 20  # per group; with fewer values there is no interval, since none would cover for skewed data
RESAMPLES = 9999
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval; the limits are NaN if there is no interval."""

    mean: float
    low: float
    high: float
    n: int  # prompts
    p: float = float("nan")  # two-sided, for a true mean of 0; below 0.05 if the interval excludes 0

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 2) -> str:
        """The estimate as "mean [low, high]", with this many decimals."""
        mean, low, high = (f"{v:.{digits}f}" for v in (self.mean, self.low, self.high))
        if math.isnan(self.mean):
            return "–"
        return f"{mean} [–]" if math.isnan(self.low) else f"{mean} [{low}, {high}]"

    @property
    def sign(self) -> int:
        """1 if the interval lies above 0, -1 if it lies below, and 0 if it includes 0."""
        return int(self.low > 0) - int(self.high < 0)


def mean_ci(
    groups: Sequence[np.ndarray], totals: str = "macro", seed: int = 0, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Mean over prompts with a 95 % interval: the wider of a studentised bootstrap interval and Student's t.

    The studentised bootstrap (Efron and Tibshirani 1993, section 12.5; 9,999 resamples) adapts to skewed values. Student's t
    prevents an interval that is too narrow when values are few or tied. There is no interval if a domain has fewer than
    `MIN_VALUES` prompts or, without bounds, if all values of each domain are equal.

    `groups`: one array of per-prompt values for each domain; prompts are resampled within their domain.
    `totals`: "macro" averages the domain means, as the paper's tables do; "micro" averages all prompts, as its code does.
    `bounds`: the smallest and largest possible value, e.g. (0, 1) for shares; the interval is then exact (`share_limits`).
    """
    return _estimates(groups, totals, seed, bounds, apart=False)[-1]


def mean_cis(
    groups: Sequence[np.ndarray], totals: str = "macro", seed: int = 0, bounds: tuple[float, float] | None = None
) -> list[Estimate]:
    """`mean_ci` of each group and, last, of all groups, from the same resamples. Empty groups are omitted."""
    return _estimates(groups, totals, seed, bounds, apart=True)


def _estimates(
    groups: Sequence[np.ndarray], totals: str, seed: int, bounds: tuple[float, float] | None, apart: bool
) -> list[Estimate]:
    """The estimates of each group alone, if they are wanted `apart`, and of all groups."""
    if totals not in ("macro", "micro"):
        raise InputError(f"totals is {totals!r}, but must be macro or micro")
    groups = [np.asarray(g, float) for g in groups if len(g)]
    if not groups or not all(np.isfinite(g).all() for g in groups):
        raise InputError("a mean needs at least one finite value for each prompt")
    sizes = np.array([len(g) for g in groups])
    weights = sizes / sizes.sum() if totals == "micro" else np.full(len(groups), 1 / len(groups))
    parts = [*(([g], np.ones(1)) for g in groups if apart), (groups, weights)]
    if bounds:
        return [_bounded(*part, bounds) for part in parts]
    moments = [_moments(g, seed + k) if len(g) >= MIN_VALUES else None for k, g in enumerate(groups)]
    return [_unbounded(g, w, m) for (g, w), m in zip(parts, [*([m] for m in moments if apart), moments], strict=True)]


@lru_cache(16)
def _counts(n: int, seed: int) -> np.ndarray:
    """How often each resample draws each of n values, shape (RESAMPLES, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float32)


def _moments(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centred mean and squared standard error of the values (first element) and of each resample."""
    n, centred = len(values), values - values.mean()
    scale = np.abs(centred).max() or 1.0  # keeps the float32 squares accurate in any unit
    drawn = _counts(n, seed % 2**32) @ np.stack([centred, centred**2 / scale], 1).astype(np.float32)
    mean, square = np.vstack([[0.0, (centred**2).sum() / scale], drawn]).T.astype(float) / n
    return mean, np.maximum(square * scale - mean**2, 0) / (n - 1)


def _unbounded(groups: Sequence[np.ndarray], weights: np.ndarray, moments: Sequence[tuple | None]) -> Estimate:
    """The weighted mean of the group means, with its interval and p."""
    from scipy.stats import t as student

    mean = float(sum(w * g.mean() for w, g in zip(weights, groups, strict=True)))
    n = sum(map(len, groups))
    if any(m is None for m in moments) or not any(m[1][0] > 0 for m in moments):
        return Estimate(mean, math.nan, math.nan, n)
    variances = np.array([w**2 * m[1] for w, m in zip(weights, moments, strict=True)])  # (groups, 1 + resamples)
    error = np.sqrt(variances.sum(0))
    welch = sum(v[0] ** 2 / (len(g) - 1) for v, g in zip(variances, groups, strict=True))
    freedom = variances[:, 0].sum() ** 2 / welch  # degrees of freedom after Welch and Satterthwaite
    shift = sum(w * m[0] for w, m in zip(weights, moments, strict=True))[1:]
    varied = error[1:] > 1e-3 * error[0]  # the t-ratio of a resample of equal values is undefined
    ratio = np.where(varied, shift / np.where(varied, error[1:], 1), 0)
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    critical, observed = student.ppf(tails[1], freedom), mean / error[0]
    low, high = -critical, critical
    p = 2 * student.sf(abs(observed), freedom)
    if varied.mean() > 0.97:  # otherwise too few values differ for the bootstrap to be informative
        low, high = np.minimum(np.quantile(ratio, tails, method="closest_observation") * [1, -1], -critical) * [1, -1]
        beyond = (1 + min((ratio >= observed).sum(), (ratio <= observed).sum())) / (len(ratio) + 1)
        p = max(p, min(1.0, 2 * beyond))
    return Estimate(mean, mean - high * error[0], mean - low * error[0], n, float(p))


def share_limits(k: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact (Clopper-Pearson) limits of a share of k in n; matches scipy.stats.binomtest(k, n).proportion_ci().

    k may be a sum of values between 0 and 1, e.g. of wins with ties counted as one half. Such values vary less than wins and
    losses with the same mean, so the limits are then conservative.
    """
    from scipy.stats import beta

    tail = (1 - level) / 2
    return (beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0), (beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0)


def _bounded(groups: Sequence[np.ndarray], weights: np.ndarray, bounds: tuple[float, float]) -> Estimate:
    """As `_unbounded`, for bounded values: exact limits by group, combined as independent errors (Zou and Donner 2008)."""
    low, high = bounds
    if any((g < low).any() or (g > high).any() for g in groups):
        raise InputError(f"a value lies outside its bounds, {low:g} to {high:g}")
    scaled = [(g - low) / (high - low) for g in groups]
    means = np.array([s.mean() for s in scaled])
    mean, n = float(weights @ means), sum(map(len, groups))
    if min(map(len, groups)) < MIN_VALUES:
        return Estimate(low + mean * (high - low), math.nan, math.nan, n)
    limits = np.array([share_limits(s.sum(), len(s)) for s in scaled])
    down, up = (float(np.sqrt(((weights * (means - side)) ** 2).sum())) for side in limits.T)
    unit = (mean, max(mean - down, 0.0), min(mean + up, 1.0))
    return Estimate(*(low + value * (high - low) for value in unit), n)


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values of a family of comparisons after Holm's correction. NaN stays NaN and does not count as a comparison.

    Matches statsmodels' multipletests(p, method="holm").
    """
    p = np.asarray(p, float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = p.copy()
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def rank_correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Spearman's ρ between two values of each prompt, with a 95 % interval.

    The interval uses Fisher's z with the variance of Bonett and Wright (2000). ρ is NaN if either value is constant, and
    there is no interval for fewer than `MIN_VALUES` prompts.
    """
    from scipy.stats import norm, spearmanr

    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return Estimate(math.nan, math.nan, math.nan, len(x))
    rho = float(spearmanr(x, y).statistic)
    if len(x) < MIN_VALUES or abs(rho) >= 1:
        return Estimate(rho, math.nan, math.nan, len(x))
    z = math.atanh(rho)
    error = math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    half_width = norm.ppf((1 + LEVEL) / 2) * error
    p = float(2 * norm.sf(abs(z) / error))
    return Estimate(rho, math.tanh(z - half_width), math.tanh(z + half_width), len(x), p)
