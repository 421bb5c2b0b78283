"""The figure of the README, from reports/bench/engine.json: how many times faster the engine is, and how many fewer tokens."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from results import OUT

from icdpo_nb.reports.figures import set_style

TARGET = Path(__file__).parents[2] / "docs" / "bench.svg"


def main() -> None:
    """Draw it."""
    found = json.loads((OUT / "engine.json").read_text())
    cases = found["cases"][::-1]
    set_style()
    fig, ax = plt.subplots(figsize=(7.2, 0.62 * len(cases) + 1.2))
    for y, case in enumerate(cases):
        for kind, offset, colour in (("seconds", 0.19, "#0072b2"), ("tokens", -0.19, "#999999")):
            ratio = case["ratios"][kind]
            ax.barh(y + offset, ratio, height=0.34, color=colour)
            ax.text(ratio + 0.2, y + offset, f"{ratio:.1f}×", va="center", fontsize=10)
    names = [f"{c['case']}\n{c['context_tokens']:.0f}-token contexts" for c in cases]
    ax.set_yticks(range(len(cases)), names, fontsize=10)
    ax.set(xlim=(0, 1.15 * max(c["ratios"]["seconds"] for c in cases)), xlabel="published procedure / engine")
    ax.grid(axis="y", visible=False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in ("#0072b2", "#999999")]
    ax.legend(handles, ["time", "forward tokens"], frameon=False, loc="lower right")
    TARGET.parent.mkdir(exist_ok=True)
    fig.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
