"""The figure of the README, from reports/bench/engine.json: both sides as multiples of the least time, and their ratio."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from results import OUT

from icdpo_nb.reports.figures import set_style

TARGET = Path(__file__).parents[2] / "docs" / "bench.svg"
SIDES = {"published": ("published procedure", "#999999"), "engine": ("engine", "#0072b2")}


def main() -> None:
    """Draw it."""
    found = json.loads((OUT / "engine.json").read_text())
    cases = found["cases"][::-1]
    set_style()
    fig, ax = plt.subplots(figsize=(7.2, 0.62 * len(cases) + 1.5))
    widest = max(c["multiples"]["published"] for c in cases)
    for y, case in enumerate(cases):
        for (side, (_, colour)), offset in zip(SIDES.items(), (0.19, -0.19), strict=True):
            multiple = case["multiples"][side]
            ax.barh(y + offset, multiple, height=0.34, color=colour)
            fewer = f": {case['ratios']['seconds']:.1f}× faster, {case['ratios']['tokens']:.1f}× fewer tokens"
            text = f"{multiple:.1f}{fewer if side == 'engine' else ''}"
            ax.text(multiple + 0.01 * widest, y + offset, text, va="center", fontsize=9.5)
    names = [f"{c['case']}\n{c['context_tokens']:.0f}-token contexts, least time {c['least_seconds']:.1f} s" for c in cases]
    ax.set_yticks(range(len(cases)), names, fontsize=9.5)
    ax.axvline(1, color="black", linewidth=0.8)
    rates = cases[0]["rates"]
    ax.set(xlim=(0, 1.12 * widest), xlabel="time, in multiples of the least that the engine's counted work can take\n"
           f"{found['processor']}, {found['threads']} threads: product {rates['product'] / 1e9:.0f} GFLOP/s, "
           f"copy {rates['copy'] / 1e9:.0f} GB/s")  # fmt: skip
    ax.xaxis.label.set_size(9.5)
    ax.grid(axis="y", visible=False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in SIDES.values()]
    fig.legend(handles, [name for name, _ in SIDES.values()], frameon=False, loc="upper right", ncols=2)
    TARGET.parent.mkdir(exist_ok=True)
    fig.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
