"""Figures of selection: shares of headroom, best-of-n curves, and effects with the margin that matters."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..common.escaping import label as plain
from .figures import PALETTE, colour, panels, plot_interval

RULES = {  # rule of `headroom` -> colour; a score and its mean per token share theirs
    "random": PALETTE["Base"],
    "first": PALETTE["Base"],
    "π* alone": PALETTE["ICL"],
    **dict.fromkeys(("S", "S per token"), PALETTE["ICDPO"]),
    **dict.fromkeys(("Ŝ", "Ŝ per token"), PALETTE["ICDPO + Ŝ"]),
    "teacher": PALETTE["teacher LM"],
    "reward model": PALETTE["reward model"],
    "oracle": "#000000",
    "worst": "#882255",
}
MARKERS = {"random": "s", "S": "o", "Ŝ": "^", "oracle": "D", "π* alone": "v"}  # curves differ without their colour too
COLOUR, BASE = PALETTE["ICDPO"], PALETTE["ICDPO + ŜR"]  # of a value, and of the base configuration


def plot_effects(
    effects: pd.DataFrame, xlabel: str, margin: float = math.nan, lines: Sequence[float] = (0.0,), columns: str = "lm"
) -> np.ndarray:
    """Estimates with their 95 % intervals, a line for each method: panel columns by `columns`, a panel row for each source.

    `effects`: tidy estimates with columns lm, source, method, mean, low, high; NaN means are left out. The band marks ± the
    margin, vertical lines stand at `lines`. Returns the Axes, shape (sources, columns).
    """
    across, sources = effects[columns].unique(), effects["source"].unique()
    methods = effects["method"].unique()[::-1]
    size = (2.7 * len(across) + 1.6, (0.32 * len(methods) + 0.5) * len(sources) + 0.6)
    figure, grid = plt.subplots(
        len(sources), len(across), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for (i, source), (k, column) in [(a, b) for a in enumerate(sources) for b in enumerate(across)]:
        ax, part = grid[i, k], effects[(effects["source"] == source) & (effects[columns] == column)].set_index("method")
        if math.isfinite(margin):
            ax.axvspan(-margin, margin, color="#e6e6e6", lw=0)
        for line in lines:
            ax.axvline(line, color="black", lw=0.8)
        for y, method in enumerate(methods):
            if method in part.index and math.isfinite(part.loc[method, "mean"]):
                plot_interval(ax, y, part.loc[method], RULES.get(method) or PALETTE.get(method, PALETTE["ICDPO"]))
        ax.set(yticks=range(len(methods)))
        ax.set_yticklabels([plain(m) for m in methods], fontsize=10)
        titles = (plain(str(column)) if i == 0 and len(across) > 1 else "", plain(str(source)) if len(sources) > 1 else "")
        ax.set_title("\n".join(filter(None, titles)), fontsize=10.5)
        ax.grid(axis="y", visible=False)
        ax.margins(y=0.12)
    figure.supxlabel(xlabel, fontsize=12)
    return grid


def plot_best_of_n(curves: pd.DataFrame, label: str = "reward") -> np.ndarray:
    """Mean reward of the best of n by each rule, with its 95 % interval: panel columns by lm, a panel row for each source.

    `curves`: the totals of `headroom.best_of_n_curves`. Returns the Axes, shape (sources, models).
    """
    lms, sources = curves["lm"].unique(), curves["source"].unique()
    size = (2.9 * len(lms) + 0.8, 2.3 * len(sources) + 0.6)
    figure, grid = plt.subplots(
        len(sources), len(lms), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for (i, source), (k, lm) in [(a, b) for a in enumerate(sources) for b in enumerate(lms)]:
        ax = grid[i, k]
        for method, line in curves[(curves["source"] == source) & (curves["lm"] == lm)].groupby("method", sort=False):
            line, color = line.sort_values("n_candidates"), RULES.get(method) or colour(method)
            ax.fill_between(line["n_candidates"], line["low"], line["high"], color=color, alpha=0.15, lw=0)
            ax.plot(
                line["n_candidates"], line["mean"], color=color, marker=MARKERS.get(method, "o"), ms=4, lw=1.5, label=method
            )
        titles = (plain(str(lm)) if i == 0 and len(lms) > 1 else "", plain(str(source)) if len(sources) > 1 else "")
        ax.set_title("\n".join(filter(None, titles)), fontsize=10.5)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("n" if i == len(sources) - 1 else "")
    figure.supylabel(f"mean {label}", fontsize=12)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return grid


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
