"""The summary card that opens a report: the answer, one row for each claim and source, and what it rests on."""

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from IPython.display import HTML, display

from ..common.escaping import escaped, signs
from ..statistics.findings import AGREES, CONTRADICTS, HIGHER, LOWER, NOT, OPEN, SAME, SIGNS, SMALL, VERDICTS

CLASSES = {  # in base.css
    AGREES: "agrees", CONTRADICTS: "contradicts", SMALL: "small", OPEN: "open", SAME: "same", NOT: "not",
    HIGHER: "found", LOWER: "found",
}  # fmt: skip
WIDTH, ROW, AXIS = 190, 10, 18  # pixels of an interval plot, of each of its lines, and the height of the axis above all


def show_summary(
    answer: Sequence[str],
    facts: Mapping[str, str],
    claims: pd.DataFrame | None = None,
    caption: str = "",
    margin: float = math.nan,
    cost: Mapping[str, str] | None = None,
    rows: str = "demonstrations",
) -> None:
    """Show the answer as sentences, the claims with their intervals and verdicts, and the facts.

    `claims`: as from `verdicts.claims`, rows of one domain; one row is shown for each claim and source, with an interval for
    each language model. If a column unit has several values, each claim has an axis of its own. `margin`: the smallest
    difference that matters, shown as a band. Where the paper reports none of the claims, the findings stand in the place of
    its numbers and of the verdicts. `facts`: what the answer rests on, by name; `cost`: what it cost, which differs between
    two runs of the same. `rows`: the heading of the sources.
    """
    display(HTML(summary_html(answer, facts, claims, caption, margin, cost, rows)))


def summary_html(
    answer: Sequence[str],
    facts: Mapping[str, str],
    claims: pd.DataFrame | None = None,
    caption: str = "",
    margin: float = math.nan,
    cost: Mapping[str, str] | None = None,
    rows: str = "demonstrations",
) -> str:
    """The card of `show_summary` as HTML."""
    first, *more = answer
    sentences = f'<p class="answer">{escaped(first)}</p>' + "".join(f'<p class="more">{escaped(s)}</p>' for s in more)
    table = _claims_table(claims, margin, caption, rows) if claims is not None and len(claims) else ""
    measured = _list(cost, "measured") if cost else ""
    return f'<div class="card">{sentences}{table}{_list(facts, "facts")}{measured}</div>'


