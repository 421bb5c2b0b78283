"""Figures of one setting at a time: the mean under every value of a setting."""

import matplotlib.pyplot as plt
import pandas as pd

from ..common.escaping import label as plain
from .figures import panels

COLOUR, BASE = "#0072b2", "#d55e00"  # of a value, and of the base configuration's


def plot_settings_apart(means: pd.DataFrame, base: dict[str, str], label: str = "mean reward") -> list[plt.Axes]:
    """A panel for each setting (column source) with the mean and 95 % interval under each of its values (column method).

    `means`: the totals of `method_means`; `base`: the base value of each setting, drawn as a square with a line through it.
    """
    grid = panels(list(means["source"].unique()), 2.5, sharey=True)
    for setting, ax in grid:
        part = means[means["source"] == setting].reset_index(drop=True)
        for x, row in part.iterrows():
            own = row["method"] == base.get(setting)
            color = BASE if own else COLOUR
            ax.plot([x, x], [row["low"], row["high"]], color=color, lw=2.5, solid_capstyle="round")
            ax.plot(x, row["mean"], "s" if own else "o", color=color, ms=7)
            if own:
                ax.axhline(row["mean"], color=BASE, lw=1, ls=":", zorder=0)
        names = [plain(str(value)).replace("most similar ", "similar\n") for value in part["method"]]
        ax.set_xticks(range(len(part)), names, fontsize=9)
        ax.set_title(plain(str(setting)), fontsize=10.5)
        ax.set(ylabel=label if ax.get_subplotspec().is_first_col() else "")
        ax.margins(x=0.15)
        ax.grid(axis="x", visible=False)
    return [ax for _, ax in grid]
