"""The intervals hold the truth as often as they say: the situations of the coverage bench, drawn less often."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
SPEC = importlib.util.spec_from_file_location("coverage_bench", Path(__file__).parents[1] / "bench" / "coverage.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)
TIMES = 400  # a share of 0.93 is then known to 0.013, one standard error
ENOUGH = 0.93 - 2 * 0.0128  # 93 %, less two standard errors of so many draws


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(bench.metrics, "RESAMPLES", 999)
    bench.metrics._counts.cache_clear()
    yield
    bench.metrics._counts.cache_clear()


@pytest.mark.parametrize("n", [2, 5, 19])
def test_no_interval_from_a_handful(n):
    assert all(bench.cover_mean(draw, truth, n, 20)["interval"] == 0 for draw, truth in bench.SKEWED.values())


@pytest.mark.parametrize("n", [20, 40, 400])
@pytest.mark.parametrize("name", [name for name in bench.SKEWED if "log" not in name])
def test_means_of_skewed_and_tied_values(name, n):
    found = bench.cover_mean(*bench.SKEWED[name], n, TIMES)
    assert found["held"] >= ENOUGH
    assert found["interval"] > 0.75, "an interval is refused only where all values are equal"


def test_the_percentile_bootstrap_does_not():
    """What reports used before calls 54 % of null differences of two prompts real, and 7 % of twenty."""
    normal = bench.SKEWED["normal"]
    assert bench.cover_mean(*normal, 2, TIMES)["percentile"] < 0.6
    assert bench.cover_mean(*bench.SKEWED["like rewards: 0 or one of five"], 15, TIMES)["percentile"] < 0.92


@pytest.mark.parametrize("ties", [0.0, 0.3])
@pytest.mark.parametrize("p", [0.5, 0.95])
def test_shares(p, ties):
    assert bench.cover_share(p, ties, 20, TIMES)["held"] >= ENOUGH


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("name", bench.TRAININGS)
def test_policies_trained_from_a_few_seeds(name, n_seeds):
    """Shared policies, unequal variances and few rows; not only independent rows of equal variance."""
    assert bench.cover_seeds(bench.TRAININGS[name], n_seeds, 300, n_prompts=30)["held"] >= 0.93 - 2 * 0.0147


def test_a_pooled_variance_does_not():
    held = [bench.cover_seeds(bench.TRAININGS[name], 3, 200)["pooled"] for name in bench.TRAININGS if "four times" in name]
    assert np.max(held) < 0.88
