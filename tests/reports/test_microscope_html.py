"""The microscope's HTML: every token with its look, text that stays text, words, plots, folds, and the report's sanitiser."""

import html
import re

import nbformat
import numpy as np
import pytest
from browser import chromium, faults
from bs4 import BeautifulSoup
from conftest import save_tiny_lm
from hostile import HOSTILE
from IPython.core.formatters import DisplayFormatter
from parts import Fixed

import icdpo_nb as nb
from icdpo_nb.algorithm import selected
from icdpo_nb.baselines import base
from icdpo_nb.common.escaping import visible
from icdpo_nb.models.tokens import Response
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.reports import microscope, tables
from icdpo_nb.reports.html import to_html
from icdpo_nb.reports.microscope import LONG, STYLE, microscope_html, show_alarms
from icdpo_nb.scoring import SCORES


class Words:
    """A model whose tokens are given texts; the empty one ends a text."""

    def __init__(self, *texts):
        self.texts, self.eos_ids = texts, [texts.index("")] if "" in texts else []

    def pieces(self, ids):
        return [self.texts[i] for i in ids]


def made(lm, candidates, gaps, prompt="Human: Why?", protocol=RECOMMENDED, name="S"):
    """A choice whose candidates have these tokens, which add `gaps` to S."""
    responses = [Response("".join(lm.texts[i] for i in ids).strip(), tuple(ids), "length") for ids in candidates]
    logp = {"icl": [np.float32(g) - 9 for g in gaps], "base": [np.full(len(g), -9, np.float32) for g in gaps]}
    return selected(prompt, [], responses, logp, lm, name, protocol)


@pytest.fixture
def choice():
    """Two candidates: " Yes\\n no" with +3, 0, -0.6 and an end of text with +0.2; " no" with -3."""
    lm = Words(" Yes", "\n", " no", "")
    return made(lm, [[0, 1, 2, 3], [2]], [[3.0, 0.0, -0.6, 0.2], [-3.0]])


def parsed(selection, **options) -> BeautifulSoup:
    return BeautifulSoup(microscope_html(selection, **options).replace(STYLE, ""), "html.parser")


def test_every_token_has_its_look_and_its_numbers(choice):
    first, second = parsed(choice).find_all("div", class_="ms-candidate")
    tokens = first.select(".ms-text .t")
    assert [t["class"] for t in tokens] == [["t", "u4", "first"], ["t"], ["t", "d2"], ["t", "u1", "eos"]]
    assert [t.get_text() for t in tokens] == [" Yes", "\n", " no", "end of text"], "spaces and breaks can be copied"
    assert tokens[0]["title"] == "+3.00 nats; log π given [d⁺; x]: −6.00; log π given x: −9.00"
    assert tokens[0].find(class_="sp").get_text() == " "
    assert tokens[1].find(class_="nl").get_text() == "\n"
    assert "ms-chosen" in first["class"]
    assert "ms-chosen" not in second["class"]
    assert first.find(class_="ms-head").get_text() == (
        "✓ chosen Candidate 1 of 2 S = +2.60 nats 4 scored tokens · cut at the length limit"
    )


def test_the_same_in_words_and_numbers(choice):
    """Without colour, and without style at all."""
    rows = [[c.get_text() for c in tr.find_all(["th", "td"])] for tr in parsed(choice).find("table").find_all("tr")]
    assert rows == [
        ["word", "adds", "log π given [d⁺; x]", "log π given x", "sum so far"],
        ["Yes", "+3.00", "−6.00", "−9.00", "+3.00"],
        ["↵", "+0.00", "−9.00", "−9.00", "+3.00"],
        ["no", "−0.60", "−9.60", "−9.00", "+2.40"],
        ["end of text", "+0.20", "−8.80", "−9.00", "+2.60"],
    ]


