"""Figures of trained policies, of what RPO's weights do, and of what a context transfers in the sandbox."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ..common.escaping import label as plain
from .figures import PALETTE, colour, panels


def plot_losses(curves: pd.DataFrame) -> list[plt.Axes]:
    """The loss of each step, a panel for each method, since their losses are not of one kind; black: the mean of ten steps.

    `curves` as from `finetune.loss_curves`.
    """
    grid = panels(list(curves["method"].unique()), 2.2, sharey=False)
    for method, ax in grid:
        part = curves[curves["method"] == method]
        ax.plot(part["step"], part["loss"], color=colour(method), lw=1, alpha=0.5)
        ax.plot(part["step"], part["loss"].rolling(10, min_periods=1).mean(), color="black", lw=1.4)
        ax.set_title(plain(method), fontsize=10.5)
        ax.set(xlabel="step", ylabel="loss")
    return [ax for _, ax in grid]


def plot_by_n(by_n: pd.DataFrame, level: pd.DataFrame) -> list[plt.Axes]:
    """Mean reward of what S chooses among n candidates, with its interval; dotted: the mean of all, without S.

    `by_n` as from `policies.reward_by_n`, for one model and source; `level`: `method_means` of the policies themselves.
    """
    grid = panels(list(by_n["method"].unique()), 2.4, sharey=True)
    for method, ax in grid:
        part, alone = by_n[by_n["method"] == method], level.set_index("method").loc[method, "mean"]
        ax.fill_between(part["n_candidates"], part["low"], part["high"], color=colour(method), alpha=0.2, lw=0)
        ax.plot(part["n_candidates"], part["mean"], "o-", color=colour(method), ms=4)
        ax.axhline(alone, color="black", lw=1.2, ls=":")
        ax.set_title(plain(f"{method} + S"), fontsize=10.5)
        ax.set(xlabel="n", ylabel="mean reward")
    return [ax for _, ax in grid]


def plot_settings(rows: pd.DataFrame, wins: pd.DataFrame) -> list[plt.Axes]:
    """Win rate against the number that RPO's Tables 2, 3, 7 and 8 vary, a panel for each; dotted: as the paper prints it.

    `rows` as from `relative_preference.rpo_rows`, `wins` the totals of their policies. Without any of these
    tables there is no panel.
    """
    part = rows[rows["table"].isin((2, 3, 7, 8)) & (rows["policy"] != "")]
    if part.empty:
        return []
    parsed = part["setting"].str.extract(r"(?P<varied>τ|β|batch|temperature)[ =]+(?P<number>[\d.]+)")
    part, ours = part.assign(**parsed.astype({"number": float})), wins.set_index("method")
    grid = panels([f"Table {t}" for t in part["table"].unique()], 2.6, sharey=True, across=2)
    for (title, ax), (_, table) in zip(grid, part.groupby("table", sort=False), strict=True):
        for policy, line in table.groupby(table["policy"].str.partition(",")[0], sort=False):
            line = line.sort_values("number")
            found, color = ours.loc[line["policy"]], colour(policy)
            ends = [found["mean"] - found["low"], found["high"] - found["mean"]]
            ax.errorbar(line["number"], found["mean"], ends, color=color, marker="o", ms=4, lw=1.6, label=plain(policy))
            ax.plot(line["number"], line["paper"].map(np.mean), color=color, ls=":", lw=1.6)
        ax.set_title(title, fontsize=10.5)
        ax.set(xlabel=table["varied"].iloc[0], ylabel="win rate, %")
    handles = {h.get_label(): h for _, ax in grid for h in ax.get_legend_handles_labels()[0]}
    grid[0][1].figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return [ax for _, ax in grid]


def plot_contrasts(weights: np.ndarray, scores: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """RPO's contrast matrix, as from `relative_preference.contrasts`: weights and scores; the prompts stand at the rows."""
    m, end = len(prompts), np.abs(scores).max()
    _, axes = plt.subplots(1, 2, figsize=(8.6, 0.27 * m + 1.1), layout="constrained")
    how = {"square": True, "yticklabels": False, "cbar_kws": {"shrink": 0.7}, "linewidths": 0.5}
    sns.heatmap(weights, cmap="Blues", vmin=0, ax=axes[0], **how)
    sns.heatmap(scores, cmap="PuOr", vmin=-end, vmax=end, ax=axes[1], **how)
    for ax, title in zip(axes, ("weight ω", "β (rᵢ − rⱼ), nats"), strict=True):
        ax.set_title(title, fontsize=10.5)
        ax.set_xticks(np.arange(m) + 0.5, range(1, m + 1), rotation=0)
        ax.set(xlabel="rejected response to")
    names = [f"{plain(prompt, 40)}  {i}" for i, prompt in enumerate(prompts, 1)]
    axes[0].set_yticks(np.arange(m) + 0.5, names, rotation=0, fontsize=9)
    axes[1].set_yticks(np.arange(m) + 0.5, range(1, m + 1), rotation=0)
    axes[0].set(ylabel="chosen response to")
    return axes


