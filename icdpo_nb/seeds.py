"""Estimates over prompts and over trainings: how sure one can be of a policy that was trained from a few seeds.

`answers` has a row an answer: lm, source, method, seed (of the training), domain, prompt_id, and the values reward and win. A
difference between two settings means little where two seeds differ as much, so intervals here cover both.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .tables import claims, method_gains, method_means, totals_of


def seed_estimates(answers: pd.DataFrame, value: str = "win", totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """`tables.method_means` of all seeds together; the totals' intervals are over prompts and trainings (`over_seeds`)."""
    means = totals_of(method_means(prompt_means(answers), value, totals, seed))
    of_seed = [totals_of(method_means(part, value, totals, seed)) for part in _by_seed(answers)]
    return over_seeds(means, [part["mean"].to_numpy() for part in of_seed])


def seed_gains(
    answers: pd.DataFrame, pairs: Sequence[tuple[str, str]], totals: str = "macro", seed: int = 0
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Totals of `tables.method_gains` in win rate, with intervals as by `over_seeds`; and each seed's own differences."""
    gains = totals_of(method_gains(prompt_means(answers), pairs, "win", totals, seed))
    of_seed = [totals_of(method_gains(part, pairs, "win", totals, seed))["mean"].to_numpy() for part in _by_seed(answers)]
    return over_seeds(gains, of_seed), of_seed


def over_seeds(estimates: pd.DataFrame, of_seed: Sequence[np.ndarray]) -> pd.DataFrame:
    """Estimates (mean, low, high) whose intervals over prompts are widened by what another training would change.

    `of_seed`: for each training seed the estimates of its policies alone. Two or three seeds say little about the spread of one
    policy, so the variance between seeds is taken as one for all rows, their mean (as in an analysis of variance). Its part
    of the interval, 1.96 times the standard error, and that of the prompts add as squares. One seed changes nothing.
    """
    n = len(of_seed)
    if n == 1:
        return estimates
    between = 1.96 * np.sqrt(np.var(of_seed, axis=0, ddof=1).mean() / n)
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
    found = claims(gains, pairs, figure=printed)
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
