"""The figure of a sweep: a point and an interval for each setting and method, and the same bytes each time."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from icdpo_nb.reports import figures_of_sweeps
from icdpo_nb.reports.figures_of_sweeps import drawn_settings, plot_settings

MEANS = pd.DataFrame(
    [(s, m, x, x - 0.5, x + 1.0) for m, x in (("Base", 1.0), ("ICDPO", 2.0)) for s in ("a", "b", "c")][:-1],
    columns=["setting", "method", "mean", "low", "high"],
)


def points(ax):
    return [(line.get_xdata().tolist(), line.get_ydata()[0]) for line in ax.lines]


def test_a_panel_for_each_method_and_a_row_for_each_setting():
    """The first setting on top, all panels of one scale; a method without a setting leaves its row empty."""
    figure = plot_settings(MEANS)
    base, icdpo = [ax for ax in figure.axes if ax.get_title() or ax.get_title("left")]
    assert [text.get_text() for text in base.get_yticklabels()] == ["c", "b", "a"]
    assert points(base) == [([0.5, 2.0], 2), ([1.0], 2), ([0.5, 2.0], 1), ([1.0], 1), ([0.5, 2.0], 0), ([1.0], 0)]
    assert points(icdpo) == [([1.5, 3.0], 2), ([2.0], 2), ([1.5, 3.0], 1), ([2.0], 1)]
    assert base.get_xlim() == icdpo.get_xlim() == pytest.approx((0.35, 3.15))
    plt.close(figure)


def test_means_without_intervals_and_too_many_settings(monkeypatch):
    monkeypatch.setattr(figures_of_sweeps, "MOST_ROWS", 2)
    figure = plot_settings(MEANS.assign(low=math.nan, high=math.nan))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["b", "a"]
    plt.close(figure)


def test_the_same_bytes():
    figures, style = plt.get_fignums(), dict(plt.rcParams)
    first, second = (drawn_settings(MEANS) for _ in range(2))
    assert first == second
    assert first.count("<svg") == 1
    assert plt.get_fignums() == figures
    assert dict(plt.rcParams) == style
