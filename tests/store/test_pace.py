"""Forecast times of passes from measured ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icdpo_nb.store.pace import DOUBT, Pace, Passes, steps_in_slots


@given(st.floats(0, 1e-3), st.floats(0, 0.1), st.floats(0, 1e-2))
def test_the_constants_of_exactly_linear_times_are_found(context, step, token):
    pace = Pace()
    calls = [Passes(300, 40, 300), Passes(1200, 64, 2500)]
    pace.fit_sampling(context, [(w, context * w.context + step * w.steps + token * w.decoded) for w in calls])
    work = Passes(7000, 96, 40_000)
    expected = context * work.context + step * work.steps + token * work.decoded
    assert pace.seconds(work) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_scoring_has_a_fixed_part():
    pace = Pace()
    pace.fit_scoring([(Passes(scored=100), 0.3), (Passes(scored=400), 0.6)])  # 0.2 s and 1 ms a token
    assert pace.seconds(Passes(scored=1000)) == pytest.approx(1.2)
    assert pace.seconds(Passes()) == 0


def test_a_constant_is_never_negative():
    pace = Pace()
    pace.fit_sampling(0.0, [(Passes(0, 10, 10), 2.0), (Passes(0, 10, 100), 1.0)])  # the larger call was faster, by chance
    assert pace.seconds(Passes(0, 10, 1000)) >= 0


def test_a_call_corrects_the_forecast_within_bounds():
    pace = Pace()
    pace.fit_scoring([(Passes(scored=100), 0.1), (Passes(scored=400), 0.4)])
    large, small = Passes(scored=10_000), Passes(scored=100)
    assert pace.forecast(large, small, 0.12) == pytest.approx(1.2 * 10)
    assert pace.forecast(large, small, 50.0) == pytest.approx(DOUBT * 10)


def test_rows_follow_each_other_in_the_slots():
    assert steps_in_slots([5, 3, 4], 2) == 7  # 5 | 3 then 4
    assert steps_in_slots([5, 3, 4], 3) == 5
    assert steps_in_slots([5, 3, 4], 1) == 12
