"""Means and intervals: by hand, against scipy, and by their properties. How often they cover: test_coverage.py."""

import numpy as np
import pandas as pd
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icdpo_nb.common.errors import InputError
from icdpo_nb.statistics.estimates import estimate, method_gains, method_means, per_prompt
from icdpo_nb.statistics.intervals import MIN_VALUES, Estimate, holm, mean_ci, mean_cis, rank_correlation, share_limits


def limits(found: Estimate) -> list[float]:
    return [found.mean, found.low, found.high]


def test_interval_of_symmetric_values_is_that_of_student():
    x = np.random.default_rng(0).normal(1.0, 2.0, 300)
    found = mean_ci([x])
    np.testing.assert_allclose(limits(found)[1:], stats.t.interval(0.95, 299, x.mean(), stats.sem(x)), atol=0.03)
    assert found.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=1e-3)
    assert (found.mean, found.n) == (pytest.approx(x.mean()), 300)


def test_interval_is_never_narrower_than_students_and_reaches_further_on_the_side_of_the_tail():
    x = np.random.default_rng(1).exponential(size=25)
    low, high = stats.t.interval(0.95, 24, x.mean(), stats.sem(x))
    found = mean_ci([x])
    assert found.low == pytest.approx(low)
    assert found.high > high + 0.05


def test_several_domains_have_welchs_degrees_of_freedom():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=20), rng.normal(size=60) * 5
    found = mean_ci([a, -b])  # half the difference of a and b
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert found.low <= theirs.low / 2 + 1e-9
    assert found.high >= theirs.high / 2 - 1e-9
    np.testing.assert_allclose([found.low, found.high], np.array(theirs) / 2, atol=0.06)


@pytest.mark.slow
def test_the_studentised_bootstrap_is_that_of_resampling_one_by_one():
    """The quantiles of (m* - m) / se*, from resamples that are drawn and measured in a loop."""
    x, rng = np.random.default_rng(3).exponential(size=30), np.random.default_rng(4)
    ratios = [(y.mean() - x.mean()) / stats.sem(y) for y in rng.choice(x, (20000, 30))]
    upper = x.mean() - np.quantile(ratios, 0.025) * stats.sem(x)
    assert mean_ci([x]).high == pytest.approx(upper, abs=0.03)


def test_p_belongs_to_the_interval():
    rng = np.random.default_rng(5)
    for _ in range(60):
        found = mean_ci([rng.exponential(size=20) - 0.6, rng.normal(size=30)])
        assert (found.p < 0.05) == (found.sign != 0) or abs(found.p - 0.05) < 1e-3


def test_macro_and_micro_totals():
    a, b = np.zeros(10), np.ones(30)
    assert mean_ci([a, b], "macro").mean == 0.5
    assert mean_ci([a, b], "micro").mean == 0.75


def test_no_interval_where_none_would_cover():
    """Few values, or values that are all equal; the mean stands all the same."""
    rng = np.random.default_rng(6)
    for values in (rng.normal(size=MIN_VALUES - 1), np.full(50, 2.0)):
        found = mean_ci([values])
        assert found.mean == pytest.approx(values.mean())
        assert np.isnan([found.low, found.high, found.p]).all()
        assert found.sign == 0
        assert str(found).endswith("[–]")
    assert not np.isnan(mean_ci([rng.normal(size=MIN_VALUES)]).low)
    assert not np.isnan(mean_ci([rng.normal(size=20), np.zeros(20)]).low), "one domain varies"


def test_a_single_other_value_is_no_catastrophe():
    """Most resamples of 99 zeros and a 2 hold zeros alone, and have no ratio: Student's t stands."""
    x = np.append(np.zeros(99), 2.0)
    np.testing.assert_allclose(limits(mean_ci([x]))[1:], stats.t.interval(0.95, 99, 0.02, stats.sem(x)), rtol=1e-6)
    assert mean_ci([x, np.zeros(50)]).high < 0.06


def test_each_group_and_all_of_them():
    """What each group has alone, and the total, which has no interval where one group has none."""
    rng = np.random.default_rng(0)
    a, b, one = rng.normal(size=50), rng.exponential(size=80), np.array([7.0])
    found = mean_cis([a, b], "micro")
    assert found[0] == mean_ci([a])
    np.testing.assert_allclose(limits(found[1]), limits(mean_ci([b])), atol=0.02)
    assert found[2] == mean_ci([a, b], "micro")
    assert [e.n for e in found] == [50, 80, 130]
    here, there, total = mean_cis([a, one])
    assert here.low < here.mean < here.high
    assert (there.mean, there.n, total.mean, total.n) == (7, 1, (a.mean() + 7) / 2, 51)
    assert np.isnan([there.low, there.high, total.low, total.high]).all()


def test_shares_are_exact():
    """Twenty wins of twenty, and any other count, against scipy's exact interval; never outside 0 and 1."""
    for k, n in ((20, 20), (0, 20), (13, 40), (1, 100)):
        values = np.repeat([1.0, 0.0], [k, n - k])
        theirs = stats.binomtest(k, n).proportion_ci()
        assert share_limits(k, n) == pytest.approx(tuple(theirs))
        np.testing.assert_allclose(limits(mean_ci([values], bounds=(0, 1)))[1:], theirs)
        np.testing.assert_allclose(limits(mean_ci([100 * values], bounds=(0, 100)))[1:], 100 * np.array(theirs))
    sure = mean_ci([np.ones(20), np.ones(20)], bounds=(0, 1))
    assert (sure.mean, sure.high) == (1, 1)
    assert 0.87 < sure.low < 0.89, "0.83 for each domain, and errors that add as squares"
    with pytest.raises(InputError, match="outside its bounds"):
        mean_ci([np.array([0.5, 1.2])], bounds=(0, 1))