def test_the_running_sums_have_the_same_axes(choice):
    """By hand: 4 tokens over 172 pixels, -3 to 3 over 38."""
    one, two = parsed(choice).find_all("svg")
    points = [[tuple(map(float, p.split(","))) for p in svg.polyline["points"].split()] for svg in (one, two)]
    assert [x for x, _ in points[0]] == [3, 46, 89, 132, 175]
    assert points[0][0] == points[1][0] == (3, 23)
    assert points[0][1][1] == 4
    assert points[1][1] == (46, 42)
    assert one["aria-label"] == (
        "Running sum over 4 tokens: +3.00 after the first, +3.00 halfway, +2.60 at the end; lowest +0.00, highest +3.00 nats."
    )


def test_alarms_stand_below(choice):
    held = parsed(choice).find(class_="ms-alarms")
    assert [p.get_text() for p in held.find_all("p")] == ["! cut response: the chosen response was cut at the length limit."]
    lm = Words("a", "<b>", "c")
    turned = parsed(made(lm, [[0, 1], [2, 0]], [[0.0, 5.0], [2.0, 1.0]])).find(class_="ms-alarms")
    assert "token 2, “<b>” (+5.00); candidate 2 instead" in turned.get_text()
    alone = parsed(made(lm, [[0]], [[1.0]])).find(class_="ms-alarms")
    assert "the score decides nothing" in alone.get_text()


def test_characters_of_several_tokens_are_shown_whole():
    lm = Words("x", "\u200d", "👩", "🔬")
    shown = [t.get_text() for t in parsed(made(lm, [[0, 2, 1, 3]], [[0.0, 1.0, 1.0, 1.0]])).select(".ms-text .t")]
    assert shown == ["x", "👩\u200d🔬"]
    assert parsed(made(lm, [[0, 2, 1, 3]], [[0.0, 1.0, 1.0, 1.0]])).select(".ms-text .t")[1]["class"] == ["t", "u4"], "3 nats"


def test_long_responses_and_more_candidates_fold():
    lm = Words("a ", "b ")
    shown = parsed(made(lm, [[0, 1] * LONG, *[[0]] * 5], [[0.1] * (2 * LONG), *[[0.0]] * 5]))
    summaries = [s.get_text() for s in shown.find_all("summary")]
    assert f"{LONG} more tokens" in summaries
    assert "3 more candidates" in summaries
    assert "".join(t.get_text() for t in shown.find(class_="ms-chosen").select(".ms-text .t")) == "a b " * LONG


def test_a_mean_score_has_the_colours_of_the_sum():
    selection = made(Words("a", "b"), [[0, 1], [1]], [[3.0, 0.0], [0.0]], protocol=RECOMMENDED.but(reduction="mean"))
    first = parsed(selection).find(class_="ms-chosen")
    assert "S = +1.50" in first.get_text()
    assert first.select(".ms-text .t")[0]["class"] == ["t", "u4", "first"]
    assert first.select(".ms-text .t")[0]["title"].startswith("+1.50 nats")


def test_empty_responses():
    shown = parsed(made(Words("a", "", " "), [[], [2], [0, 1]], [[], [1.0], [0.5, 0.1]]))
    assert [c.find(class_="ms-name").get_text() for c in shown.find_all(class_="ms-candidate")][0] == "Candidate 3 of 3"
    assert shown.get_text().count("an empty response, never preferred") == 2
    assert len(shown.find_all("table")) == len(shown.find_all("svg")) == 2, "none of a response without tokens"
    assert parsed(made(Words("a"), [[], []], [[], []])).find(class_="ms-alarms").get_text().startswith("Fewer than two")


