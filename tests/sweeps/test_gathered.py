"""What runs find together: worked out by hand, and held against the statistics of training seeds."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from sweeping import leave_report, saved, small_notebooks

from icdpo_nb.statistics.seeds import over_seeds
from icdpo_nb.sweeps.gathered import claims_of, done_records, means_of, together, verdict_counts
from icdpo_nb.sweeps.plan import Outcome, read_sweep


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_notebooks(tmp_path, monkeypatch, light=True)


def claim(mean, verdict="agrees", finding="higher", **more):
    row = {"claim": "ICDPO > ICL", "lm": "m", "source": "raw", "mean": mean, "low": mean - 0.2, "high": mean + 0.4, "n": 40}
    return {**row, "p": 0.01, "same": 0.0, "finding": finding, "verdict": verdict, **more}


def records(small, tmp_path, text, headlines):
    """The records of the runs of a sweep whose headlines are given; a run without one failed."""
    found = read_sweep(saved(tmp_path, text), small)
    for job, headline in zip(found.jobs, headlines, strict=True):
        if headline is not None:
            leave_report(job, **headline)
    outcomes = [Outcome(job, 0 if h is not None else 3) for job, h in zip(found.jobs, headlines, strict=True)]
    return done_records(found, outcomes)


def test_each_run_keeps_its_setting(small, tmp_path):
    headlines = [{"margin": 0.25, "claims": [claim(1.0)]}, {"margin": 0.25, "claims": [claim(2.0, "contradicts")]}, None]
    found = claims_of(records(small, tmp_path, "notebooks: 05_small\ngrid: {size: [1, 2, 4]}\n", headlines))
    assert found[["size", "mean", "verdict", "margin"]].to_dict("list") == {
        "size": [1, 2], "mean": [1.0, 2.0], "verdict": ["agrees", "contradicts"], "margin": [0.25, 0.25],
    }  # fmt: skip


def test_headlines_in_parts_and_strange_ones(small, tmp_path):
    """Claims of several readings are kept apart; what is no estimate is left out, and never an error."""
    strange = [None, "x", {"claim": "a"}, claim(math.nan), {**claim(1.0), "mean": "1"}]
    strange += [{**claim(1.0), "mean": None}, {**claim(1.0), "verdict": None}]
    parts = {"mrr": [claim(0.1)], "other": [claim(0.2, "cannot tell"), *strange[2:]], "none": 3}
    both = records(small, tmp_path, "notebooks: 05_small\nseeds: [0, 1]\n", [{"claims": parts}, {"claims": "no", "means": 3}])
    found = claims_of(both)
    assert found[["part", "mean", "seed"]].to_dict("list") == {"part": ["mrr", "other"], "mean": [0.1, 0.2], "seed": [0, 0]}
    assert found["margin"].isna().all()
    assert means_of(both).empty
    assert together(means_of(both), "method").empty


def seeds_of(small, tmp_path, values, **more):
    text = f"notebooks: 05_small\nseeds: {[*range(len(values))]}\n"
    headlines = [{"margin": 0.25, "claims": [claim(v, **more)], "means": [{**claim(v), "method": "ICL"}]} for v in values]
    return records(small, tmp_path, text, headlines)


def test_seeds_widen_the_interval_as_between_training_seeds(small, tmp_path):
    """By hand, and by `statistics.seeds`: here the seeds' own intervals are equally wide."""
    values = [1.0, 1.3, 0.8, 1.1]
    one = together(means_of(seeds_of(small, tmp_path, values)), "method").iloc[0]
    mean, between = np.mean(values), student.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    expected = (mean, mean - math.hypot(0.2, between), mean + math.hypot(0.4, between))
    assert (one["mean"], one["low"], one["high"]) == pytest.approx(expected)
    assert (one["n"], one["seeds"]) == (40, 4)
    prompts = pd.DataFrame([{"mean": mean, "low": mean - 0.2, "high": mean + 0.4, "n": 40, "p": 0.01}])
    theirs = over_seeds(prompts, [np.array([v]) for v in values]).iloc[0]
    assert (one["low"], one["high"]) == pytest.approx((theirs["low"], theirs["high"]))


def test_the_finding_is_that_of_all_seeds_together(small, tmp_path):
    """Each seed says higher by itself; together they vary too much, and two seeds say nothing at all."""
    for values, finding in (([1.0, 1.1, 0.9], "higher"), ([0.3, 3.0, 0.3], "cannot tell"), ([1.0, 1.1], "cannot tell")):
        one = together(claims_of(seeds_of(small, tmp_path, values)), "claim").iloc[0]
        assert one["finding"] == finding, values
        assert math.isnan(one["low"]) == (len(values) == 2)
    small_ones = {"low": -0.1, "high": 0.1}
    one = together(claims_of(seeds_of(small, tmp_path, [0.0, 0.01, -0.01], **small_ones)), "claim").iloc[0]
    assert one["finding"] == "too small to matter", "within the margin of 0.25"


def test_one_seed_is_left_as_it_is(small, tmp_path):
    text, headline = (
        "notebooks: 05_small\n",
        {"margin": 0.25, "claims": [claim(1.0), claim(-1.0, lm="other", low=-1.2, high=-0.6)]},
    )
    both = together(claims_of(records(small, tmp_path, text, [headline])), "claim")
    assert both[["lm", "mean", "low", "high", "seeds"]].to_numpy().tolist() == [
        ["m", 1.0, 0.8, 1.4, 1],
        ["other", -1.0, -1.2, -0.6, 1],
    ]
    assert [*both["finding"]] == ["higher", "lower"]
    assert [*both["holm"]] == [0.02, 0.02], "p of 0.01 among two comparisons"


def test_verdicts_are_counted_over_everything(small, tmp_path):
    rows = [claim(1.0), claim(1.0, lm="other"), claim(1.0, "contradicts", source="teacher-a")]
    headlines = [{"claims": rows}, {"claims": [*rows[:1], {**claim(0.0, "cannot tell"), "claim": "B > A"}]}]
    counts = verdict_counts(claims_of(records(small, tmp_path, "notebooks: 05_small\ngrid: {size: [1, 2]}\n", headlines)))
    assert counts.to_dict("list") == {
        "claim": ["ICDPO > ICL", "B > A"], "agrees": [3, 0], "contradicts": [1, 0], "cannot tell": [0, 1],
    }  # fmt: skip


def test_what_is_kept_can_be_read_by_others(small, tmp_path):
    found = claims_of(seeds_of(small, tmp_path, [1.0]))
    assert json.loads(found.to_json(orient="records"))[0]["claim"] == "ICDPO > ICL"
