"""Answers as sentences: one setting, two, many; mixed findings; what the paper reports and what it does not."""

import pandas as pd
import pytest

from icdpo_nb.statistics.answers import agreement_with_paper, answer_sentences


def claims(findings, means=None, verdicts=None, claim="ICDPO > ICL") -> pd.DataFrame:
    """Rows of a table of claims with these findings."""
    means = means or [0.5] * len(findings)
    return pd.DataFrame(
        {"claim": claim, "finding": findings, "mean": means, "verdict": verdicts or ["not comparable"] * len(findings)}
    )


@pytest.mark.parametrize(
    ("findings", "means", "says"),
    [
        (["higher"], [0.5], "ICDPO beats ICL, by 0.50 points."),
        (["higher"] * 2, [0.5, 0.25], "ICDPO beats ICL in both settings, by 0.25 to 0.50 points."),
        (["higher"] * 3, [0.5] * 3, "ICDPO beats ICL in all 3 settings, by 0.50 points."),
        (["lower"], [-0.5], "ICDPO does worse than ICL, by 0.50 points."),
        (
            ["higher"] * 2 + ["cannot tell"],
            [0.5, 0.75, 0.1],
            "ICDPO beats ICL in 2 of 3 settings, by 0.50 to 0.75 points (undecided in 1).",
        ),
        (
            ["too small to matter"] * 3 + ["cannot tell", "higher"],
            None,
            "ICDPO differs too little to matter from ICL in 3 of 5 settings (higher in 1, undecided in 1).",
        ),
        (["cannot tell"] * 2, None, "ICDPO cannot be told apart from ICL in both settings."),
        (["nothing changed"], None, "ICDPO changes nothing against ICL."),
        (["higher", "lower"], [0.5, -0.5], "ICDPO beats ICL in 1 of 2 settings, by 0.50 points (lower in 1)."),
    ],
)
def test_a_claim_as_a_sentence(findings, means, says):
    assert answer_sentences(claims(findings, means)) == [says]


def test_a_sentence_for_each_claim_in_their_order():
    table = pd.concat([claims(["higher"], claim="b > A"), claims(["lower"], [-1.0], claim="A > C")])
    assert answer_sentences(table, "% of wins", 1) == ["B beats A, by 0.5 % of wins.", "A does worse than C, by 1.0 % of wins."]


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["not comparable"], "The paper reports none of these comparisons for the same role."),
        (["agrees", "not comparable"], "The paper reports one of these comparisons: it agrees."),
        (["agrees"] * 2, "Of 2 comparisons that the paper reports for the same role, 2 agree."),
        (
            ["agrees"] * 2 + ["contradicts", "cannot tell"],
            "Of 4 comparisons that the paper reports for the same role, 2 agree, 1 contradicts it and 1 cannot be decided.",
        ),
        (
            ["contradicts", "too small to matter", "too small to matter"],
            "Of 3 comparisons that the paper reports for the same role, 1 contradicts it and 2 are too small to matter.",
        ),
    ],
)
def test_what_the_paper_reports(verdicts, says):
    assert agreement_with_paper(claims(["higher"] * len(verdicts), verdicts=verdicts)) == says
