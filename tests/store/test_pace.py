"""Forecast times of passes from measured ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icdpo_nb.store.pace import Pace, Passes, lasting

SAMPLING = [
    Passes(300, 40, 300, 9000),
    Passes(1200, 64, 2500, 80_000),
    Passes(80, 60, 400, 7000),
    Passes(900, 96, 800, 200_000),
]
SCORING = [Passes(scored=100), Passes(scored=400)]


def linear(work: Passes, token: float, step: float, decoded: float, key: float, fixed: float = 0.0) -> float:
    if work.scored:
        return fixed + token * work.scored
    return token * work.context + step * work.steps + decoded * work.decoded + key * work.keys


@given(st.floats(1e-6, 1e-3), st.floats(0, 0.1), st.floats(0, 1e-2), st.floats(0, 1e-5), st.floats(0, 0.1), st.booleans())
def test_the_constants_of_exactly_linear_times_are_found(token, step, decoded, key, fixed, with_scoring):
    """With and without measured scoring."""
    calls = [*SAMPLING, *SCORING] if with_scoring else SAMPLING
    pace = Pace([(work, linear(work, token, step, decoded, key, fixed)) for work in calls])
    work = Passes(7000, 96, 40_000, 10**6)
    assert pace.seconds(work) == pytest.approx(linear(work, token, step, decoded, key), rel=1e-4)
    if with_scoring:
        assert pace.seconds(Passes(scored=5000)) == pytest.approx(fixed + token * 5000, rel=1e-6)


def test_scoring_has_a_fixed_part():
    pace = Pace([(Passes(scored=100), 0.3), (Passes(scored=400), 0.6)])  # 0.2 s and 1 ms a token
    assert pace.seconds(Passes(scored=1000)) == pytest.approx(1.2)
    assert pace.seconds(Passes()) == 0
    assert Pace([]).seconds(Passes(10, 10, 10, 10)) == 0


def test_a_context_token_takes_as_long_as_a_scored_one():
    """Small calls alone would give their time to the steps."""
    calls = [(Passes(scored=n), 1e-3 * n) for n in (100, 400)]
    calls += [(Passes(70, 60, 300, 9000), 0.07 + 0.6), (Passes(700, 60, 300, 90_000), 0.7 + 0.6)]
    assert Pace(calls).seconds(Passes(50_000, 60, 300, 9000)) == pytest.approx(50 + 0.6)


def test_a_constant_is_never_negative():
    pace = Pace([(Passes(0, 10, 10), 2.0), (Passes(0, 10, 100), 1.0)])  # the larger call was faster, by chance
    assert pace.seconds(Passes(0, 10, 1000)) >= 0


def test_chance_in_short_calls_moves_the_forecast_little():
    """Twenty calls of each kind, each measured up to a tenth too long or too short: a large call is forecast within a tenth."""
    rng = np.random.default_rng(0)
    true = {"token": 1e-4, "step": 0.01, "decoded": 2e-4, "key": 1e-6}
    calls = [Passes(int(n) * 200, 70, int(n) * 150, int(n) * 15_000) for n in rng.integers(1, 40, 20)]
    calls += [Passes(scored=int(n)) for n in rng.integers(200, 8000, 20)]
    pace = Pace([(work, linear(work, **true) * rng.uniform(0.9, 1.1)) for work in calls])
    large = Passes(400_000, 700, 300_000, 30_000_000)
    assert pace.seconds(large) == pytest.approx(linear(large, **true), rel=0.1)


def test_pieces_follow_each_other():
    assert lasting([5, 3, 4], 2) == 7  # 5 | 3 then 4
    assert lasting([5, 3, 4], 3) == 5
    assert lasting([5, 3, 4], 1) == 12
    assert lasting([2.5, 1.5], 2) == 2.5
