"""Estimates over prompts and over trainings: how sure one can be of a policy that was trained from a few seeds.

`answers` has a row an answer: lm, source, method, seed (of the training), domain, prompt_id, and the values reward and win. A
difference between two settings means little where two seeds differ as much, so intervals here cover both.

The variance between seeds is never pooled over comparisons. They share trained policies (several temperatures of one adapter,
one best policy against all others), so that pooling counts the same trainings several times; and some policies vary far more
than others, so that a common variance is too small for them. Each comparison has its own seeds, and one degree of freedom less
than it has seeds. That needs more seeds, and holds the truth as often as it says (`docs/coverage.md`).
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

LEAST_SEEDS = 3  # trainings; two leave a t of 12.7, and no verdict is given
MOST_SEEDS = 1000  # that are asked for


def seed_estimates(
    answers: pd.DataFrame, value: str = "win", totals: str = "macro", seed: int = 0, bounds: Bounds = None
) -> pd.DataFrame:
    """`estimates.method_means` of all seeds together; the totals' intervals are over prompts and trainings (`over_seeds`)."""
    means = totals_of(method_means(prompt_means(answers), value, totals, seed, bounds))
    of_seed = [totals_of(method_means(part, value, totals, seed, bounds)) for part in _by_seed(answers)]
    return over_seeds(means, [part["mean"].to_numpy() for part in of_seed], bounds=bounds)


def seed_gains(
    answers: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    margin: float,
    value: str = "win",
    totals: str = "macro",
    seed: int = 0,
) -> pd.DataFrame:
    """Totals of `estimates.method_gains`, with intervals and p as by `over_seeds`.

    Further columns: "each seed" (its own differences, as text), seeds, and decide, the number of training seeds that would
    decide what these cannot tell, as `verdicts.n_to_decide` does for prompts (NaN where more prompts would be needed too).
    `margin`: the smallest difference that matters. Below `LEAST_SEEDS` seeds there is no interval, so no verdict can be given.
    """
    gains = totals_of(method_gains(prompt_means(answers), pairs, value, totals, seed)).reset_index(drop=True)
    of_seed = [totals_of(method_gains(part, pairs, value, totals, seed))["mean"].to_numpy() for part in _by_seed(answers)]
    found = over_seeds(gains, of_seed, margin)
    digits = 1 if np.nanmax(np.abs(of_seed)) >= 10 else 2
    text = [", ".join(f"{v:.{digits}f}" for v in values) for values in zip(*of_seed, strict=True)]
    found = found.assign(**{"each seed": text, "seeds": len(of_seed)})
    none = {"low": math.nan, "high": math.nan, "p": math.nan, "decide": LEAST_SEEDS}
    return found.assign(**none) if len(of_seed) < LEAST_SEEDS else found


def over_seeds(
    estimates: pd.DataFrame, of_seed: Sequence[np.ndarray], margin: float = math.nan, bounds: Bounds = None
) -> pd.DataFrame:
    """Estimates (mean, low, high, n, p) whose intervals over prompts are widened by what another training would change.

    `of_seed`: for each training seed the estimates of its policies alone, shape (rows,). The seeds' part of a row's interval is
    Student's t with (seeds - 1) degrees of freedom times the standard error of its own seeds' mean. It and the prompts' part
    add as squares, on the safe side, since both hold what differs by prompt and seed at once. One seed alone widens nothing.
    With a `margin` there is a column decide. Intervals end at the `bounds`.
    """
    n = len(of_seed)
    if n == 1:
        return estimates
    error = np.std(of_seed, axis=0, ddof=1) / np.sqrt(n)
    between = student.ppf((1 + LEVEL) / 2, n - 1) * error
    low, high = (np.hypot(estimates["mean"] - estimates[end], between) for end in ("low", "high"))
    found = estimates.assign(low=estimates["mean"] - low, high=estimates["mean"] + high)
    sides = [(r.mean - r.low if r.mean > 0 else r.high - r.mean) for r in estimates.itertuples()]
    found["p"] = [_p(m, side, e, n) for m, side, e in zip(found["mean"], sides, error, strict=True)]
    if not math.isnan(margin):
        rows = zip(found["mean"], sides, error, strict=True)
        found["decide"] = [_seeds_to_decide(m, side, e * np.sqrt(n), margin) for m, side, e in rows]
    return found.assign(low=found["low"].clip(lower=bounds[0]), high=found["high"].clip(upper=bounds[1])) if bounds else found


@lru_cache
def _reaches(n_seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Falling log p, and how many standard errors the two-sided interval of that p reaches: over prompts, and over seeds."""
    log_p = np.concatenate([np.linspace(-1e-6, np.log(1 - LEVEL), 200), np.linspace(np.log(1 - LEVEL), -40, 400)[1:]])
    return log_p, norm.isf(np.exp(log_p) / 2), student.isf(np.exp(log_p) / 2, n_seeds - 1)


def _p(mean: float, side: float, error: float, n_seeds: int) -> float:
    """The two-sided p at which an interval of this kind would end at 0; `side`: the prompts' part of the 95 % interval."""
    if math.isnan(side):
        return math.nan
    log_p, prompts, seeds = _reaches(n_seeds)
    reach = np.hypot(side / norm.ppf((1 + LEVEL) / 2) * prompts, error * seeds)
    return float(np.exp(np.interp(abs(mean), reach, log_p)))


def _seeds_to_decide(mean: float, side: float, spread: float, margin: float) -> float:
    """How many seeds would decide, by the prompts there are; `spread`: the seeds' standard deviation."""
    apart = max(abs(mean), margin - abs(mean))
    z = norm.ppf((1 + LEVEL) / 2)
    allowed = (apart / ((z + norm.ppf(POWER)) / z)) ** 2 - side**2
    if not allowed > 0:
        return math.nan
    n = np.arange(LEAST_SEEDS, MOST_SEEDS + 1)
    enough = n[student.ppf((1 + LEVEL) / 2, n - 1) * spread / np.sqrt(n) <= math.sqrt(allowed)]
    return float(enough[0]) if len(enough) else math.nan


def prompt_means(answers: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """A prompt's reward and win: their means over its answers and the seeds, or for each value of `keys`.

    Input for `estimates.method_means`. Values that `answers` lacks are left out.
    """
    by = ["lm", "source", "method", *keys, "domain", "prompt_id"]
    return answers.groupby(by, sort=False)[[v for v in ("reward", "win") if v in answers]].mean().reset_index()


def _by_seed(answers: pd.DataFrame) -> list[pd.DataFrame]:
    return [part for _, part in prompt_means(answers, "seed").groupby("seed")]


def seeds_sentence(answers: pd.DataFrame, totals: str = "macro") -> str:
    """How far apart the seeds of one policy are."""
    n = answers["seed"].nunique()
    if n == 1:
        return "All policies have one training seed, and the intervals are over prompts alone."
    of_seed = [totals_of(method_means(part, "win", totals)).set_index("method")["mean"] for part in _by_seed(answers)]
    apart = pd.concat(of_seed, axis=1).agg(np.ptp, axis=1)
    return (
        f"Between {n} training seeds a policy's win rates lie {apart.mean():.1f} percentage points apart on average, and "
        f"{apart.max():.1f} at most ({apart.idxmax()})."
    )
