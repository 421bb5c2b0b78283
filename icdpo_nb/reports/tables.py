"""What a notebook shows: texts, tables of anything, of estimates, of claims and of the paper's numbers, notes and the answer.

Every text that comes from data or a model is made visible, cut and escaped here (see `escaping`), so that it stands in a report
as text and nothing else.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from ..common.escaping import TEXT_CHARACTERS, escaped, signs
from ..statistics.estimates import GROUPS, as_text
from ..statistics.findings import HIGHER, LOWER, NOT, OPEN, SIGNS, VERDICTS, needed_text, rounded_up
from ..statistics.published import MODELS

INTERVAL = re.compile(r"([+-]?\d[\d.,]*(?: ?%)?) (\[[^\[\]]*\])(.{0,14})")  # 0.57 [0.50, 0.64], and a count or marks
SHORT = 60  # characters: longer texts of a column are read in every row
NO_NUMBER = ("–", "base")  # in a column of numbers: none, and the row that others are compared with
HEADINGS = {"source": "demonstrations", "baseline": "minus"}  # of the columns of a tidy table


def show_text(title: str, text: str) -> None:
    """A text from data or a model, as it is, with its line breaks."""
    display(HTML(f'<div class="text-title">{escaped(title)}</div><div class="text">{escaped(text, TEXT_CHARACTERS)}</div>'))


def show_table(
    table: pd.DataFrame, caption: str = "", highlight: Sequence[bool] | None = None, digits: int = 2, measured: bool = False
) -> None:
    """A table with its caption; the index stands as the first column if it has a name. Marked rows stand out.

    `measured`: it holds times, memory or what was found in the store: what differs when the same is run again.
    """
    display(HTML(table_html(table, caption, highlight, digits, measured)))


def table_html(
    table: pd.DataFrame, caption: str = "", highlight: Sequence[bool] | None = None, digits: int = 2, measured: bool = False
) -> str:
    """The table of `show_table` as HTML."""
    table = table.reset_index() if table.index.name else table
    shown = [[_cell(v, digits) for v in row] for row in table.itertuples(index=False)]
    numeric = [_is_numeric(table[c], [row[k] for row in shown]) for k, c in enumerate(table)]
    marks = highlight if highlight is not None else [False] * len(table)
    head = "".join(f'<th scope="col"{_class("number" * n)}>{escaped(str(c))}</th>' for c, n in zip(table, numeric, strict=True))
    body = "".join(
        f"<tr{_class('chosen' * bool(mark))}>{_row(row, before, numeric)}</tr>"
        for row, before, mark in zip(shown, [None, *shown], marks, strict=False)
    )
    note = f"<caption>{escaped(caption)}</caption>" if caption else ""
    return f"<table{_class('measured' * measured)}>{note}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _is_numeric(column: pd.Series, shown: Sequence[str]) -> bool:
    """Whether a column holds numbers, or numbers with their intervals as text."""
    if pd.api.types.is_numeric_dtype(column):
        return True
    return any(map(INTERVAL.fullmatch, shown)) and all(INTERVAL.fullmatch(text) or text in NO_NUMBER for text in shown)


def _row(row: Sequence[str], before: Sequence[str] | None, numeric: Sequence[bool]) -> str:
    """The cells of a row; words that the row above has too, up to the first that differs, are there but not seen."""
    cells, again = "", before is not None
    for k, (text, number) in enumerate(zip(row, numeric, strict=True)):
        again = again and not number and k < len(row) - 1 and text == before[k] and len(text) <= SHORT
        interval = INTERVAL.fullmatch(text)
        value = escaped(signs(text) if number else text)
        if interval:
            mean, limits, marks = (escaped(signs(part)) for part in interval.groups())
            value = f'{mean} <span class="ci">{limits}</span>{marks}'
        value = f"<span>{value}</span>" if again else value
        cells += f"<td{_class(' '.join(['number'] * number + ['again'] * again))}>{value}</td>"
    return cells


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def show_figure(drawn: object, caption: str, estimates: pd.DataFrame | None = None) -> None:
    """A figure, or the figure of some Axes, with its caption; its text alternative says the caption and the estimates.

    `estimates`: the tidy table that the figure draws, with columns mean, low, high and n.
    """
    import matplotlib.pyplot as plt

    figure = drawn if hasattr(drawn, "savefig") else np.ravel(np.array(drawn, dtype=object))[0].figure
    display(figure, metadata={"image/svg+xml": {"alt": text_alternative(caption, estimates)}})
    display(HTML(f'<p class="caption">{escaped(caption)}</p>'))
    plt.close(figure)  # or the notebook would show it once more


def text_alternative(caption: str, estimates: pd.DataFrame | None = None, most: int = 60) -> str:
    """What a figure shows, in words: its caption, and the first `most` of its estimates."""
    if estimates is None or not {"mean", "low", "high", "n"} <= set(estimates):
        return caption
    names = [c for c in (*GROUPS, "method", "baseline", "domain") if c in estimates and estimates[c].nunique() > 1]
    names = names or [c for c in ("method", "claim") if c in estimates]
    rows = estimates.head(most)
    values = [f"{', '.join(map(str, key))}: {text}" for key, text in zip(rows[names].to_numpy(), as_text(rows), strict=True)]
    more = f"; and {len(estimates) - most} more" if len(estimates) > most else ""
    return f"{caption} {'; '.join(values)}{more}."


def show_answer(*sentences: str) -> None:
    """The computed answer of a notebook, one paragraph a sentence."""
    display(HTML("".join(f'<p class="answer">{escaped(s)}</p>' for s in sentences)))


def show_note(text: str, measured: bool = False) -> None:
    """A computed remark in plain text. `measured`: as in `show_table`."""
    display(HTML(f"<p{' class=measured' if measured else ''}>{escaped(text)}</p>"))


def _cell(value: object, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}f}" if np.isfinite(value) else "–"
    return str(value)


def show_estimates(tidy: pd.DataFrame, caption: str, columns: str = "domain", **headings: str) -> None:
    """Estimates side by side, mean [95 % interval]: a column for each value of `columns`, a row for each other combination.

    What is the same everywhere is left out. The caption says how many prompts there are, or each cell where they differ.
    `headings`: what a column of the tidy table is called here, as in `HEADINGS`.
    """
    alike = tidy.groupby("domain")["n"].nunique().max() == 1
    text = tidy.assign(text=as_text(tidy) if alike else [f"{t} ({n})" for t, n in zip(as_text(tidy), tidy["n"], strict=True)])
    keys = [
        c for c in (*GROUPS, "method", "baseline", "side", "domain") if c in tidy and c != columns and tidy[c].nunique() > 1
    ]
    keys = keys or [c for c in ("method",) if c in tidy]
    for column in (*keys, columns):
        text[column] = pd.Categorical(text[column], tidy[column].drop_duplicates(), ordered=True)
    wide = text.pivot(index=keys, columns=columns, values="text").reset_index()
    counts = ", ".join(f"{d} n = {n}" for d, n in tidy.groupby("domain", sort=False)["n"].first().items())
    counts = f"; prompts: {counts}" if alike else " (prompts)"
    show_table(wide.rename(columns=HEADINGS | headings), f"{caption} Mean [95 % interval]{counts}.")


def show_claims(claims: pd.DataFrame, caption: str, margin: float, unit: str = "points", *extra: str) -> None:
    """A table of `claims`, of one domain; with several models a column for each, and signs for the verdicts.

    `extra`: further columns to be shown where there is one model.
    """
    same = [c for c in GROUPS if claims[c].nunique() == 1]
    of = "training seeds" if "seeds" in claims else "prompts"
    stated = f"{caption} The smallest difference that matters: {margin:g} {unit}."
    if "lm" in same:
        says = [f"{f}{_tail(d, of)}" for f, d in zip(claims["finding"], claims["decide"], strict=True)]
        shown = claims.assign(**{"found here": says})
        columns = ["claim", *([] if "source" in same else ["source"]), *extra, "here", "found here", "paper", "verdict"]
        show_table(shown[columns].rename(columns=HEADINGS | {"here": "here [95 % interval]"}), stated)
        return
    used = [s for s in (*VERDICTS, HIGHER, LOWER) if s in {*claims["verdict"], *claims["finding"][claims["verdict"] == NOT]}]
    text = claims.assign(text=[_verdict_cell(r) for r in claims.itertuples()])
    keys = ["claim", *([] if "source" in same else ["source"]), "paper"]
    for column in ("claim", "source", "lm"):
        text[column] = pd.Categorical(text[column], text[column].unique(), ordered=True)
    wide = text.pivot(index=keys, columns="lm", values="text").reset_index()
    wide = wide[[c for c in wide if c != "paper"] + ["paper"]].rename(columns=HEADINGS)
    legend = ", ".join(f"{SIGNS[s]} {s}" for s in used)
    show_table(wide, f"{stated} {legend}{f'; after ? the {of} that would decide it' if OPEN in used else ''}.")


def _tail(decide: float, unit: str) -> str:
    return "" if math.isnan(decide) else f"; {needed_text(decide, unit)}"


def _verdict_cell(row) -> str:
    """An interval with its signs; what cannot be compared still shows what was found."""
    signs = SIGNS[row.verdict] + (SIGNS[row.finding] if row.verdict == NOT else "")
    return f"{row.here} {signs}" + ("" if math.isnan(row.decide) else f" {rounded_up(row.decide):,}")


def show_beside(means: pd.DataFrame, caption: str, roles: Sequence[str] = (), data: str = "HH-RLHF") -> None:
    """The table of `with_published`; the caption says how many prompts there are, and what the paper's numbers are."""
    from ..statistics.with_paper import with_published  # it knows the baselines, and they need torch

    counts = ", ".join(f"{d} n = {n}" for d, n in means.groupby("domain", sort=False)["n"].first().items())
    paper = f"The paper's on {data}: {' / '.join(MODELS)}, RM_test × 100, with the source of the same role; the scales differ"
    show_table(with_published(means, roles, data), f"{caption} Mean [95 % interval]; prompts: {counts}. {paper}.")
