"""How often the intervals hold the truth: means of skewed and tied values, shares, and policies trained from a few seeds.

`make coverage` draws each situation a few thousand times and writes docs/coverage.md; tests/test_coverage.py draws it less
often. The percentile bootstrap and the variance pooled over comparisons, which reports used before, stand beside.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from icdpo_nb.statistics import intervals as metrics
from icdpo_nb.statistics.intervals import mean_ci
from icdpo_nb.statistics.seeds import over_seeds

Draw = Callable[[np.random.Generator, int], np.ndarray]
SKEWED = {  # values of a prompt, and their true mean
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "log-normal, σ = 1": (lambda rng, n: rng.lognormal(size=n), np.exp(0.5)),
    "tied: −1, 0 or 1, mostly 0": (lambda rng, n: rng.choice([-1.0, 0, 1], p=[0.1, 0.7, 0.2], size=n), 0.1),
    "tied: 1 in a tenth, else 0": (lambda rng, n: rng.choice([0.0, 1], p=[0.9, 0.1], size=n), 0.1),
    "like rewards: 0 or one of five": (
        lambda rng, n: rng.choice([0, -1.5, 0.5, 1, 2, 4], p=[0.6] + [0.08] * 5, size=n),
        0.48,
    ),
}
SIZES = (2, 5, 10, 20, 40, 100, 400)


def percentile(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The interval that reports used before."""
    return tuple(np.quantile(rng.choice(values, (999, len(values))).mean(1), [0.025, 0.975]))


def cover_mean(draw: Draw, truth: float, n: int, times: int, seed: int = 0) -> dict[str, float]:
    """Shares: of samples with an interval, of intervals that hold the truth, and of percentile intervals that do."""
    rng, held, before = np.random.default_rng(seed), [], []
    for _ in range(times):
        values = draw(rng, n)
        found = mean_ci([values], seed=int(rng.integers(4)))
        held += [] if np.isnan(found.low) else [found.low <= truth <= found.high]
        low, high = percentile(values, rng)
        before.append(low <= truth <= high)
    return {"interval": len(held) / times, "held": np.mean(held) if held else float("nan"), "percentile": np.mean(before)}


def cover_share(p: float, ties: float, n: int, times: int, seed: int = 0) -> dict[str, float]:
    """The same for wins of probability p among the decided, and a share of ties at one half; two domains of n each."""
    rng, held, before, truth = np.random.default_rng(seed), [], [], p * (1 - ties) + ties / 2
    for _ in range(times):
        groups = [rng.choice([0, 0.5, 1], p=[(1 - p) * (1 - ties), ties, p * (1 - ties)], size=n) for _ in range(2)]
        found = mean_ci(groups, bounds=(0, 1))
        held += [] if np.isnan(found.low) else [found.low <= truth <= found.high]
        low, high = percentile(np.concatenate(groups), rng)
        before.append(low <= truth <= high)
    return {"interval": len(held) / times, "held": np.mean(held) if held else float("nan"), "percentile": np.mean(before)}


@dataclass(frozen=True)
class Situation:
    """Comparisons of trained policies whose true means are all equal.

    `spread`: of each policy between seeds; `pairs`: of policies, by number.
    """

    spread: Sequence[float]
    pairs: Sequence[tuple[int, int]]
    same: float = 0.0  # spread of what a pair's policies differ by beside their training, as two temperatures of one adapter
    watched: int | None = None  # the comparison that counts; None counts all


TRAININGS = {
    "six comparisons of different policies": Situation([8] * 12, [(2 * k, 2 * k + 1) for k in range(6)]),
    "one policy against five others": Situation([8] * 6, [(0, k) for k in range(1, 6)]),
    "one pair of trainings, compared five times": Situation([8, 8], [(0, 1)] * 5, same=1.0),
    "three comparisons, the first four times as variable": Situation([24, 24, 6, 6, 6, 6], [(0, 1), (2, 3), (4, 5)], watched=0),
    "18 policies against one, the first 2.7 times as variable": Situation(
        [16.2] + [6] * 18, [(0, k) for k in range(1, 19)], watched=0
    ),
    "the same, a policy that varies little": Situation(
        [6] * 18 + [0.5, 0.5], [(0, k) for k in range(1, 18)] + [(18, 19)], watched=17
    ),
    "a single comparison": Situation([8, 8], [(0, 1)]),
}


