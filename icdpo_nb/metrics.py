"""Statistics: means and paired differences over prompts, with bootstrap intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .protocol import InputError


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int  # prompts

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


def mean_ci(groups: Sequence[np.ndarray], totals: str = "macro", seed: int = 0) -> Estimate:
    """Mean over prompts with a 95 % percentile bootstrap interval (scipy.stats.bootstrap, 9,999 resamples).

    `groups`: one array of per-prompt values for each domain; prompts are resampled within their domain. `totals`: "macro"
    averages the domains' means (the paper's tables), "micro" all prompts (its code). One prompt alone has no interval (NaN).
    """
    return mean_cis(groups, totals, seed)[-1]


def mean_cis(groups: Sequence[np.ndarray], totals: str = "macro", seed: int = 0) -> list[Estimate]:
    """`mean_ci` of each group and, last, of all of them, from the same resamples; a group without values is left out."""
    from scipy.stats import bootstrap

    if totals not in ("macro", "micro"):
        raise InputError(f"totals is {totals!r}, but must be macro or micro")
    groups = [np.asarray(g, float) for g in groups if len(g)]
    if not groups or not all(np.isfinite(g).all() for g in groups):
        raise InputError("a mean needs at least one finite value for each prompt")
    sizes = np.array([len(g) for g in groups])
    share = sizes / sizes.sum() if totals == "micro" else np.full(len(groups), 1 / len(groups))
    weights = np.vstack([np.eye(len(groups)), share])  # of the groups' means, a row for each estimate

    def statistic(*samples, axis=-1):
        return weights @ np.stack([s.mean(axis) for s in samples])

    alone = sizes == 1
    drawn = [np.repeat(g, 2) if len(g) == 1 else g for g in groups]  # scipy takes no sample of one; its interval is not used
    how = {"method": "percentile", "n_resamples": 9999, "batch": 999, "rng": np.random.default_rng(seed)}
    limits = bootstrap(drawn, statistic, **how).confidence_interval
    low, high = (np.where([*alone, alone.any()], np.nan, side).tolist() for side in limits)
    means, n = statistic(*groups).tolist(), [*sizes.tolist(), int(sizes.sum())]
    return [Estimate(*row) for row in zip(means, low, high, n, strict=True)]


def rank_correlation(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Estimate:
    """Spearman's ρ of two values of each prompt, with a 95 % percentile bootstrap interval over prompts (scipy, 999 resamples).

    NaN where one of the two never changes (a resample of that kind counts as 0), and no interval for fewer than three prompts.
    """
    from scipy.stats import bootstrap, rankdata

    x, y = np.asarray(x, float), np.asarray(y, float)

    def rho(a, b, axis=-1):
        a, b = (rankdata(v, axis=axis) for v in (a, b))
        a, b = (v - v.mean(axis, keepdims=True) for v in (a, b))
        scale = np.sqrt((a**2).sum(axis) * (b**2).sum(axis))
        return np.divide((a * b).sum(axis), scale, out=np.zeros_like(scale), where=scale > 0)

    none = float("nan")
    if not np.ptp(x) or not np.ptp(y):
        return Estimate(none, none, none, len(x))
    if len(x) < 3:
        return Estimate(float(rho(x, y)), none, none, len(x))
    found = bootstrap((x, y), rho, paired=True, method="percentile", n_resamples=999, rng=np.random.default_rng(seed))
    return Estimate(float(rho(x, y)), float(found.confidence_interval.low), float(found.confidence_interval.high), len(x))