def _list(facts: Mapping[str, str], kind: str) -> str:
    """Facts by name as a description list of a CSS class."""
    items = "".join(f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="{kind}">{items}</dl>'


def _claims_table(claims: pd.DataFrame, margin: float, caption: str, rows_of: str) -> str:
    """A group of rows for each claim, and a row in it for each source of demonstrations."""
    lms, apart = list(claims["lm"].unique()), "unit" in claims and claims["unit"].nunique() > 1
    scale = _scale(claims, margin)
    keys = " ".join(f'<span class="key m{k % 6}">{escaped(lm)}</span>' for k, lm in enumerate(lms))
    legend = f'<p class="legend">{keys}</p>' if len(lms) > 1 else ""
    compared = (claims["verdict"] != NOT).any()
    ends = {"the paper": _paper_cell, "verdict": _marks_cell("verdict")} if compared else {"found": _marks_cell("finding")}
    body = ""
    for claim, part in claims.groupby("claim", sort=False):
        method, _, baseline = claim.partition(" > ")
        name, axis = f"{escaped(method)} − {escaped(baseline)}", ""
        if apart:
            scale = _scale(part, margin)
            name = f"{name}, {escaped(part['unit'].iloc[0])}"
            axis = f"<td>{axis_svg(scale, margin)}</td>{'<td></td>' * len(ends)}"
        body += f'<tr class="claim"><th colspan="{2 if apart else 3 + len(ends)}" scope="rowgroup">{name}</th>{axis}</tr>'
        for source, rows in part.groupby("source", sort=False):
            plot = intervals_svg(rows.to_dict("records"), scale, margin, lms)
            body += (
                f'<tr><th scope="row">{escaped(source) or "all"}</th><td class="number">{_means(rows)}</td><td>{plot}</td>'
                f"{''.join(cell(rows) for cell in ends.values())}</tr>"
            )
    heads = (escaped(rows_of), "difference", f"95 % intervals{'' if apart else axis_svg(scale, margin)}", *ends)
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    note = f"<caption>{escaped(caption)}</caption>" if caption else ""
    table = f'<table class="claims">{note}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{legend}<div class="scroll">{table}</div>'


def _paper_cell(rows: pd.DataFrame) -> str:
    """What the paper reports for a row."""
    parts = [part for text in dict.fromkeys(rows["paper"]) for part in escaped(signs(text)).split(", ")]
    return f'<td class="paper">{" ".join(f"<span>{part}</span>" for part in parts)}</td>'


def _marks_cell(column: str) -> Callable[[pd.DataFrame], str]:
    """A function that writes the verdicts or the findings of a row."""
    return lambda rows: f"<td>{'<br>'.join(verdict_marks(rows[column]))}</td>"


def _means(rows: pd.DataFrame) -> str:
    """The differences of a row: one with its interval, or the range over the models."""
    if len(rows) == 1:
        return escaped(signs(str(rows["here"].iloc[0])))
    return signs(f"{rows['mean'].min():+.2f} to {rows['mean'].max():+.2f}")


def verdict_marks(verdicts: pd.Series) -> list[str]:
    """The verdicts or findings of several models with their marks, the most frequent first, with counts where they differ."""
    counts, found = verdicts.value_counts(), []
    for verdict in sorted((v for v in (*VERDICTS, HIGHER, LOWER) if v in counts), key=lambda v: -counts[v]):
        mark = f'<span class="mark"><span>{SIGNS[verdict]}</span></span>'
        of = f' <span class="of">in {counts[verdict]} of {len(verdicts)}</span>' if len(counts) > 1 else ""
        found.append(f'<span class="v v-{CLASSES[verdict]}">{mark}{escaped(verdict)}{of}</span>')
    return found


def _scale(claims: pd.DataFrame, margin: float) -> tuple[float, float]:
    """The least and the largest value that the plots show: all intervals, 0 and the margin."""
    ends = [*claims[["low", "high", "mean"]].to_numpy().ravel(), 0.0]
    ends = [v for v in [*ends, margin, -margin] if math.isfinite(v)]
    low, high = min(ends), max(ends)
    pad = 0.04 * (high - low or 1)
    return low - pad, high + pad


def ticks(low: float, high: float) -> list[float]:
    """The multiples of 1, 2 or 5 × a power of ten between two values: 0 if it is between them, and at most six."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10(high - low) - 1)
    step = next(s * power for s in (1, 2, 5, 10, 20, 50) if (high - low) / (s * power) <= 5)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def axis_svg(scale: tuple[float, float], margin: float) -> str:
    """An inline SVG with the axis of the interval plots below it: ticks with their values, and a long one at 0."""
    low, high = scale
    shapes = ""
    for value in ticks(low, high):
        x = round((value - low) / (high - low) * WIDTH, 1)
        kind = "tick" if value else "zero"
        shapes += f'<line class="{kind}" x1="{x}" x2="{x}" y1="{AXIS - (4 if value else 6)}" y2="{AXIS}"></line>'
        shapes += f'<text x="{x}" y="{AXIS - 8}">{signs(f"{value:g}")}</text>'
    text = f"axis from {low:.2g} to {high:.2g}, with a line at 0"
    if math.isfinite(margin):
        text += f" and a band of ± {margin:g}, the smallest difference that matters"
    size = f'viewBox="0 0 {WIDTH} {AXIS}" width="{WIDTH}" height="{AXIS}"'
    return f'<svg class="intervals" {size} role="img" aria-label="{escaped(signs(text))}">{shapes}</svg>'


def intervals_svg(rows: Sequence[Mapping], scale: tuple[float, float], margin: float, lms: Sequence[str]) -> str:
    """An inline SVG with a line for each row's interval and a dot for its mean, and the same as its text alternative."""
    low, high = scale

    def x(value: float) -> float:
        return round((value - low) / (high - low) * WIDTH, 1)

    height = ROW * len(rows) + 4
    text = "; ".join(f"{row['lm']}: {row['here']}" for row in rows)
    shapes = f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{height}"></line>'
    if math.isfinite(margin):
        band = f'<rect class="band" x="{x(-margin)}" y="0" width="{round(x(margin) - x(-margin), 1)}" height="{height}"></rect>'
        shapes = band + shapes
    for i, row in enumerate(rows):
        y, shade = ROW * i + ROW / 2 + 2, f"m{list(lms).index(row['lm']) % 6}"
        if math.isfinite(row["low"]):
            shapes += f'<line class="ci {shade}" x1="{x(row["low"])}" x2="{x(row["high"])}" y1="{y}" y2="{y}"></line>'
        shapes += f'<circle class="{shade}" cx="{x(row["mean"])}" cy="{y}" r="3"></circle>'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return f'<svg class="intervals" {size} role="img" aria-label="{escaped(text)}">{shapes}</svg>'
