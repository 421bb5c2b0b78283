"""Estimates over prompts and training seeds, for policies that were trained from a few seeds.

`answers` has one row per answer: lm, source, method, seed (of the training), domain, prompt_id, reward and win. A difference
between two settings means little if two seeds of one setting differ as much, so the intervals here cover the variation over
prompts and over seeds.

The variance between seeds is not pooled over comparisons, for two reasons. Comparisons share trained policies (one adapter at
several temperatures, or one best policy against all others), so pooling would count the same training several times. And some
policies vary far more than others, so a common variance would be too small for them. Each comparison therefore uses its own
seeds, with one degree of freedom less than the number of seeds. This requires more seeds, but reaches the nominal coverage
(`docs/coverage.md`).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from .estimates import Bounds, method_gains, method_means, totals_of
from .intervals import LEVEL
from .verdicts import POWER

LEAST_SEEDS = 3  # needed for a verdict; with two seeds the critical t is 12.7
MOST_SEEDS = 1000  # the largest number of seeds that is reported as sufficient


def seed_estimates(
    answers: pd.DataFrame, value: str = "win", totals: str = "macro", seed: int = 0, bounds: Bounds = None
) -> pd.DataFrame:
    """Totals of `estimates.method_means` over all seeds, with intervals over prompts and seeds (`over_seeds`)."""
    means = totals_of(method_means(prompt_means(answers), value, totals, seed, bounds))
    by_seed = [totals_of(method_means(part, value, totals, seed, bounds)) for part in _by_seed(answers)]
    return over_seeds(means, [part["mean"].to_numpy() for part in by_seed], bounds=bounds)


def seed_gains(
    answers: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    margin: float,
    value: str = "win",
    totals: str = "macro",
    seed: int = 0,
) -> pd.DataFrame:
    """Totals of `estimates.method_gains`, with intervals and p over prompts and seeds (`over_seeds`).

    Adds the columns "each seed" (the difference of each seed, as text), seeds, and decide: the number of training seeds that
    would settle an open comparison, as `verdicts.n_to_decide` gives the number of prompts (NaN if more prompts would be needed
    as well). `margin`: the smallest difference that matters. With fewer than `LEAST_SEEDS` seeds there is no interval and
    hence no verdict.
    """
    gains = totals_of(method_gains(prompt_means(answers), pairs, value, totals, seed)).reset_index(drop=True)
    by_seed = [totals_of(method_gains(part, pairs, value, totals, seed))["mean"].to_numpy() for part in _by_seed(answers)]
    digits = 1 if np.nanmax(np.abs(by_seed)) >= 10 else 2
    texts = [", ".join(f"{v:.{digits}f}" for v in values) for values in zip(*by_seed, strict=True)]
    gains = over_seeds(gains, by_seed, margin).assign(**{"each seed": texts, "seeds": len(by_seed)})
    if len(by_seed) < LEAST_SEEDS:
        return gains.assign(low=math.nan, high=math.nan, p=math.nan, decide=LEAST_SEEDS)
    return gains


def over_seeds(
    estimates: pd.DataFrame, of_seed: Sequence[np.ndarray], margin: float = math.nan, bounds: Bounds = None
) -> pd.DataFrame:
    """Estimates (mean, low, high, n, p) whose intervals over prompts are widened by the variation between training seeds.

    The seed component of a row's interval is the critical value of Student's t with (seeds - 1) degrees of freedom, times the
    standard error of the row's seed means. It is added to the prompt component in quadrature. This is conservative, since both
    components contain the interaction of prompt and seed. With a single seed the intervals are unchanged.

    `of_seed`: for each training seed, the estimates from this seed alone, shape (rows,). `margin`: if given, adds the column
    decide. `bounds`: limits to which the intervals are clipped.
    """
    n = len(of_seed)
    if n == 1:
        return estimates
    error = np.std(of_seed, axis=0, ddof=1) / np.sqrt(n)
    between = student.ppf((1 + LEVEL) / 2, n - 1) * error
    below, above = (np.hypot(estimates["mean"] - estimates[end], between) for end in ("low", "high"))
    widened = estimates.assign(low=estimates["mean"] - below, high=estimates["mean"] + above)
    sides = [(r.mean - r.low if r.mean > 0 else r.high - r.mean) for r in estimates.itertuples()]
    rows = list(zip(widened["mean"], sides, error, strict=True))
    widened["p"] = [_p(mean, side, e, n) for mean, side, e in rows]
    if not math.isnan(margin):
        widened["decide"] = [_seeds_to_decide(mean, side, e * np.sqrt(n), margin) for mean, side, e in rows]
    if bounds:
        return widened.assign(low=widened["low"].clip(lower=bounds[0]), high=widened["high"].clip(upper=bounds[1]))
    return widened


@lru_cache
def _critical_values(n_seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid of decreasing log p, with the two-sided critical values of the normal (prompts) and of Student's t (seeds)."""
    log_p = np.concatenate([np.linspace(-1e-6, np.log(1 - LEVEL), 200), np.linspace(np.log(1 - LEVEL), -40, 400)[1:]])
    return log_p, norm.isf(np.exp(log_p) / 2), student.isf(np.exp(log_p) / 2, n_seeds - 1)


