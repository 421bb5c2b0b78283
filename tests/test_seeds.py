"""Intervals over prompts and trainings: by hand, and by drawing trainings of which the truth is known."""

import numpy as np
import pandas as pd
import pytest

from icdpo_nb.metrics import mean_ci
from icdpo_nb.seeds import over_seeds, prompt_means, seed_claims, seed_estimates, seed_gains, seeds_sentence


def answers_of(values: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    """An answer a prompt, in one domain: by method and seed the wins."""
    rows = [
        ("", "", method, seed, "d", str(i), 0, win / 10, win)
        for (method, seed), wins in values.items()
        for i, win in enumerate(wins)
    ]
    columns = ["lm", "source", "method", "seed", "domain", "prompt_id", "candidate_id", "reward", "win"]
    return pd.DataFrame(rows, columns=columns)


def test_the_variance_between_seeds_is_one_for_all_rows():
    """Two rows whose seeds are 2 and 4 apart: variances 2 and 8, their mean 5, the mean of two seeds' error sqrt(5 / 2)."""
    means = pd.DataFrame({"mean": [10.0, 20.0], "low": [7.0, 20.0], "high": [14.0, 20.0]})
    found = over_seeds(means, [np.array([9.0, 18.0]), np.array([11.0, 22.0])])
    extra = 1.96 * np.sqrt(5 / 2)
    np.testing.assert_allclose(found["low"], [10 - np.hypot(3, extra), 20 - extra])
    np.testing.assert_allclose(found["high"], [10 + np.hypot(4, extra), 20 + extra])
    assert over_seeds(means, [np.array([9.0, 18.0])]) is means


def test_one_seed_is_the_interval_over_prompts():
    wins = [0, 50, 100, 100, 0, 100]
    found = seed_estimates(answers_of({("DPO", 0): wins})).iloc[0]
    expected = mean_ci([np.array(wins, float)])
    assert (found["mean"], found["low"], found["high"], found["n"]) == (expected.mean, expected.low, expected.high, 6)


def test_several_answers_and_seeds_of_a_prompt_are_one():
    answers = answers_of({("DPO", 0): [0, 100], ("DPO", 1): [100, 100]})
    more = pd.concat([answers, answers.assign(candidate_id=1, win=0)])
    assert list(prompt_means(more)["win"]) == [25.0, 50.0]
    assert list(prompt_means(more, "seed")["win"]) == [0.0, 50.0, 50.0, 50.0]


def test_gains_and_claims():
    """B wins 50 points more from either seed; A and C are level on average, and the seeds contradict each other."""
    a = {("A", s): [0, 50, 100, 50] for s in (0, 1)}
    b = {("B", s): [50, 100, 100, 150] for s in (0, 1)}
    c = {("C", 0): [0, 50, 100, 90], ("C", 1): [0, 50, 100, 10]}
    answers = answers_of(a | b | c)
    gains, of_seed = seed_gains(answers, [("B", "A"), ("C", "A")])
    assert list(gains["mean"]) == [50.0, 0.0]
    assert [list(values) for values in of_seed] == [[50.0, 10.0], [50.0, -10.0]]
    claims = seed_claims(gains, of_seed, ["+1.00", "+2.00"])
    assert list(claims["each seed"]) == ["50.0, 50.0", "10.0, -10.0"]
    assert list(claims["verdict"]) == ["supported", "inconclusive"]
    assert list(claims["paper"]) == ["+1.00", "+2.00"]
    said = "Between 2 training seeds a policy's win rates lie 6.7 percentage points apart on average, and 20.0 at most (C)."
    assert seeds_sentence(answers) == said
    assert seeds_sentence(answers[answers["seed"] == 0]).startswith("All policies have one training seed")


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_the_interval_holds_the_truth_as_often_as_it_says(n_seeds):
    """Twelve policies of true win rate 50, with effects of training and prompt; intervals over prompts alone hold it less."""
    rng, n_prompts, held, alone = np.random.default_rng(0), 40, [], []
    for _ in range(40):
        wins = {
            (f"P{k}", s): 50 + 8 * rng.normal() + prompt + 10 * rng.normal(size=n_prompts)
            for k in range(12)
            for prompt in [20 * rng.normal(size=n_prompts)]
            for s in range(n_seeds)
        }
        answers = answers_of(wins)
        found = seed_estimates(answers)
        held += list((found["low"] < 50) & (found["high"] > 50))
        one = seed_estimates(answers.assign(seed=0))
        alone += list((one["low"] < 50) & (one["high"] > 50))
    assert 0.91 < np.mean(held) < 0.98
    assert np.mean(alone) < 0.85
