"""The score microscope: every token of a prompt's candidates with what it adds to the score, as HTML without scripts.

Colour is never alone: a bar above a token means that it raises the score, a bar below that it lowers it, and a table in words
stands below each response. The rules of `template/microscope.css` come with the HTML, for JupyterLab; a report has its own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from ..algorithm import Selection
from ..analyses.microscope import ALARMS, alarm_table, alarms, alternatives, contributions, token_table
from ..common.escaping import escaped
from .tables import show_table

CSS = (Path(__file__).parent / "template" / "microscope.css").read_text(encoding="utf-8")
STYLE = f"<style>{CSS}</style>"
LEVELS = (0.1, 0.5, 1.0, 2.0)  # nats: from each on, a token's colour is stronger and its bar thicker
TOP, LONG = 3, 160  # candidates shown, and tokens of each; the others are folded
PIECE = 200  # characters shown of one token
WIDTH, HEIGHT = 180, 46  # pixels of the plot of a running sum
SIGNS = {"S": "S", "S_hat": "Ŝ", "ICL": "log π*"}
MEANING = {
    "S": "S = log π(y | [d; x]) − log π(y | x), so it is how much likelier the demonstrations make the token",
    "S_hat": "Ŝ = log π(y | [d⁺; x]) − log π(y | [d⁻; x]), so it is how much likelier chosen demonstrations make the token "
    "than rejected ones",
    "ICL": "log π(y | [d; x]), so it is the token's log-probability",
}
USED = {"S": ("icl", "base"), "S_hat": ("icl", "icl_rejected"), "ICL": ("icl",)}  # contexts of a score
CONTEXTS = {"icl": "log π given [d⁺; x]", "base": "log π given x", "icl_rejected": "log π given [d⁻; x]"}
ENDINGS = {"eos": "end of text", "stop": "stop string", "length": "cut at the length limit", "given": "given text"}


def show_microscope(selection: Selection, caption: str = "", top: int = TOP) -> None:
    """Show the microscope of one choice, with a caption that explains its signs; `caption` stands before that."""
    display(HTML(microscope_html(selection, caption, top)))


def show_alarms(chosen: Sequence[Selection], caption: str = "") -> None:
    """Show how often a part of the responses alone decided the choice, over the prompts of a run."""
    table = alarm_table(chosen)
    n = int(table["n"].iloc[0])
    limits = [f"{r.share:.0%} [{r.low:.0%}, {r.high:.0%}]" if n else "–" for r in table.itertuples()]
    shown = table[["alarm", "meaning", "prompts"]].assign(**{"share [95 % interval]": limits})
    note = "" if any(s.protocol.eos_scored != "never" for s in chosen) else " End-of-text tokens are not scored here."
    about = f"Choices by {_sign(chosen[0])} that one part of the responses alone decides" if chosen else "No choices"
    lead = "The first alarm holds whenever the lead is smaller than what one token adds."
    show_table(shown, f"{caption or about}; n = {n} prompts with two or more candidates that are not empty. {lead}{note}")


def microscope_html(selection: Selection, caption: str = "", top: int = TOP) -> str:
    """The microscope of one choice as HTML: the best `top` candidates, the others folded."""
    table = token_table(selection)
    order = np.argsort(-selection.scores, kind="stable")
    scale = _scale(table)
    shown = [_candidate(selection, table[table["candidate_id"] == j], int(j), scale) for j in order]
    more = "".join(shown[top:])
    if more:
        left = len(shown) - top
        more = f"<details><summary>{left} more candidate{'s' * (left > 1)}</summary>{more}</details>"
    asked = selection.prompt.rpartition("Human:")[2].strip() or selection.prompt
    prompt = f'<div class="ms-prompt"><span class="ms-name">Prompt</span> {escaped(asked, 600)}</div>'
    body = f"{prompt}{''.join(shown[:top])}{more}{_alarm_note(selection, table)}"
    return f'{STYLE}<div class="microscope">{_legend()}{body}<p class="caption">{_caption(selection, caption)}</p></div>'


def _sign(selection: Selection) -> str:
    return SIGNS.get(selection.name, selection.name)


def _used(selection: Selection) -> Sequence[str]:
    """The contexts that the score compares; all for a score that is not known here."""
    return USED.get(selection.name, tuple(selection.token_logp))


def _caption(selection: Selection, before: str) -> str:
    """What the colours, bars, boxes and plots mean, so that the exhibit can be read alone."""
    sign = _sign(selection)
    of = MEANING.get(selection.name, f"{selection.name} is a sum over tokens")
    mean = ", divided by the number of tokens" if selection.protocol.reduction == "mean" else ""
    text = [
        before,
        f"What each token of the candidates adds to the score, in nats. {of}.",
        "Blue with a bar above: the token raises the score; orange with a bar below: it lowers it; colour and bar grow "
        f"from {LEVELS[0]:g} to {LEVELS[-1]:g} nats.",
        f"The curve is the running sum over the response{mean}, which ends at {sign}; all have the same axes, and the dashed "
        "line is 0. ✓ marks the chosen response, the one with the largest score; the others follow in the order of theirs. "
        "Dots stand for spaces, ↵ for line breaks.",
    ]
    return escaped(" ".join(filter(None, text)))


def _legend() -> str:
    """Samples of every colour and bar with the nats from which on they are used."""
    raised = "".join(f'<span class="t u{k}">+{v:g}</span> ' for k, v in enumerate(LEVELS, 1))
    lowered = "".join(f'<span class="t d{k}">−{v:g}</span> ' for k, v in reversed([*enumerate(LEVELS, 1)]))
    sides = f'<span class="ms-side">lowers {lowered}</span> <span class="ms-side">{raised}raises, from so many nats</span>'
    return f'<p class="ms-legend">{sides} <span class="t first">first token</span> <span class="t eos">end of text</span></p>'


def _candidate(selection: Selection, rows: pd.DataFrame, j: int, scale: tuple[int, float, float]) -> str:
    """One response: its score, its tokens, the plot of the running sum, and the table of its words."""
    y, score, best = selection.responses[j], selection.scores[j], j == int(np.argmax(selection.scores))
    n = len(selection.responses)
    value = f"{_sign(selection)} = {_signed(score)} nats" if np.isfinite(score) else "an empty response, never preferred"
    mark = '<span class="ms-mark">✓ chosen</span> ' if best else ""
    facts = f"{len(rows)} scored token{'s' * (len(rows) != 1)} · {ENDINGS.get(y.finish, y.finish)}"
    head = f'{mark}<span class="ms-name">Candidate {j + 1} of {n}</span> <span class="ms-score">{value}</span> '
    head += f'<span class="ms-facts">{escaped(facts)}</span>'
    spans = [*_spans(rows, selection)]
    folded = ""
    if len(spans) > LONG:
        rest = f'<div class="ms-text">{"".join(spans[LONG:])}</div>'
        folded = f"<details><summary>{len(spans) - LONG} more tokens</summary>{rest}</details>"
    text = f'<div class="ms-text">{"".join(spans[:LONG]) or "(no tokens)"}</div>'
    plot, words = (running_svg(rows, scale), _words(rows, _used(selection))) if len(rows) else ("", "")
    body = f'<div class="ms-body"><div>{text}{folded}</div>{plot}{words}</div>'
    return f'<div class="ms-candidate{" ms-chosen" * best}"><p class="ms-head">{head}</p>{body}</div>'


def _spans(rows: pd.DataFrame, selection: Selection) -> Iterator[str]:
    """A span for each token, or for the tokens that spell one character together."""
    factor = rows.shape[0] if selection.protocol.reduction == "mean" else 1  # colours are those of the sum
    for _, part in rows.groupby("character", sort=False):
        role, text, value = part["role"].iloc[0], "".join(part["text"]), part["contribution"].sum()
        logp = {c: part[f"logp_{c}"].sum() for c in _used(selection)}
        title = f"{_signed(value)} nats; " + "; ".join(f"{CONTEXTS[c]}: {_signed(v)}" for c, v in logp.items())
        shown = "end of text" if role == "eos" else _marked(text) if text else "∅"
        yield f'<span class="{_look(value * factor, role)}" title="{escaped(title)}">{shown}</span>'


def _look(value: float, role: str) -> str:
    """The classes of a token: u1 to u4 raise the score, d1 to d4 lower it."""
    level = sum(bool(abs(value) >= v) for v in LEVELS)
    return " ".join(["t", *[f"{'u' if value > 0 else 'd'}{level}"] * (level > 0), *[role] * (role != "middle")])


def _marked(text: str) -> str:
    """A token's text, escaped; a sign is drawn over its spaces and line breaks, which stay what they are when copied."""
    signs = {" ": '<span class="sp"> </span>', "\n": '<span class="nl">\n</span>', "\t": '<span class="tab">\t</span>'}
    return "".join(signs.get(c, c) for c in escaped(text, PIECE))


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _scale(table: pd.DataFrame) -> tuple[int, float, float]:
    """The axes of all plots: the most tokens of a response, and the least and the largest running sum, 0 included."""
    longest = int(table["position"].max() + 1) if len(table) else 1
    return longest, min(0.0, table["running"].min()), max(0.0, table["running"].max())


