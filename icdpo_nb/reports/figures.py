"""Figures: tidy tables in, Axes out. One colour a method; intervals, and the prompts behind them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ..common.escaping import label as plain

PALETTE = {  # colour-blind safe (Okabe-Ito, two of Tol's muted); base grey
    "Base": "#7f7f7f",
    "RM-Aug": "#882255",
    "RM-BoN": "#999933",
    "ICL": "#56b4e9",
    "ICDPO": "#0072b2",
    "ICDPO + Ŝ": "#e69f00",
    "ICDPO + ŜR": "#d55e00",
    "ICDPO + R": "#d55e00",
    "ICDPO + SBERT": "#cc79a7",
    "ICDPO + BM25": "#009e73",
    "ICL_uni": "#b0d9f0",
    "ICL (π* alone)": "#56b4e9",
    "ICDPO (S)": "#0072b2",
    "teacher LM": "#009e73",
    "reward model": "#cc79a7",
    "annotated neighbours": "#999999",
    "random choice": "#7f7f7f",
    "prompt alone": "#7f7f7f",
    **dict.fromkeys(("S", "all three"), "#0072b2"),
    "Ŝ": "#e69f00",
    **dict.fromkeys(("cue", "cue in S", "cue in Ŝ"), "#cc79a7"),
    **dict.fromkeys(("cue and instruction", "instruction in S", "instruction in Ŝ"), "#d55e00"),
    **dict.fromkeys(("cue and demonstrations", "demonstrations in S", "demonstrations in Ŝ"), "#009e73"),
    **dict.fromkeys(("SFT", "SFT + S"), "#44aa99"),
    **dict.fromkeys(("DPO", "DPO + S"), "#332288"),
    **dict.fromkeys(("IPO", "IPO + S"), "#882255"),
    **dict.fromkeys(("KTO", "KTO + S"), "#ddaa33"),
    **dict.fromkeys(("RPO-Paired", "RPO-Paired + S"), "#117733"),
    **dict.fromkeys(("RPO-Unpaired", "RPO-Unpaired + S"), "#cc6677"),
}
VERDICT_COLOURS = {"win": "#56b4e9", "tie": "#d9d9d9", "lose": "#e69f00"}  # light, so that intervals show on them
_SPARE = sns.color_palette("colorblind").as_hex()


def set_style() -> None:
    """The house style: white grid, vector figures, byte-stable SVG."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update({
        "figure.dpi": 100, "savefig.bbox": "tight", "svg.hashsalt": "icdpo-nb", "font.family": "DejaVu Sans",
        "text.parse_math": False,  # a dollar sign of a text is a dollar sign
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 12,
    })  # fmt: skip
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
    except (ImportError, AttributeError):  # not in a notebook
        pass


def colour(method: str) -> str:
    """A method's colour, the same in every notebook; what stands behind a comma is one of its settings."""
    return PALETTE.get(method.partition(",")[0]) or _SPARE[sum(map(ord, method)) % len(_SPARE)]


def plot_interval(ax: plt.Axes, y: float, row: pd.Series, color: str, face: str | None = None) -> None:
    """A mean with its interval as a point on a line at height y."""
    ax.plot([row["low"], row["high"]], [y, y], color=color, lw=2.5, solid_capstyle="round")
    ax.plot(row["mean"], y, "o", color=color, markerfacecolor=face or color, ms=7)


