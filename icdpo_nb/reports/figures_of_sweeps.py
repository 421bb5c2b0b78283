"""The figure of a sweep: every method over the settings of a grid."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..common.escaping import label as plain
from .figures import colour, panels, plot_interval, set_style

MOST_ROWS = 60  # settings in a figure; more could not be read


def plot_settings(means: pd.DataFrame, value: str = "mean") -> plt.Figure:
    """A panel for each method, all of one scale, in it a row for each setting with its mean and 95 % interval.

    `means`: columns setting, method, mean, low, high; of more than `MOST_ROWS` settings the first are drawn.
    """
    settings = list(means["setting"].unique())[:MOST_ROWS]
    methods = list(means["method"].unique())
    rows = {setting: y for y, setting in enumerate(reversed(settings))}
    ends = means[["mean", "low", "high"]].to_numpy(float)
    pad = 0.06 * (np.nanmax(ends) - np.nanmin(ends) or 1)
    drawn = panels(methods, 0.26 * len(settings) + 1.0, sharey=True)
    for method, ax in drawn:
        for row in means[(means["method"] == method) & means["setting"].isin(settings)].to_dict("records"):
            plot_interval(ax, rows[row["setting"]], row, colour(str(method)))
        ax.set(yticks=range(len(settings)), ylim=(-0.6, len(settings) - 0.4), xlabel=value)
        ax.set(xlim=(np.nanmin(ends) - pad, np.nanmax(ends) + pad))
        ax.set_yticklabels([plain(setting, 48) for setting in rows], fontsize=9)
        ax.set_title(plain(str(method)), fontsize=10.5)
        ax.grid(axis="y", visible=False)
    return drawn[0][1].figure


def as_svg(figure: plt.Figure) -> str:
    """A figure as SVG, the same bytes for the same figure, and closed."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


def drawn_settings(means: pd.DataFrame, value: str = "mean") -> str:
    """`plot_settings` in the house style, as SVG; the style of other figures stays as it is."""
    with plt.rc_context():
        set_style()
        return as_svg(plot_settings(means, value))