def cover_seeds(situation: Situation, n_seeds: int, times: int, seed: int = 0, n_prompts: int = 100) -> dict[str, float]:
    """Shares of intervals that hold the true difference, 0: with each comparison's own seeds, and with a pooled variance."""
    rng, held, before = np.random.default_rng(seed), [], []
    counted = slice(None) if situation.watched is None else slice(situation.watched, situation.watched + 1)
    for _ in range(times):
        trained = rng.normal(size=(n_seeds, len(situation.spread))) * situation.spread
        by_prompt = (
            rng.normal(size=(len(situation.spread), n_prompts)) * 20
        )  # what a policy does to a prompt, whatever the seed
        over_prompts, of_seed = [], np.empty((n_seeds, len(situation.pairs)))
        for k, (a, b) in enumerate(situation.pairs):
            effect = trained[:, a] - trained[:, b] + situation.same * rng.normal(size=n_seeds)
            values = effect[:, None] + (by_prompt[a] - by_prompt[b]) + 30 * rng.normal(size=(n_seeds, n_prompts))
            over_prompts.append(values.mean(0))
            of_seed[:, k] = values.mean(1)
        means, errors = np.mean(over_prompts, 1), np.std(over_prompts, axis=1, ddof=1) / np.sqrt(n_prompts)
        reach = student.ppf(0.975, n_prompts - 1) * errors  # as `mean_ci`, whose bootstrap has no part in this
        estimates = pd.DataFrame({"mean": means, "low": means - reach, "high": means + reach})
        found = over_seeds(estimates, list(of_seed))
        held += list((found["low"].le(0) & found["high"].ge(0))[counted])
        pooled = student.ppf(0.975, len(means) * (n_seeds - 1)) * np.sqrt(of_seed.var(0, ddof=1).mean() / n_seeds)
        before += list((np.abs(means) <= np.hypot(pooled, reach))[counted])
    return {"held": np.mean(held), "pooled": np.mean(before)}


def write(path: Path, times: int) -> None:
    """All situations as a page of tables."""
    text = [
        PAGE.format(
            times=times, least=metrics.MIN_VALUES, error=(0.95 * 0.05 / times) ** 0.5, error2=(0.95 * 0.1 / times) ** 0.5
        )
    ]
    text += ["| values | n | with an interval | hold the truth | percentile bootstrap |", "|---|---|---|---|---|"]
    for name, (draw, truth) in SKEWED.items():
        for n in SIZES:
            found = cover_mean(draw, truth, n, times)
            text.append(
                f"| {name} | {n} | {_share(found['interval'])} | {_share(found['held'])} | {_share(found['percentile'])} |"
            )
            print(text[-1], flush=True)
    text += [
        "",
        "## Shares",
        "",
        "| wins among the decided | ties | n in each of two domains | hold the truth | percentile bootstrap |",
    ]
    text += ["|---|---|---|---|---|"]
    for p, ties, n in [(p, t, n) for p in (0.5, 0.8, 0.95) for t in (0.0, 0.3) for n in (20, 100)]:
        found = cover_share(p, ties, n, times)
        text.append(f"| {p:.0%} | {ties:.0%} | {n} | {_share(found['held'])} | {_share(found['percentile'])} |")
        print(text[-1], flush=True)
    text += [
        "",
        "## Trainings",
        "",
        "| comparisons | training seeds | own seeds, as reports do | variance pooled over comparisons |",
    ]
    text += ["|---|---|---|---|"]
    for name, situation in TRAININGS.items():
        for n_seeds in (3, 5):
            found = cover_seeds(situation, n_seeds, times // 2)
            text.append(f"| {name} | {n_seeds} | {_share(found['held'])} | {_share(found['pooled'])} |")
            print(text[-1], flush=True)
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


PAGE = """# How often the intervals hold the truth

Measured by `make coverage` (`tests/bench/coverage.py`). Nominal: 0.950. Each line of means and shares draws {times:,} samples,
each line of trainings half as many, so that a figure of 0.950 is known to {error:.3f} or {error2:.3f}, one standard error.
Intervals exist from {least} prompts in each domain on, and where not all values are equal.

## Means

The wider of a studentised bootstrap's interval and Student's t. Log-normal values are more skewed than any reward met here.
"""


if __name__ == "__main__":
    write(Path(__file__).parents[2] / "docs" / "coverage.md", int(sys.argv[1]) if sys.argv[1:] else 4000)