def plot_along(means: pd.DataFrame, gains: pd.DataFrame) -> np.ndarray:
    """Along trainings: above, mean reward of a policy with S and without; below, what S adds, paired; with 95 % intervals.

    `means` and `gains` as from `training_course.along_means`: a panel column for each source. Returns the Axes, shape
    (2, sources).
    """
    plans = list(means["source"].unique())
    size = (3.6 * len(plans) + 1, 4.6)
    figure, grid = plt.subplots(2, len(plans), figsize=size, sharex="col", sharey="row", squeeze=False, layout="constrained")
    kinds = {"policy": (PALETTE["Base"], "o--"), "policy + S": (PALETTE["ICDPO"], "o-")}
    for column, plan in enumerate(plans):
        above, below = grid[:, column]
        for method, (color, line) in kinds.items():
            _band(above, means[(means["source"] == plan) & (means["method"] == method)], color, line, method)
        _band(below, gains[gains["source"] == plan], "black", "o-")
        below.axhline(0, color="black", lw=0.8)
        above.set_title(plain(plan), fontsize=10.5)
        below.set(xlabel="step of the training")
    grid[0, 0].set(ylabel="mean reward")
    grid[1, 0].set(ylabel="gain by S")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return grid


def _band(ax: plt.Axes, line: pd.DataFrame, color: str, style: str, name: str = "") -> None:
    """Means at steps, with their intervals as a band."""
    line = line.sort_values("step")
    ax.fill_between(line["step"], line["low"], line["high"], color=color, alpha=0.18, lw=0)
    ax.plot(line["step"], line["mean"], style, color=color, ms=4, lw=1.6, label=name)


def plot_weight_effects(tables: Mapping[str, pd.DataFrame]) -> np.ndarray:
    """Where RPO's weights can act: against the size of the scores, other weightings' gradients and the answers they lead to.

    `tables`: by the name of a set of experiments, as from `weighting.inert_table`; a point a policy. Left, the smallest cosine
    of a weighting's gradient with that of uniform weights; right, the share of answers that are those of RPO-Paired.
    """
    _, axes = plt.subplots(1, 2, figsize=(8.6, 3.0), layout="constrained")
    for (name, table), color in zip(tables.items(), (PALETTE["ICDPO"], PALETTE["ICDPO + ŜR"]), strict=False):
        lowest = table.filter(like="cosine").min(axis=1)
        axes[0].plot(table["size"], lowest, "o", color=color, ms=6, alpha=0.7, label=plain(name))
        axes[1].plot(table["size"], 100 * table["identical answers"], "o", color=color, ms=6, alpha=0.7)
    axes[0].set(ylabel="smallest cosine of gradients")
    axes[1].set(ylabel="identical answers, %", ylim=(-3, 103))
    for ax in axes:
        ax.set_xlabel("median |β ω (rᵢ − rⱼ)|, nats")
        if np.isfinite(ax.dataLim.minposx):  # without a point above 0, an axis has no logarithm
            ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")  # powers of ten would be set as a formula, which no text here is
        ax.xaxis.set_minor_formatter("")
    axes[0].legend(frameon=False, fontsize=9, loc="lower left")
    return axes


def plot_transfer(means: pd.DataFrame, sources: Sequence[str], ax: plt.Axes | None = None) -> plt.Axes:
    """Own reward of what is shown (x) against the reward of what is sampled: a line a style, and the sources as points."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7.2, 3.6))
    by_name = means.set_index("situation")
    made = by_name.index.to_series().str.extract("(.*), level").dropna()[0]
    for style, color in zip(made.unique(), (PALETTE["ICL"], PALETTE["ICDPO"], PALETTE["ICDPO + ŜR"]), strict=True):
        part = by_name.loc[made.index[made == style]]
        ax.plot(part["shown"], part["mean"], "o-", color=color, ms=4, label=f"made, {style}")
        ax.fill_between(part["shown"], part["low"], part["high"], color=color, alpha=0.15, lw=0)
    for source, marker in zip(sources, "sD^v<>", strict=False):
        ax.plot(by_name.loc[source, "shown"], by_name.loc[source, "mean"], marker, color="black", ms=7, label=source)
    for name, dashes in (("prompt alone", ":"), ("chosen heading alone", "--")):
        ax.axhline(by_name.loc[name, "mean"], color="black", lw=0.8, ls=dashes, label=name)
    ax.set(xlabel="own reward of the demonstrations", ylabel="reward of the samples")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.figure.tight_layout()
    return ax
