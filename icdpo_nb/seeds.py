"""Estimates over prompts and over trainings: how sure one can be of a policy that was trained from a few seeds.

`answers` has a row an answer: lm, source, method, seed (of the training), domain, prompt_id, and the values reward and win. A
difference between two settings means little where two seeds differ as much, so intervals here cover both.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student

from .tables import claims, method_gains, method_means, totals_of

FEW = 3  # comparisons; fewer give no variance that a t of their own would not blow up beyond all sense


def seed_estimates(answers: pd.DataFrame, value: str = "win", totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """`tables.method_means` of all seeds together; the totals' intervals are over prompts and trainings (`over_seeds`)."""
    means = totals_of(method_means(prompt_means(answers), value, totals, seed))
    of_seed = [totals_of(method_means(part, value, totals, seed)) for part in _by_seed(answers)]
    return over_seeds(means, [part["mean"].to_numpy() for part in of_seed])


def seed_gains(
    answers: pd.DataFrame, pairs: Sequence[tuple[str, str]], totals: str = "macro", seed: int = 0
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Totals of `tables.method_gains` in win rate, with intervals as by `over_seeds`; and each seed's own differences.

    The variance between seeds is one for all comparisons of the same two methods, whatever their settings: two settings of one
    method, which learn the same pairs in the same order, vary far less against each other than two methods do. Methods that
    are compared fewer than `FEW` times have one together.
    """
    gains = totals_of(method_gains(prompt_means(answers), pairs, "win", totals, seed))
    of_seed = [totals_of(method_gains(part, pairs, "win", totals, seed))["mean"].to_numpy() for part in _by_seed(answers)]
    better, worse = (gains[side].str.partition(",")[0] for side in ("better", "worse"))
    methods = better + " " + worse
    return over_seeds(gains, of_seed, methods.where(methods.map(methods.value_counts()) >= FEW, "few")), of_seed


def over_seeds(
    estimates: pd.DataFrame, of_seed: Sequence[np.ndarray], groups: Sequence[Hashable] | None = None
) -> pd.DataFrame:
    """Estimates (mean, low, high) whose intervals over prompts are widened by what another training would change.

    `of_seed`: for each training seed the estimates of its policies alone. Two or three seeds say little about the spread of one
    row, so the variance between seeds is taken as one for all rows of a group, their mean (as in an analysis of variance). Its
    part of the interval, Student's t times the standard error, and that of the prompts add as squares. One seed alone widens
    nothing.
    """
    n, rows = len(of_seed), len(estimates)
    if n == 1:
        return estimates
    groups = pd.Series(["all"] * rows if groups is None else list(groups))
    variance = pd.Series(np.var(of_seed, axis=0, ddof=1)).groupby(groups).transform("mean")
    t = student.ppf(0.975, groups.map(groups.value_counts()) * (n - 1))
    between = t * np.sqrt(variance.to_numpy() / n)
    low, high = (np.hypot(estimates["mean"] - estimates[end], between) for end in ("low", "high"))
    return estimates.assign(low=estimates["mean"] - low, high=estimates["mean"] + high)


def prompt_means(answers: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """A prompt's reward and win: their means over its answers and the seeds, or for each value of `keys`.

    Input for `tables.method_means`.
    """
    by = ["lm", "source", "method", *keys, "domain", "prompt_id"]
    return answers.groupby(by, sort=False)[["reward", "win"]].mean().reset_index()


def _by_seed(answers: pd.DataFrame) -> list[pd.DataFrame]:
    return [part for _, part in prompt_means(answers, "seed").groupby("seed")]


def seed_claims(gains: pd.DataFrame, of_seed: Sequence[np.ndarray], printed: Sequence[str]) -> pd.DataFrame:
    """`tables.claims` on the differences of `seed_gains`, with each seed's own beside them."""
    pairs = list(zip(gains["better"], gains["worse"], strict=True))
    found = claims(gains, pairs, figure=printed, digits=1)
    found.insert(4, "each seed", [", ".join(f"{v:.1f}" for v in values) for values in zip(*of_seed, strict=True)])
    return found


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