def test_holm_by_hand():
    """0.01 * 4, then 0.02 * 3, then 0.04 * 2 and 0.03 * ... never falling; what has no p is no member of the family."""
    np.testing.assert_allclose(holm([0.04, 0.01, np.nan, 0.02, 0.6]), [0.08, 0.04, np.nan, 0.06, 0.6])
    np.testing.assert_allclose(holm([0.5, 0.5]), [1, 1])
    assert len(holm([])) == 0


def test_bad_values():
    for bad in ([], [np.array([])], [np.array([1.0, np.nan])], [np.array([-np.inf, 1.0])]):
        with pytest.raises(InputError, match="finite value"):
            mean_ci(bad)
    with pytest.raises(InputError, match="totals is 'mean', but must be macro or micro"):
        mean_ci([np.arange(3)], totals="mean")


def test_signs():
    assert [Estimate(0, *limits, 9).sign for limits in ((0.1, 1), (-1, 1), (-2, -0.1))] == [1, 0, -1]


VALUES = st.floats(-100, 100).map(lambda x: round(x, 3))
GROUPS = st.lists(st.lists(VALUES, min_size=MIN_VALUES, max_size=20), min_size=1, max_size=3).map(
    lambda gs: [np.array(g) for g in gs]
)
TOTALS = st.sampled_from(["macro", "micro"])


@few(20)
@given(GROUPS, TOTALS)
def test_interval_holds_the_mean(groups, totals):
    found = mean_ci(groups, totals)
    assert np.isnan(found.low) or found.low <= found.mean <= found.high
    assert np.isnan(found.low) == all(np.ptp(g) == 0 for g in groups)
    assert found.n == sum(map(len, groups))


@few(20)
@given(GROUPS, TOTALS, st.floats(-50, 50), st.floats(0.1, 10))
def test_interval_moves_and_grows_with_the_data(groups, totals, shift, scale):
    """The same resamples are drawn, so this holds up to rounding, where no resample is all but constant."""
    here, there = mean_ci(groups, totals), mean_ci([scale * g + shift for g in groups], totals)
    if np.isnan(here.low) or np.isnan(there.low):
        return
    width = scale * (here.high - here.low)
    np.testing.assert_allclose(limits(there), scale * np.array(limits(here)) + shift, atol=1e-3 * width + 1e-6)


@few(20)
@given(st.lists(st.lists(VALUES, min_size=MIN_VALUES, max_size=MIN_VALUES), min_size=1, max_size=3))
def test_macro_is_micro_for_equal_sizes(groups):
    groups = [np.array(g) for g in groups]
    np.testing.assert_allclose(limits(mean_ci(groups, "macro")), limits(mean_ci(groups, "micro")), atol=1e-9)


def test_means_and_gains_by_hand():
    def table(shift):
        return pd.DataFrame({"domain": ["harmless"] * 20 + ["helpful"] * 20, "prompt_id": [f"p{i}" for i in range(40)],
                             "reward": np.arange(40) % 7 + shift})  # fmt: skip

    rewards = per_prompt(
        {"Base": table(0.0), "ICL": table(1 + np.arange(40) % 2 / 2), "ICDPO": table(1 + np.arange(40) % 2 / 2)}
    )
    means = method_means(rewards)
    base = np.arange(40) % 7
    assert estimate(means, "helpful", method="ICL").mean == pytest.approx(base[20:].mean() + 1.25)
    assert estimate(means, method="Base").mean == pytest.approx((base[:20].mean() + base[20:].mean()) / 2)
    gains = method_gains(rewards, [("ICL", "Base"), ("ICDPO", "ICL")])
    gain = estimate(gains, method="ICL", baseline="Base")
    assert (gain.mean, gain.n) == (1.25, 40)
    assert 1.1 < gain.low < 1.25 < gain.high < 1.4, "paired: the spread between prompts cancels"
    assert gains["same"].tolist() == [0.0] * 3 + [1.0] * 3


def test_rank_correlation_is_that_of_scipy():
    rng = np.random.default_rng(3)
    x = rng.normal(size=60).round(1)  # with ties
    y = x + rng.normal(size=60)
    found = rank_correlation(x, y)
    assert found.mean == pytest.approx(stats.spearmanr(x, y).statistic)
    assert 0 < found.low < found.mean < found.high < 1
    assert found.n == 60
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]).mean), "nothing to rank"
    assert np.isnan(rank_correlation([1, 2, 3, 4], [10, 20, 99, 25]).low), "no interval for four prompts"


def test_the_interval_of_a_rank_correlation_holds_the_truth():
    """Normal values of correlation 0.5, whose Spearman correlation is 6 / π arcsin(0.5 / 2); 40 prompts each time."""
    rng, truth = np.random.default_rng(7), 6 / np.pi * np.arcsin(0.25)
    found = []
    for _ in range(300):
        x, z = rng.normal(size=(2, 40))
        found.append(rank_correlation(x, 0.5 * x + np.sqrt(0.75) * z))
    assert np.mean([e.low <= truth <= e.high for e in found]) > 0.92