def plot_means(means: pd.DataFrame, columns: str = "domain", label: str = "reward") -> np.ndarray:
    """Mean and 95 % interval of each method: a panel column for each value of `columns`, a row for each source.

    `means` as from `estimates.method_means`. Returns the Axes, shape (sources, columns).
    """
    across, sources, methods = means[columns].unique(), means["source"].unique(), means["method"].unique()[::-1]
    size = (2.6 * len(across) + 1.2, (0.34 * len(methods) + 0.5) * len(sources) + 0.5)
    figure, grid = plt.subplots(
        len(sources), len(across), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for (i, source), (k, column) in [(a, b) for a in enumerate(sources) for b in enumerate(across)]:
        ax, part = grid[i, k], means[(means["source"] == source) & (means[columns] == column)].set_index("method")
        for y, method in enumerate(methods):
            row = part.loc[method]
            plot_interval(ax, y, row, colour(method))
        ax.set(yticks=range(len(methods)), xlabel=f"{part['n'].iloc[0]} prompts" if i == len(sources) - 1 else "")
        ax.set_yticklabels(methods, fontsize=10)
        name, source = plain(str(column)) if len(across) > 1 else "", plain(str(source))
        ax.set_title("\n".join(t for t in (name if i == 0 else "", source if len(sources) > 1 else "") if t), fontsize=10.5)
        ax.grid(axis="y", visible=False)
        ax.margins(y=0.15)
    figure.supxlabel(f"mean {label}", fontsize=12)
    return grid


def plot_shares(means: pd.DataFrame, chance: float, columns: str = "domain", label: str = "share") -> np.ndarray:
    """`plot_means` of shares, from 0 to 1, with a dashed line at chance."""
    grid = plot_means(means, columns, label)
    for ax in grid.flat:
        ax.axvline(chance, color="black", lw=1, ls="--")
        ax.set(xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
    return grid


def plot_per_prompt(per_prompt: pd.DataFrame, value: str = "reward", ax: plt.Axes | None = None) -> plt.Axes:
    """Every prompt behind the means: one point a prompt and method, with a line at the median."""
    methods = list(per_prompt["method"].unique())
    if ax is None:
        _, ax = plt.subplots(figsize=(7.2, 0.5 * len(methods) + 1.1))
    colours = {m: colour(m) for m in methods}
    state = np.random.get_state()
    np.random.seed(0)  # the jitter of seaborn's strip plot
    sns.stripplot(
        per_prompt,
        x=value,
        y="method",
        hue="method",
        palette=colours,
        order=methods,
        size=3.5,
        alpha=0.6,
        jitter=0.25,
        legend=False,
        ax=ax,
    )
    np.random.set_state(state)
    for y, method in enumerate(methods):
        middle = per_prompt.loc[per_prompt["method"] == method, value].median()
        ax.plot([middle, middle], [y - 0.35, y + 0.35], color="black", lw=1.5)
    ax.set(ylabel="", xlabel=f"{value} of one prompt (line: median)")
    ax.figure.tight_layout()
    return ax


def plot_claims(table: pd.DataFrame) -> np.ndarray:
    """Contrasts of `sandbox.validation.verdicts` with their intervals: a panel a model, filled where it agrees."""
    models, claims = table["model"].unique(), table["claim"].unique()[::-1]
    _, axes = plt.subplots(1, len(models), figsize=(3.2 * len(models) + 1.4, 3.4), sharey=True, squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        part = table[table["model"] == model].set_index("claim")
        for y, claim in enumerate(claims):
            row = part.loc[claim]
            face = PALETTE["ICDPO"] if row["verdict"] == "agrees" else "white"
            plot_interval(ax, y, row, PALETTE["ICDPO"], face)
        ax.axvline(0, color="black", lw=0.8)
        ax.set(title=plain(model), xlabel="contrast", yticks=range(len(claims)))
        ax.set_yticklabels(claims, fontsize=10)
        ax.grid(axis="y", visible=False)
    axes[0, 0].figure.tight_layout()
    return axes[0]


def plot_gain(gains: pd.DataFrame, label: str = "gain in reward", ax: plt.Axes | None = None) -> plt.Axes:
    """Gain against similarity, a point a prompt; black: the means of four groups of prompts of equal size.

    `gains` as from `retrieval_ablation.gain_and_similarity`.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.2, 3.2))
    ax.plot(gains["similarity"], gains["gain"], "o", color=PALETTE["ICDPO + R"], ms=3, alpha=0.4)
    ordered = gains.sort_values("similarity", kind="stable")
    for rows in np.array_split(np.arange(len(ordered)), min(4, len(ordered))):
        group = ordered.iloc[rows]
        ax.plot(group["similarity"].mean(), group["gain"].mean(), "o", color="black", ms=7)
        ax.plot(group["similarity"].iloc[[0, -1]], [group["gain"].mean()] * 2, color="black", lw=1.5)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xlabel="similarity of the retrieved demonstrations to the prompt (cosine)", ylabel=label)
    ax.figure.tight_layout()
    return ax


def plot_win_rates(shares: pd.DataFrame, means: pd.DataFrame) -> np.ndarray:
    """Bars of wins, ties and defeats, a panel column for each model and a row for each source; black: win rate with interval.

    `shares` and `means` as from `win_rate.win_shares` and the totals of `win_rate.win_means`. Returns the Axes, shape (sources,
    models).
    """
    models, sources, methods = shares["lm"].unique(), shares["source"].unique(), shares["method"].unique()[::-1]
    size = (2.7 * len(models) + 1.2, (0.4 * len(methods) + 0.5) * len(sources) + 0.9)
    figure, grid = plt.subplots(len(sources), len(models), figsize=size, sharex=True, sharey=True, squeeze=False)
    for (i, source), (k, lm) in [(a, b) for a in enumerate(sources) for b in enumerate(models)]:
        ax = grid[i, k]
        bars, rate = (t[(t["source"] == source) & (t["lm"] == lm)].set_index("method") for t in (shares, means))
        for y, method in enumerate(methods):
            if method not in bars.index:  # a source without responses of its own
                continue
            left = 0.0
            for verdict, color in VERDICT_COLOURS.items():
                ax.barh(y, bars.loc[method, verdict], left=left, color=color, height=0.74, label="" if y else verdict)
                left += bars.loc[method, verdict]
            plot_interval(ax, y, rate.loc[method], "black")
        ax.axvline(0.5, color="black", lw=0.8, ls=":")
        ax.set(yticks=range(len(methods)), xlim=(0, 1), xticks=[0, 0.5, 1])
        ax.set_yticklabels(methods, fontsize=10)
        ax.set_xticklabels(["0 %", "50 %", "100 %"])
        title = "\n".join(t for t in (plain(str(lm)) if i == 0 else "", plain(str(source)) if len(sources) > 1 else "") if t)
        ax.set_title(title, fontsize=10.5)
        ax.grid(axis="y", visible=False)
    figure.tight_layout()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False, fontsize=10)
    return grid


def panels(names: Sequence[str], height: float, sharey: bool, across: int = 3) -> list[tuple[str, plt.Axes]]:
    """A panel for each name, `across` in a row; those left over stay empty."""
    columns = min(across, len(names))
    rows, width = -(-len(names) // columns), 2.9 * 3 / across
    _, grid = plt.subplots(
        rows, columns, figsize=(width * columns + 0.6, height * rows), sharey=sharey, squeeze=False, layout="constrained"
    )
    for ax in grid.flat[len(names) :]:
        ax.axis("off")
    return list(zip(names, grid.flat, strict=False))
