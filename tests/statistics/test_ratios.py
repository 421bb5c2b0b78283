"""Ratios of paired means: against Fieller's formula, at its edges, and how often the interval holds the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from icdpo_nb.statistics import intervals
from icdpo_nb.statistics.ratios import ratio_ci


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 499)
    intervals._counts.cache_clear()
    yield
    intervals._counts.cache_clear()


def fieller(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The textbook's interval: the roots of (ā - ρ b̄)² = t² Var(ā - ρ b̄)."""
    n = len(a)
    t2, (va, vb, cab) = stats.t.ppf(0.975, n - 1) ** 2, (v / n for v in (a.var(ddof=1), b.var(ddof=1), np.cov(a, b)[0, 1]))
    roots = np.roots([b.mean() ** 2 - t2 * vb, 2 * (t2 * cab - a.mean() * b.mean()), a.mean() ** 2 - t2 * va])
    return tuple(sorted(roots.real))


def test_it_is_fiellers_where_values_are_normal():
    rng = np.random.default_rng(1)
    b = rng.normal(2, 1, 400)
    a = 0.4 * b + rng.normal(0, 1, 400)
    found, (low, high) = ratio_ci([a], [b]), fieller(a, b)
    assert found.mean == pytest.approx(a.mean() / b.mean())
    assert found.low <= low + 1e-3, "never narrower: it is the wider of two"
    assert found.high >= high - 1e-3
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=0.012)
    turned = ratio_ci([-a], [-b])
    np.testing.assert_allclose([turned.low, turned.high], [found.low, found.high], atol=1e-3)


def test_means_over_domains():
    a, b = [np.arange(30.0), np.arange(60.0) % 7], [np.arange(30.0) + 5, np.arange(60.0) % 5 + 3]
    macro = (a[0].mean() + a[1].mean()) / (b[0].mean() + b[1].mean())
    assert ratio_ci(a, b).mean == pytest.approx(macro)
    assert ratio_ci(a, b, "micro").mean == pytest.approx(np.concatenate(a).mean() / np.concatenate(b).mean())


def test_no_interval_where_there_cannot_be_one():
    rng = np.random.default_rng(2)
    b = rng.exponential(size=40)
    for a, denominator, mean in (
        (b[:10], b[:10] + 1, None),  # too few
        (b, rng.normal(0, 9, 40), None),  # a denominator that may be 0: all ratios are possible
        (b, b, 1.0),  # the same values
        (0 * b, b, 0.0),
    ):
        found = ratio_ci([a], [denominator])
        assert np.isnan([found.low, found.high]).all()
        assert mean is None or found.mean == pytest.approx(mean)
    assert math.isnan(ratio_ci([b], [0 * b]).mean)


def test_it_holds_the_truth(few_resamples):
    """Gains like those of selection: a part of a skewed headroom, often 0, sometimes lost."""
    rng, held, times, n = np.random.default_rng(3), 0, 100, 30
    for k in range(times):
        room = rng.exponential(size=n) * (rng.random(n) < 0.7)
        gain = room * rng.choice([1.0, 0.4, -0.5], n, p=[0.5, 0.2, 0.3])
        found = ratio_ci([gain], [room], seed=k % 5)
        held += found.low <= 0.5 + 0.2 * 0.4 - 0.3 * 0.5 <= found.high
    assert held / times >= 0.93 - 2 * 0.0255
