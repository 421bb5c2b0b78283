"""Intervals over prompts and trainings, by hand; how often they cover: test_coverage.py."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from icdpo_nb.statistics.findings import AGREES, OPEN
from icdpo_nb.statistics.intervals import mean_ci
from icdpo_nb.statistics.seeds import LEAST_SEEDS, over_seeds, prompt_means, seed_estimates, seed_gains, seeds_sentence
from icdpo_nb.statistics.verdicts import Reported, claims, in_words

NONE = float("nan")


def answers_of(values: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    """An answer a prompt, in one domain: by method and seed the wins."""
    rows = [
        ("", "", method, seed, "d", str(i), 0, win / 10, win)
        for (method, seed), wins in values.items()
        for i, win in enumerate(wins)
    ]
    columns = ["lm", "source", "method", "seed", "domain", "prompt_id", "candidate_id", "reward", "win"]
    return pd.DataFrame(rows, columns=columns)


def test_each_row_has_the_variance_of_its_own_seeds():
    """Seeds 2 and 8 apart: standard errors 1 and 4, and a t of one degree of freedom; neither row lends to the other."""
    means = pd.DataFrame({"mean": [10.0, 20.0], "low": [7.0, 20.0], "high": [14.0, 20.0]})
    found = over_seeds(means, [np.array([9.0, 16.0]), np.array([11.0, 24.0])])
    t = 12.706205
    np.testing.assert_allclose(found["low"], [10 - np.hypot(3, t), 20 - 4 * t], rtol=1e-6)
    np.testing.assert_allclose(found["high"], [10 + np.hypot(4, t), 20 + 4 * t], rtol=1e-6)
    assert over_seeds(means, [np.array([9.0, 18.0])]) is means
    within = over_seeds(means, [np.array([9.0, 16.0]), np.array([11.0, 24.0])], bounds=(0, 100))
    assert (within["low"].min(), within["high"].max()) == (0, pytest.approx(20 + 4 * t))


def test_the_finding_of_the_audit():
    """One pair of adapters at three temperatures, two seeds: 7.25 from 10.25 and 4.25 was called real, and is not."""
    means = pd.DataFrame({"mean": [7.25] * 3, "low": [2.0] * 3, "high": [12.5] * 3})
    of_seed = [np.array([10.25, 7.4, 7.3]), np.array([4.25, 7.1, 7.2])]
    found = over_seeds(means, of_seed)
    assert found["low"][0] < -25
    assert found["p"][0] > 0.2


def test_p_belongs_to_the_interval():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mean, side = rng.normal() * 2, abs(rng.normal())
        of_seed = [np.array([mean + v]) for v in rng.normal(size=4)]
        of_seed = [v - np.mean(of_seed) + mean for v in of_seed]
        found = over_seeds(pd.DataFrame({"mean": [mean], "low": [mean - side], "high": [mean + side]}), of_seed).iloc[0]
        assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)
    seeds_alone = over_seeds(
        pd.DataFrame({"mean": [2.0], "low": [2.0], "high": [2.0]}), [np.array([v]) for v in (1.0, 2.0, 3.0)]
    )
    assert seeds_alone["p"][0] == pytest.approx(2 * student.sf(2 * math.sqrt(3), 2), rel=1e-2)


def test_one_seed_is_the_interval_over_prompts():
    wins = [0, 50, 100, 100, 0, 100] * 4
    found = seed_estimates(answers_of({("DPO", 0): wins}), bounds=(0, 100)).iloc[0]
    expected = mean_ci([np.array(wins, float)], bounds=(0, 100))
    assert (found["mean"], found["low"], found["high"], found["n"]) == (expected.mean, expected.low, expected.high, 24)


def test_several_answers_and_seeds_of_a_prompt_are_one():
    answers = answers_of({("DPO", 0): [0, 100], ("DPO", 1): [100, 100]})
    more = pd.concat([answers, answers.assign(candidate_id=1, win=0)])
    assert list(prompt_means(more)["win"]) == [25.0, 50.0]
    assert list(prompt_means(more, "seed")["win"]) == [0.0, 50.0, 50.0, 50.0]
    assert "win" not in prompt_means(more.drop(columns="win"))


@pytest.fixture
def answers() -> pd.DataFrame:
    """B wins more than A from every seed; C from one and not from the others."""
    rng, n = np.random.default_rng(1), 30
    values = {}
    for s in range(3):
        values["A", s] = list(rng.choice([0.0, 50, 100], n))
        values["B", s] = [v + 30 + rng.normal() + s for v in values["A", s]]
        values["C", s] = [v + 40 * (s - 1) + rng.normal() for v in values["A", s]]
    return answers_of(values)


def test_gains_and_claims(answers):
    gains = seed_gains(answers, [("B", "A"), ("C", "A")], margin=5)
    assert list(gains["mean"].round()) == [31, 0]
    assert [text.count(",") for text in gains["each seed"]] == [2, 2]
    assert gains["seeds"].tolist() == [3, 3]
    table = claims(gains, 5, in_words({("B", "A"): Reported({"7B": 4.0}), ("C", "A"): Reported({"7B": 1.0})}))
    assert list(table["verdict"]) == [AGREES, OPEN]
    assert {"each seed", "seeds"} <= set(table)
    spread, t = 40.0, student.ppf(0.975, np.arange(3, 2000) - 1)
    enough = np.flatnonzero(t * spread / np.sqrt(np.arange(3, 2000)) <= 5 / 1.4294)[0] + 3
    assert enough < table["decide"][1] < 1.1 * enough, "the prompts' own part leaves the seeds a little less"
    assert math.isnan(table["decide"][0])


def test_no_verdict_below_three_seeds(answers):
    two = answers[answers["seed"] < LEAST_SEEDS - 1]
    gains = seed_gains(two, [("B", "A")], margin=5)
    assert gains[["low", "high", "p"]].isna().all(axis=None)
    table = claims(gains, 5, in_words({("B", "A"): Reported({"7B": 4.0})}))
    assert (table["verdict"][0], table["decide"][0]) == (OPEN, LEAST_SEEDS)
    assert table["here"][0].endswith("[–]")


def test_other_values_than_wins(answers):
    assert seed_gains(answers, [("B", "A")], 0.5, value="reward")["mean"][0] == pytest.approx(3.1, abs=0.1)


def test_sentence(answers):
    said = seeds_sentence(answers)
    assert said.startswith("Between 3 training seeds, a policy's win rate varies by")
    assert said.endswith("(C).")
    assert seeds_sentence(answers[answers["seed"] == 0]).startswith("Each policy was trained from one seed")
