"""Means, intervals and verdicts, by hand and against the t-interval."""

import numpy as np
import pandas as pd
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icdpo_nb.metrics import Estimate, mean_ci, mean_cis, rank_correlation
from icdpo_nb.protocol import InputError
from icdpo_nb.tables import claims, claims_sentence, estimate, method_gains, method_means, per_prompt, show_claims


def test_interval_is_near_the_t_interval():
    x = np.random.default_rng(0).normal(1.0, 2.0, 300)
    found = mean_ci([x])
    low, high = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    assert found.mean == pytest.approx(x.mean())
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))
    assert found.n == 300


def test_coverage():
    """About 95 of 100 intervals hold the true mean (within chance: 88 to 100)."""
    rng = np.random.default_rng(1)
    held = sum(e.low <= 0 <= e.high for e in (mean_ci([rng.exponential(1, 60) - 1]) for _ in range(100)))
    assert 88 <= held <= 100


def test_macro_and_micro_totals():
    a, b = np.zeros(10), np.ones(30)
    assert mean_ci([a, b], "macro").mean == 0.5
    assert mean_ci([a, b], "micro").mean == 0.75
    assert mean_ci([a, b]).sign == 1


def test_resampling_keeps_the_domains_apart():
    """Two domains far apart, no spread within: the total has no uncertainty, while a pooled bootstrap would show some."""
    total = mean_ci([np.zeros(10), np.full(10, 100.0)])
    assert (total.low, total.high) == (50, 50)


def test_one_prompt_has_no_interval():
    found = mean_ci([np.array([2.0])])
    assert found.mean == 2
    assert np.isnan(found.low)
    assert found.sign == 0


def test_each_group_and_all_of_them():
    """From one bootstrap: what each group has alone, and the total, which knows no interval where one group has none."""
    rng = np.random.default_rng(0)
    a, b, one = rng.normal(size=50), rng.exponential(size=80), np.array([7.0])
    found = mean_cis([a, b], "micro")
    np.testing.assert_allclose(limits(found[0]), limits(mean_ci([a])), atol=0.02)
    np.testing.assert_allclose(limits(found[1]), limits(mean_ci([b])), atol=0.02)
    assert found[2] == mean_ci([a, b], "micro")
    assert [e.n for e in found] == [50, 80, 130]
    here, there, total = mean_cis([a, one])
    assert here.low < here.mean < here.high
    assert (there.mean, there.n, total.mean, total.n) == (7, 1, (a.mean() + 7) / 2, 51)
    assert np.isnan([there.low, there.high, total.low, total.high]).all()


def test_bad_values():
    for bad in ([], [np.array([])], [np.array([1.0, np.nan])], [np.array([-np.inf, 1.0])]):
        with pytest.raises(InputError, match="finite value"):
            mean_ci(bad)


def test_signs():
    assert [Estimate(0, *limits, 9).sign for limits in ((0.1, 1), (-1, 1), (-2, -0.1))] == [1, 0, -1]


VALUES = st.floats(-100, 100).map(lambda x: round(x, 3))
GROUPS = st.lists(st.lists(VALUES, min_size=2, max_size=6), min_size=1, max_size=3).map(lambda gs: [np.array(g) for g in gs])
TOTALS = st.sampled_from(["macro", "micro"])


def limits(found: Estimate) -> list[float]:
    return [found.mean, found.low, found.high]


@few(30)
@given(GROUPS, TOTALS)
def test_interval_holds_the_mean_within_the_data(groups, totals):
    found, tiny = mean_ci(groups, totals), 1e-9
    assert found.low - tiny <= found.mean <= found.high + tiny
    assert min(g.min() for g in groups) - tiny <= found.low
    assert found.high <= max(g.max() for g in groups) + tiny
    assert found.n == sum(map(len, groups))


@few(30)
@given(GROUPS, TOTALS, st.floats(-50, 50), st.floats(0.1, 10))
def test_interval_moves_and_grows_with_the_data(groups, totals, shift, scale):
    """The same resamples are drawn, so this is exact up to rounding."""
    here, there = mean_ci(groups, totals), mean_ci([scale * g + shift for g in groups], totals)
    np.testing.assert_allclose(limits(there), scale * np.array(limits(here)) + shift, atol=1e-6)


@few(30)
@given(GROUPS, TOTALS, st.randoms(use_true_random=False))
def test_mean_knows_no_order(groups, totals, random):
    """Neither of prompts nor of domains; the interval changes by the resampling alone, so it is compared at a wide margin."""
    turned = [np.array(random.sample(list(g), len(g))) for g in random.sample(groups, len(groups))]
    here, there = mean_ci(groups, totals), mean_ci(turned, totals)
    spread = max(np.ptp(g) for g in groups)
    np.testing.assert_allclose(there.mean, here.mean, atol=1e-9)
    np.testing.assert_allclose(limits(there), limits(here), atol=1e-9 + 0.2 * spread)


