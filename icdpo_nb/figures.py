"""Figures: tidy tables in, Axes out. One colour a method; intervals, and the prompts behind them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

PALETTE = {  # colour-blind safe (Okabe-Ito); base grey
    "Base": "#7f7f7f",
    "ICL": "#56b4e9",
    "ICDPO": "#0072b2",
    "ICDPO + Ŝ": "#e69f00",
    "ICDPO + ŜR": "#d55e00",
}
_SPARE = sns.color_palette("colorblind").as_hex()


def set_style() -> None:
    """The house style: white grid, vector figures, byte-stable SVG."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update({
        "figure.dpi": 100, "savefig.bbox": "tight", "svg.hashsalt": "icdpo-nb", "font.family": "DejaVu Sans",
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 12,
    })  # fmt: skip
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
    except (ImportError, AttributeError):  # not in a notebook
        pass


def colour(method: str) -> str:
    """A method's colour, the same in every notebook."""
    return PALETTE.get(method) or _SPARE[sum(map(ord, method)) % len(_SPARE)]


def plot_means(means: pd.DataFrame, axes: Sequence[plt.Axes] | None = None, label: str = "reward") -> Sequence[plt.Axes]:
    """Mean and 95 % interval of each method, one panel a domain. `means` as from `tables.method_means`."""
    domains, methods = means["domain"].unique(), means["method"].unique()[::-1]
    if axes is None:
        _, axes = plt.subplots(1, len(domains), figsize=(3.1 * len(domains) + 0.6, 0.42 * len(methods) + 1.1), sharey=True)
        axes = np.atleast_1d(axes)
    for ax, domain in zip(axes, domains, strict=True):
        part = means[means["domain"] == domain].set_index("method")
        for y, method in enumerate(methods):
            row = part.loc[method]
            ax.plot([row["low"], row["high"]], [y, y], color=colour(method), lw=2.5, solid_capstyle="round")
            ax.plot(row["mean"], y, "o", color=colour(method), ms=8)
        ax.set(title=f"{domain} (n = {int(part['n'].iloc[0])})", xlabel=f"mean {label}", yticks=range(len(methods)))
        ax.set_yticklabels(methods)
        ax.grid(axis="y", visible=False)
        ax.margins(y=0.15)
    axes[0].figure.tight_layout()
    return axes


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


def plot_token_gaps(tokens: Sequence[str], gaps: np.ndarray, ax: plt.Axes | None = None, label: str = "S") -> plt.Axes:
    """How each token adds to a score: its difference of log-probabilities, and the running sum."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7.2, 2.6))
    x = np.arange(len(gaps))
    ax.bar(x, gaps, color=np.where(np.asarray(gaps) >= 0, "#0072b2", "#d55e00"), width=0.8)
    ax.plot(x, np.cumsum(gaps), color="black", lw=1.4, label=f"running sum, ends at {label} = {np.sum(gaps):.2f}")
    ax.axhline(0, color="black", lw=0.8)
    names = [t.strip()[:10].replace("$", r"\$") or "␣" for t in tokens]
    ax.set_xticks(x, names, rotation=90, fontsize=max(5, min(9, 420 // max(len(x), 1))))
    ax.set(ylabel="nats per token", xlim=(-1, len(gaps)))
    ax.legend(frameon=False, fontsize=9)
    ax.grid(axis="x", visible=False)
    ax.figure.tight_layout()
    return ax