def test_jupyterlab_shows_it_and_a_script_its_text(pairs, tiny_lm):
    protocol = RECOMMENDED.but(max_new_tokens=5)
    found = nb.icdpo(pairs[0].prompt, Fixed(pairs), tiny_lm, "S", protocol)
    data, _ = DisplayFormatter().format(found)
    assert data["text/html"].startswith(STYLE)
    assert data["text/plain"].startswith("Selection(")
    alone = DisplayFormatter().format(base(pairs[0].prompt, None, tiny_lm, protocol))[0]
    assert list(alone) == ["text/plain"], "a baseline has no score of tokens"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """What is shown of a model that says nothing but the hostile texts, and the report that shows it."""
    folder = tmp_path_factory.mktemp("hostile")
    lm = nb.load_lm(str(save_tiny_lm(folder / "lm", positions=16384, says=HOSTILE)))
    demos = [nb.Preference(str(i), "d", f"Human: {t[:300]}", t[:300], t[:300]) for i, t in enumerate(HOSTILE)]
    protocol = RECOMMENDED.but(max_new_tokens=12, n_candidates=4, stop="line_start")
    shown = microscope_html(nb.icdpo(f"Human: {HOSTILE[0]}", Fixed(demos), lm, "S_hat", protocol), HOSTILE[2])
    output = nbformat.v4.new_output("execute_result", {"text/html": shown, "text/plain": "x"})
    cells = [nbformat.v4.new_markdown_cell("# Why?\n\n## Results"), nbformat.v4.new_code_cell("x", outputs=[output])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "n.ipynb")
    page = folder / "report.html"
    page.write_text(to_html(folder / "n.ipynb", "t", "f"))
    return shown, page


def test_hostile_texts_are_text(hostile):
    shown, page = hostile
    for text in (shown.replace(STYLE, ""), page.read_text().partition("<main>")[2]):
        tags = {t.name for t in BeautifulSoup(text, "html.parser").find_all()}
        assert not tags & {"script", "img", "iframe", "meta", "link", "style", "b", "base"}
        assert visible(text) == text, "no hidden character"
        assert len(text) < 200_000
        read = html.unescape(re.sub("<[^>]*>", "", text))
        for part in ("<script>document.title='pwned'", "⟨U+202E⟩gnp.exe", "</pre></div>", "␛[31mred", "{{ 7 * 7 }}"):
            assert part in read


def test_a_report_keeps_the_exhibit_as_it_is(hostile):
    """The style of the cell goes, since the page has it; all else passes the sanitiser, and the page is valid."""
    shown, page = hostile
    html5lib = pytest.importorskip("bleach._vendor.html5lib")
    text = page.read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    inside = BeautifulSoup(text.partition("<main>")[2], "html.parser")
    frame = inside.find("figure", id="figure-1")
    assert frame.find("figcaption").get_text().startswith("Figure 1. [click me](javascript:")
    before = BeautifulSoup(shown.replace(STYLE, ""), "html.parser")
    for selector in (".t", "polyline", "svg", "tr", "details"):
        assert len(frame.select(selector)) == len(before.select(selector)) > 0
    assert [t.get("title") for t in frame.select(".t")] == [t.get("title") for t in before.select(".t")]
    assert [s["points"] for s in frame.select("polyline")] == [s["points"] for s in before.select("polyline")]


def test_a_browser_finds_no_fault(hostile):
    """At the width of a phone and of a screen, in light and dark, for the keyboard and for a screen reader."""
    with chromium() as (opened, asked):
        assert faults(opened(hostile[1])) == []
    assert asked == []


def test_the_table_of_alarms(choice, monkeypatch):
    shown = []
    monkeypatch.setattr(tables, "display", lambda data: shown.append(data.data))
    show_alarms([choice] * 20)
    table = BeautifulSoup(shown[0], "html.parser")
    rows = {tr.td.get_text(): [td.get_text() for td in tr.find_all("td")][2:] for tr in table.tbody.find_all("tr")}
    assert rows["one token"] == ["0", "0% [0%, 17%]"]
    assert rows["cut response"] == rows["any"] == ["20", "100% [83%, 100%]"]
    assert "n = 20 prompts" in table.caption.get_text()
    assert "End-of-text tokens are not scored here." in table.caption.get_text()


def test_every_score_has_its_sign_and_meaning():
    assert microscope.SIGNS.keys() == microscope.MEANING.keys() == microscope.USED.keys() == SCORES.keys()