@few(30)
@given(st.integers(2, 5).flatmap(lambda n: st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1, max_size=3)))
def test_macro_is_micro_for_equal_sizes(groups):
    groups = [np.array(g) for g in groups]
    np.testing.assert_allclose(limits(mean_ci(groups, "macro")), limits(mean_ci(groups, "micro")), atol=1e-9)


@pytest.fixture
def rewards() -> pd.DataFrame:
    def table(shift):
        return pd.DataFrame({"domain": ["harmless"] * 20 + ["helpful"] * 20, "prompt_id": [f"p{i}" for i in range(40)],
                             "reward": np.arange(40) % 7 + shift})  # fmt: skip

    return per_prompt({"Base": table(0.0), "ICL": table(1.0), "ICDPO": table(1.0)})


def test_means_and_gains_by_hand(rewards):
    means = method_means(rewards)
    base = np.arange(40) % 7
    assert estimate(means, "helpful", method="ICL").mean == pytest.approx(base[20:].mean() + 1)
    assert estimate(means, method="Base").mean == pytest.approx((base[:20].mean() + base[20:].mean()) / 2)
    gains = method_gains(rewards, [("ICL", "Base"), ("ICDPO", "ICL")])
    gain = estimate(gains, better="ICL", worse="Base")
    assert (gain.mean, gain.low, gain.high, gain.n) == (1, 1, 1, 40), "paired: the spread between prompts cancels"


def test_verdicts(rewards):
    pairs = [("ICL", "Base"), ("ICDPO", "ICL")]
    table = claims(method_gains(rewards, pairs), pairs)
    assert table["verdict"].tolist() == ["supported", "inconclusive"]
    assert table.iloc[0]["paper (RM_test × 100)"] == "+54.6 to +87.7"
    assert claims(method_gains(rewards, pairs), pairs, "SyntheticGPT")["paper (RM_test × 100)"].tolist() == ["not reported"] * 2
    assert claims_sentence(table, 40) == "On 40 prompts: ICL > Base is supported; ICDPO > ICL is inconclusive."
    twice = pd.concat([table, table.assign(lm="another", verdict="not supported")])
    assert "each in 2 experiments: ICL > Base is supported in 1, not supported in 1" in claims_sentence(twice, 40)
    assert "no difference" in claims_sentence(table[1:], 40)


def test_claims_of_several_models_stand_side_by_side(rewards, monkeypatch):
    pairs = [("ICL", "Base"), ("ICDPO", "ICL")]
    table = claims(method_gains(rewards, pairs), pairs)
    shown = []
    monkeypatch.setattr("icdpo_nb.tables.show_table", lambda t, caption: shown.append((t, caption)))
    show_claims(table, "One.")
    show_claims(pd.concat([table, table.assign(lm="another", verdict="not supported")]), "Two.")
    assert list(shown[0][0]) == ["claim", "here [95 % interval]", "verdict", "paper (RM_test × 100)"]
    wide, caption = shown[1]
    assert wide["claim"].tolist() == ["ICL > Base", "ICDPO > ICL"]
    first, another = wide[table["lm"].iloc[0]], wide["another"]
    assert [text[-1] for text in first] == ["▲", "○"]
    assert [text[-1] for text in another] == ["▼", "▼"]
    assert "▼ not supported" in caption
    figure = claims(method_gains(rewards, pairs), pairs, figure=["clearly", "hardly"])
    assert figure["paper"].tolist() == ["clearly", "hardly"], "a figure without numbers"
    assert figure["verdict"].tolist() == table["verdict"].tolist()


def test_rank_correlation_is_that_of_scipy():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    x = rng.normal(size=60).round(1)  # with ties
    y = x + rng.normal(size=60)
    found = rank_correlation(x, y)
    assert found.mean == pytest.approx(spearmanr(x, y).statistic)
    assert 0 < found.low < found.mean < found.high < 1
    assert found.n == 60
    assert rank_correlation([1, 2, 3, 4], [10, 20, 25, 99]).mean == pytest.approx(1)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]).mean), "nothing to rank"
    assert np.isnan(rank_correlation([1, 2], [1, 2]).low), "no interval for two prompts"


def test_unknown_totals():
    with pytest.raises(InputError, match="totals is 'mean', but must be macro or micro"):
        mean_ci([np.arange(3)], totals="mean")


def test_many_claims_of_one_experiment_are_told_by_verdict():
    verdicts = ["supported", "inconclusive", "supported", "inconclusive"]
    table = pd.DataFrame({"claim": ["A > B", "C > D", "E > F", "G > H"], "lm": "m", "source": "s", "verdict": verdicts})
    assert claims_sentence(table, 9) == "On 9 prompts, supported: A > B, E > F; inconclusive: C > D, G > H."
    assert claims_sentence(table[:2], 9) == "On 9 prompts: A > B is supported; C > D is inconclusive."