def running_svg(rows: pd.DataFrame, scale: tuple[int, float, float]) -> str:
    """The running sum as an inline SVG, from 0 before the first token, with the same in words as its text alternative."""
    longest, low, high = scale
    sums = np.array([0.0, *rows["running"]])
    x = 3 + np.arange(len(sums)) / longest * (WIDTH - 8)
    y = 4 + (high - sums) / (high - low or 1) * (HEIGHT - 8)
    zero = y[0]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    shapes = f'<line class="ms-zero" x1="0" x2="{WIDTH}" y1="{zero:.1f}" y2="{zero:.1f}"></line>'
    shapes += f'<polyline class="ms-line" points="{points}"></polyline>'
    shapes += f'<circle class="ms-end" cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="3"></circle>'
    half = rows["running"].iloc[(len(rows) - 1) // 2]
    says = (
        f"Running sum over {len(rows)} tokens: {_signed(sums[1])} after the first, {_signed(half)} halfway, "
        f"{_signed(sums[-1])} at the end; lowest {_signed(sums.min())}, highest {_signed(sums.max())} nats."
    )
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg class="running" {size} role="img" aria-label="{escaped(says)}">{shapes}</svg>'


def _words(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """The same in words and numbers: a folded table with a row for each word; `names` are the contexts of the score."""
    head = "".join(f'<th class="number">{name}</th>' for name in ("adds", *(CONTEXTS[c] for c in names), "sum so far"))
    body = ""
    for _, part in rows.groupby("word", sort=False):
        text = "end of text" if part["role"].iloc[0] == "eos" else "".join(part["text"])
        values = [part["contribution"].sum(), *(part[f"logp_{c}"].sum() for c in names), part["running"].iloc[-1]]
        cells = "".join(f'<td class="number">{_signed(v)}</td>' for v in values)
        word = escaped(text.strip(" ").replace("\n", "↵") or "·" * len(text) or "∅", PIECE)
        body += f'<tr><th scope="row">{word}</th>{cells}</tr>'
    table = f"<table><thead><tr><th>word</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<details class="ms-words"><summary>Word by word, in nats</summary><div class="scroll">{table}</div></details>'


def _alarm_note(selection: Selection, table: pd.DataFrame) -> str:
    """Which alarms hold for this choice, with the candidate that would have been chosen instead."""
    if np.isfinite(selection.scores).sum() < 2:
        return '<div class="ms-alarms"><p>Fewer than two candidates are not empty, so the score decides nothing.</p></div>'
    instead, best = alternatives(selection), int(np.argmax(selection.scores))
    items = ""
    for name in (name for name, holds in alarms(selection).items() if holds):
        said = ALARMS[name]
        if name == "one token":
            row = table[table["candidate_id"] == best].iloc[int(np.argmax(contributions(selection)[best]))]
            what = "the end of text" if row["role"] == "eos" else f"“{row['text'].strip()}”"
            said += f": token {row['position'] + 1}, {what} ({_signed(row['contribution'])})"
        if name in instead:
            said += f"; candidate {instead[name] + 1} instead"
        items += f'<p><span class="ms-name">! {name}</span>: {escaped(said, PIECE * 4)}.</p>'
    none = "<p>No alarm: neither one token, the first, the end of text, the length nor a cut alone decides this choice.</p>"
    return f'<div class="ms-alarms">{items or none}</div>'
