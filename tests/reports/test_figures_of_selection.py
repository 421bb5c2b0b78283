"""Figures of selection: what is drawn is what the tables say."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from icdpo_nb.reports.figures_of_selection import plot_best_of_n, plot_effects


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def effects() -> pd.DataFrame:
    rows = [(lm, source, m, v, v - 1, v + 1) for lm in "xy" for source in "ab" for m, v in (("S", 1.0), ("$Ŝ$", math.nan))]
    return pd.DataFrame(rows, columns=["lm", "source", "method", "mean", "low", "high"])


def test_effects_stand_in_a_panel_each():
    grid = plot_effects(effects(), "difference", margin=0.25, lines=(0, 1))
    assert grid.shape == (2, 2)
    ax = grid[0, 0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["$Ŝ$", "S"], "the first is on top"
    drawn = [list(line.get_xdata()) for line in ax.lines]
    assert drawn[-2:] == [[0.0, 2.0], [1.0]], "the interval and its mean; what is unknown is not drawn"
    assert [line[0] for line in drawn[:2]] == [0, 1]
    assert len(ax.patches) == 1, "the band of the margin"
    assert ax.get_title() == "x\na"


def test_one_panel_has_no_title():
    part = effects().query("lm == 'x' and source == 'a'")
    assert plot_effects(part, "x")[0, 0].get_title() == ""


def test_curves_are_ordered_by_n():
    rows = [
        (lm, "a", m, n, n * k, n * k - 1, n * k + 1) for lm in "xy" for m, k in (("S", 1.0), ("oracle", 2.0)) for n in (2, 1, 3)
    ]
    curves = pd.DataFrame(rows, columns=["lm", "source", "method", "n_candidates", "mean", "low", "high"])
    grid = plot_best_of_n(curves)
    assert grid.shape == (1, 2)
    lines = {line.get_label(): line for line in grid[0, 0].lines}
    assert lines["S"].get_xdata().tolist() == [1, 2, 3]
    assert lines["oracle"].get_ydata().tolist() == [2, 4, 6]
    assert lines["S"].get_marker() != lines["oracle"].get_marker(), "they differ without their colour"