def _p(mean: float, side: float, error: float, n_seeds: int) -> float:
    """The two-sided p at which the combined interval just reaches 0.

    `side`: half-width of the 95 % interval over prompts. `error`: standard error over seeds.
    """
    if math.isnan(side):
        return math.nan
    log_p, prompts, seeds = _critical_values(n_seeds)
    half_width = np.hypot(side / norm.ppf((1 + LEVEL) / 2) * prompts, error * seeds)
    return float(np.exp(np.interp(abs(mean), half_width, log_p)))


def _seeds_to_decide(mean: float, side: float, spread: float, margin: float) -> float:
    """How many seeds would settle the comparison with the same prompts; `spread`: standard deviation between seeds."""
    distance = max(abs(mean), margin - abs(mean))
    z = norm.ppf((1 + LEVEL) / 2)
    allowed = (distance / ((z + norm.ppf(POWER)) / z)) ** 2 - side**2
    if not allowed > 0:
        return math.nan
    n = np.arange(LEAST_SEEDS, MOST_SEEDS + 1)
    enough = n[student.ppf((1 + LEVEL) / 2, n - 1) * spread / np.sqrt(n) <= math.sqrt(allowed)]
    return float(enough[0]) if len(enough) else math.nan


def prompt_means(answers: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Mean reward and win of each prompt over its answers and seeds, separately for each value of `keys`.

    The result is an input for `estimates.method_means`. Values that `answers` does not have are omitted.
    """
    by = ["lm", "source", "method", *keys, "domain", "prompt_id"]
    return answers.groupby(by, sort=False)[[v for v in ("reward", "win") if v in answers]].mean().reset_index()


def _by_seed(answers: pd.DataFrame) -> list[pd.DataFrame]:
    return [part for _, part in prompt_means(answers, "seed").groupby("seed")]


def seeds_sentence(answers: pd.DataFrame, totals: str = "macro") -> str:
    """How much the win rate of a policy varies between training seeds."""
    n = answers["seed"].nunique()
    if n == 1:
        return "Each policy was trained from one seed, so the intervals are over prompts alone."
    by_seed = [totals_of(method_means(part, "win", totals)).set_index("method")["mean"] for part in _by_seed(answers)]
    ranges = pd.concat(by_seed, axis=1).agg(np.ptp, axis=1)
    return (
        f"Between {n} training seeds, a policy's win rate varies by {ranges.mean():.1f} percentage points on average, and by "
        f"{ranges.max():.1f} at most ({ranges.idxmax()})."
    )
