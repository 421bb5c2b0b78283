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


def test_the_variance_between_seeds_is_one_for_a_group():
    """Two rows whose seeds are 2 and 4 apart: variances 2 and 8, mean 5 with two degrees of freedom; a third alone."""
    means = pd.DataFrame({"mean": [10.0, 20.0, 5.0], "low": [7.0, 20.0, 5.0], "high": [14.0, 20.0, 5.0]})
    found = over_seeds(means, [np.array([9.0, 18.0, 4.5]), np.array([11.0, 22.0, 5.5])], ["a", "a", "b"])
    extra, alone = 4.302653 * np.sqrt(5 / 2), 12.706205 * np.sqrt(0.5 / 2)  # Student's t of 2 and 1 degrees of freedom
    np.testing.assert_allclose(found["low"], [10 - np.hypot(3, extra), 20 - extra, 5 - alone], rtol=1e-6)
    np.testing.assert_allclose(found["high"], [10 + np.hypot(4, extra), 20 + extra, 5 + alone], rtol=1e-6)
    together = over_seeds(means[:2], [np.array([9.0, 18.0]), np.array([11.0, 22.0])])
    assert list(together["low"]) == pytest.approx(list(found["low"][:2]))
    assert over_seeds(means, [np.array([9.0, 18.0, 4.5])]) is means


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
    """B wins 50 points more from either seed, with small differences of settings; the seeds of C and D contradict."""
    settings = [("B", 150, 150), ("B, β = 0.5", 146, 150), ("B, β = 0.8", 150, 146)]
    values = {("A", s): [0, 50, 100, 50] for s in (0, 1)}
    values |= {(name, s): [50, 100, 100, last[s]] for name, *last in settings for s in (0, 1)}
    values |= {
        (name, s): [0, 50, 100, 50 + sign * size] for name, size in (("C", 40), ("D", 80)) for s, sign in ((0, 1), (1, -1))
    }
    answers = answers_of(values)
    gains, of_seed = seed_gains(answers, [*((name, "A") for name, *_ in settings), ("C", "A"), ("D", "A")])
    assert list(gains["mean"]) == [50.0, 49.5, 49.5, 0.0, 0.0]
    assert [list(found) for found in of_seed] == [[50, 49, 50, 10, 20], [50, 50, 49, -10, -20]]
    over_prompts = seed_gains(answers.assign(seed=0), [("B", "A"), ("C", "A")])[0]["low"]
    of_b = 3.182446 * np.sqrt((0 + 0.5 + 0.5) / 3 / 2)  # three comparisons of B with A
    of_few = 4.302653 * np.sqrt((200 + 800) / 2 / 2)  # C with A and D with A together
    assert gains["low"][0] == pytest.approx(50 - np.hypot(50 - over_prompts[0], of_b), rel=1e-6)
    assert gains["low"][3] == pytest.approx(-np.hypot(over_prompts[1], of_few), rel=1e-6)
    claims = seed_claims(gains, of_seed, ["+1.00"] * 5)
    assert list(claims["each seed"])[:2] == ["50.0, 50.0", "49.0, 50.0"]
    assert list(claims["verdict"]) == ["supported"] * 3 + ["inconclusive"] * 2
    assert set(claims["paper"]) == {"+1.00"}
    said = "Between 2 training seeds a policy's win rates lie 10.3 percentage points apart on average, and 40.0 at most (D)."
    assert seeds_sentence(answers) == said
    assert seeds_sentence(answers[answers["seed"] == 0]).startswith("All policies have one training seed")


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Twelve policies of true win rate 50, with effects of training and prompt; intervals over prompts alone hold it less."""
    rng, n_prompts, held, alone = np.random.default_rng(0), 40, [], []
    for _ in range(20):
        wins = {
            (f"P{k}", s): 50 + 8 * rng.normal() + prompt + 10 * rng.normal(size=n_prompts)
            for k in range(12)
            for prompt in [20 * rng.normal(size=n_prompts)]
            for s in range(2)
        }
        answers = answers_of(wins)
        found = seed_estimates(answers)
        held += list((found["low"] < 50) & (found["high"] > 50))
        one = seed_estimates(answers.assign(seed=0))
        alone += list((one["low"] < 50) & (one["high"] > 50))
    assert 0.91 < np.mean(held) < 0.98
    assert np.mean(alone) < 0.85
