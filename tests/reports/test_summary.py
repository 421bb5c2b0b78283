"""The summary card: words and marks of verdicts, plots with their text, hostile names, and the facts."""

import math

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from icdpo_nb.reports import summary
from icdpo_nb.reports.summary import axis_svg, intervals_svg, show_summary, ticks, verdict_marks


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["agrees"], ["✓agrees"]),
        (["agrees"] * 3, ["✓agrees"]),
        (["agrees", "agrees", "cannot tell"], ["✓agrees in 2 of 3", "?cannot tell in 1 of 3"]),
        (["contradicts", "cannot tell", "cannot tell"], ["?cannot tell in 2 of 3", "✗contradicts in 1 of 3"]),
        (["not comparable"], ["–not comparable"]),
    ],
)
def test_verdicts_of_several_models(verdicts, says):
    assert [BeautifulSoup(mark, "html.parser").get_text() for mark in verdict_marks(pd.Series(verdicts))] == says


@pytest.fixture
def card(monkeypatch):
    """`card(...)` is what `show_summary` displays, parsed."""

    def made(*args, **options) -> BeautifulSoup:
        shown = []
        monkeypatch.setattr(summary, "display", lambda html: shown.append(html.data))
        show_summary(*args, **options)
        return BeautifulSoup(shown[0], "html.parser")

    return made


ROW = {"claim": "B > A", "n": 40, "paper": "+1", "verdict": "agrees"}
CLAIMS = pd.DataFrame([
    ROW | {"lm": lm, "source": source, "mean": m, "low": m - 0.2, "high": m + 0.2, "here": f"{m}"}
    for source in ("raw", "<b>x</b>") for lm, m in (("small", 0.5), ("large", 1.0))
])  # fmt: skip


def test_a_row_for_each_claim_and_source(card):
    found = card(["B beats A.", "More."], {"test prompts": "40"}, CLAIMS, "Differences.", 0.25, {"added": "0 tokens"})
    assert found.find("p", class_="answer").get_text() == "B beats A."
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in found.find("tbody").find_all("tr")]
    assert rows[0] == ["B − A"]
    assert [row[0] for row in rows[1:]] == ["raw", "<b>x</b>"], "a name is text"
    assert rows[1][1] == "+0.50 to +1.00"
    assert rows[1][4] == "✓agrees"
    assert [dt.get_text() for dt in found.find_all("dt")] == ["test prompts", "added"]
    assert found.find("dl", class_="measured").get_text() == "added0 tokens"


def test_where_the_paper_reports_nothing_the_findings_stand(card):
    """A single row that it reports brings the paper's column back."""
    own = CLAIMS.assign(verdict="not comparable", paper="not reported", finding=["higher", "cannot tell", "lower", "lower"])
    found = card(["B beats A."], {}, own)
    heads = [th.get_text() for th in found.find("thead").find_all("th")]
    assert (heads[0], heads[-1], len(heads)) == ("demonstrations", "found", 4)
    ends = [row.find_all("td")[-1].get_text() for row in found.find("tbody").find_all("tr") if row.find("td")]
    assert ends == ["?cannot tell in 1 of 2▲higher in 1 of 2", "▼lower"]
    assert "not reported" not in found.get_text()
    own.loc[0, ["verdict", "paper"]] = ["agrees", "+1"]
    assert "the paper" in card(["B beats A."], {}, own).get_text()


def test_claims_in_different_units_have_axes_of_their_own(card):
    nll = CLAIMS.assign(claim="C > D", unit="nats", low=CLAIMS["low"] / 10, high=CLAIMS["high"] / 10, mean=CLAIMS["mean"] / 10)
    found = card(["Yes."], {}, pd.concat([CLAIMS.assign(unit="points"), nll], ignore_index=True))
    names = [row.th.get_text() for row in found.find_all("tr", class_="claim")]
    assert names == ["B − A, points", "C − D, nats"]
    labels = [row.svg["aria-label"] for row in found.find_all("tr", class_="claim")]
    assert [label.split(",")[0] for label in labels] == ["axis from −0.048 to 1.2", "axis from −0.0048 to 0.12"]
    assert found.find("thead").svg is None
    one = card(["Yes."], {}, CLAIMS.assign(unit="points"))
    assert one.find("thead").svg
    assert one.find("tr", class_="claim").th.get_text() == "B − A"


def test_a_plot_shows_what_its_text_says():
    """Values 0 to 10 over 190 pixels: by hand."""
    rows = [{"lm": "a", "here": "5 [0, 10]", "mean": 5.0, "low": 0.0, "high": 10.0}, {"lm": "b", "here": "2", "mean": 2.0,
             "low": math.nan, "high": math.nan}]  # fmt: skip
    svg = BeautifulSoup(intervals_svg(rows, (0.0, 10.0), math.nan, ["a", "b"]), "html.parser").svg
    assert svg["aria-label"] == "a: 5 [0, 10]; b: 2"
    line = svg.find("line", class_="ci")
    assert (float(line["x1"]), float(line["x2"])) == (0, 190)
    assert [float(c["cx"]) for c in svg.find_all("circle")] == [95, 38]
    assert len(svg.find_all("line", class_="ci")) == 1, "one without an interval is a dot"


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (-1.8, 2.5, [-1, 0, 1, 2]),
        (-0.06, 0.21, [0, 0.1, 0.2]),
        (-120, 700, [0, 200, 400, 600]),
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 0, [0]),
    ],
)
def test_ticks_are_round(low, high, values):
    assert ticks(low, high) == values


def test_the_axis_has_the_scale_of_the_plots():
    """Values -5 to 5 over 190 pixels: by hand."""
    svg = BeautifulSoup(axis_svg((-5.0, 5.0), 0.25), "html.parser").svg
    assert [(float(text["x"]), text.get_text()) for text in svg.find_all("text")] == [
        (19, "−4"), (57, "−2"), (95, "0"), (133, "2"), (171, "4"),
    ]  # fmt: skip
    assert float(svg.find("line", class_="zero")["x1"]) == 95
    assert svg["aria-label"] == (
        "axis from −5 to 5, with a line at 0 and a band of ± 0.25, the smallest difference that matters"
    )
    assert "band" not in axis_svg((-5.0, 5.0), math.nan)


def test_without_claims_the_answer_and_the_facts_remain(card):
    found = card(["Nothing was compared."], {"test prompts": "4"})
    assert found.find("table") is None
    assert found.find("dd").get_text() == "4"
