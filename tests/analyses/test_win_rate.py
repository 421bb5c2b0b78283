"""Win rates: what is compared, shares, rates and differences by hand, intervals against scipy, and what is said of a judge."""

import numpy as np
import pandas as pd
import pytest
from parts import Length, made
from scipy.stats import binomtest

from icdpo_nb.analyses.comparison import chosen_responses
from icdpo_nb.analyses.sampling import with_origin
from icdpo_nb.analyses.win_rate import (
    METHODS,
    agreement_sentence,
    comparisons,
    judged,
    order_sentence,
    preview,
    win_gains,
    win_means,
    win_shares,
)
from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import Preference, PreferenceSet
from icdpo_nb.judging.endpoint import Reply
from icdpo_nb.judging.judges import RewardJudge
from icdpo_nb.reports.figures import plot_win_rates
from icdpo_nb.statistics.estimates import estimate, totals_of
from icdpo_nb.statistics.findings import AGREES
from icdpo_nb.statistics.verdicts import Reported, claims, in_words

PROMPTS = [Preference(i, "all", f"Human: {i}?", "chosen", "no") for i in "pq"]
CANDIDATES = [
    with_origin(made([[1], [2]], [[0], [0]], [[0], [0]]), "lm"),
    with_origin(made([[3, 6, 9], [0, 3, 0]], [[1, 3, 2], [5, 6, 7]], [[9, 1, 1], [1, 2, 0]]), "lm", "a", "random"),
    with_origin(made([[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [3, 2, 1]], [[1, 1, 2], [2, 1, 1]]), "lm", "a", "R"),
]
CHOSEN = chosen_responses(pd.concat(CANDIDATES, ignore_index=True))


def preferences(**answers: str) -> dict[str, PreferenceSet]:
    return {"a": PreferenceSet("x", "local", "a", (), (), tuple(PROMPTS), {}, "0", answers)}


def test_what_is_compared():
    found = comparisons(CHOSEN, preferences(p="from the source", q="as well"), PROMPTS)
    assert list(found.columns) == ["lm", "source", "method", "domain", "prompt_id", "response", "prompt", "chosen"]
    assert found["method"].drop_duplicates().tolist() == ["Base", "ICL", *METHODS, "Source"]
    of = found.groupby("method")["response"].apply(list)
    assert of["Base"] == of["ICL"] == ["p0", "q0"]
    assert (of["ICDPO"], of["ICDPO + Ŝ"], of["ICDPO + ŜR"]) == (["p1", "q2"], ["p0", "q1"], ["p2", "q0"])
    assert of["Source"] == ["from the source", "as well"]
    assert found["prompt"].tolist() == ["Human: p?", "Human: q?"] * 6
    assert set(found["chosen"]) == {"chosen"}


def test_a_source_without_all_its_answers_is_left_out():
    assert "Source" not in set(comparisons(CHOSEN, preferences(p="half"), PROMPTS)["method"])
    assert set(comparisons(CHOSEN, preferences(p="x", q="y"), PROMPTS, beside=[])["method"]) == set(METHODS)
    with pytest.raises(InputError, match="beside has SFT, but may only have Base, ICL, Source"):
        comparisons(CHOSEN, preferences(), PROMPTS, beside=["ICL", "SFT"])


def verdicts(**of: str) -> pd.DataFrame:
    """What `judged` gives for methods with these verdicts on prompts 0, 1, …, each by its first letter.

    The first two prompts are harmless, the others helpful.
    """
    names = {name[0]: name for name in ("win", "tie", "lose", "unparsable", "failed")}
    orders = {"w": "AB", "t": "CC", "l": "BA", "u": ("unparsable", "A"), "f": ("A", "failed")}
    points = {"w": 1, "t": 0.5, "l": 0}
    rows = [
        ("m", "a", method, "harmless" if i < 2 else "helpful", str(i), *orders[v], names[v], points.get(v), "ours", "x")
        for method, letters in of.items()
        for i, v in enumerate(letters)
    ]
    columns = ["lm", "source", "method", "domain", "prompt_id", "forward", "backward", "verdict", "win", "response", "chosen"]
    return pd.DataFrame(rows, columns=columns)


def test_shares_and_rates_by_hand():
    """Harmless: a win and a defeat; helpful: two wins, a tie, a defeat, and two that count nowhere."""
    table = verdicts(ICDPO="wlwwtluf")
    macro = win_shares(table).iloc[0]
    assert [macro[v] for v in ("win", "tie", "lose")] == pytest.approx(
        [(1 / 2 + 2 / 4) / 2, (0 + 1 / 4) / 2, (1 / 2 + 1 / 4) / 2]
    )
    micro = win_shares(table, "micro").iloc[0]
    assert [micro[v] for v in ("win", "tie", "lose")] == pytest.approx([3 / 6, 1 / 6, 2 / 6])
    for totals, shares in (("macro", macro), ("micro", micro)):
        found = estimate(win_means(table, totals))
        assert found.mean == pytest.approx(shares["win"] + shares["tie"] / 2)
        assert found.n == 6


def test_the_interval_is_that_of_scipy():
    table = verdicts(ICDPO="wl" + "wwtlwwltwl" * 4)
    table = table[table["domain"] == "helpful"]
    points = table["win"].to_numpy()
    found = estimate(win_means(table[points != 0.5]))
    theirs = binomtest(int((points == 1).sum()), int((points != 0.5).sum())).proportion_ci()
    assert (found.low, found.high) == pytest.approx(tuple(theirs))
    ties = estimate(win_means(table))
    spread = 1.96 * points.std() / len(points) ** 0.5  # the normal approximation
    assert ties.low < points.mean() - spread < points.mean() + spread < ties.high, "ties count as half a win, on the safe side"


def test_twenty_wins_of_twenty_are_not_certain():
    found = estimate(win_means(verdicts(ICDPO="ww" + "w" * 20).query("domain == 'helpful'")))
    assert (found.mean, found.high, round(found.low, 2)) == (1, 1, 0.83)


def test_differences_are_paired_over_what_both_have():
    table = verdicts(**{"ICDPO": "lwltuwf", "ICDPO + Ŝ": "wwwlwuf"})
    found = estimate(win_gains(table, [("ICDPO + Ŝ", "ICDPO")]))
    harmless, helpful = np.mean([1, 0]), np.mean([1, -0.5])  # of prompts 0 and 1; 2 and 3
    assert found.mean == pytest.approx((harmless + helpful) / 2)
    assert found.n == 4
    sure = verdicts(**{"ICDPO": "lt" * 20, "ICDPO + Ŝ": "ww" * 20}).query("domain == 'helpful'")
    pair = ("ICDPO + Ŝ", "ICDPO")
    table = totals_of(claims(win_gains(sure, [pair]), 0.05, in_words({pair: Reported(words="outperforms", sign=1)})))
    assert table["verdict"].tolist() == [AGREES]
    assert table["paper"].tolist() == ["outperforms"]


class Stubborn:
    """A judge that always says the same."""

    name, note, fingerprint = "stubborn", "A test's judge.", "0"

    def __init__(self, verdict):
        self.verdict = verdict

    def ask(self, prompts, firsts, seconds):
        return [Reply(self.verdict, "so\nthere")] * len(prompts)


def test_judged_by_length():
    """Responses of two characters all lose against the chosen one, which has six; the source's 15 win."""
    bouts = comparisons(CHOSEN, preferences(p="from the source", q="chosen"), PROMPTS)
    found = judged(RewardJudge(Length()), bouts)
    assert found.groupby("method")["win"].mean().to_dict() == {"Base": 0, "ICL": 0, **dict.fromkeys(METHODS, 0), "Source": 0.75}
    assert preview(RewardJudge(Length()), bouts).endswith("costs nothing.")


@pytest.mark.parametrize("verdict", ["failed", "unparsable"])
def test_no_verdict_at_all_is_no_result(verdict):
    bouts = comparisons(CHOSEN, preferences(), PROMPTS)
    with pytest.raises(
        InputError, match=f"stubborn gave no verdict on any pair of lm, a, Base, all .*last {verdict}: 'so there'"
    ):
        judged(Stubborn(verdict), bouts)


def test_a_judge_of_places_is_found_out():
    found = judged(Stubborn("A"), comparisons(CHOSEN, preferences(), PROMPTS))
    assert set(found["verdict"]) == {"tie"}
    said = order_sentence(found)
    assert said == (
        "10 of 10 pairs have a verdict; the two orders agree on 0% of them; "
        "100% of the replies with a preference name the first text (unbiased: 50%)."
    )


def test_what_has_no_verdict_is_told():
    said = order_sentence(verdicts(ICDPO="wlwwtluff"))
    assert said.startswith("6 of 9 pairs have a verdict; 2 failed; 1 unparsable; the two orders agree on 100% of them; 50% of")
    assert said.endswith("the longer text wins 60% of the decided pairs of unequal length.")
    assert order_sentence(verdicts(ICDPO="tt")) == "2 of 2 pairs have a verdict; the two orders agree on 100% of them."


def test_agreement_with_another_judge():
    mine, other = verdicts(ICDPO="wlwtu", ICL="wllww"), verdicts(ICDPO="wtlww", ICL="llwww")
    said = agreement_sentence(mine, other)
    share = np.mean([(1 + 0) / 2, (0.5 + 1) / 2, 0, 1, 1])  # by prompt; the judge's tie and its missing verdict are left out
    assert said.startswith(f"The reward model prefers the same text in {share:.0%} of the pairs that the judge decides; ")
    assert "over the 2 bars is " in said
    assert "agreement cannot be measured" in agreement_sentence(verdicts(ICDPO="tt"), verdicts(ICDPO="ww"))


def test_bars_are_the_shares():
    table = pd.concat([verdicts(ICDPO="wlwwtl", Source="wwwwtl"), verdicts(ICDPO="llllll").assign(source="b")])
    grid = plot_win_rates(win_shares(table), win_means(table).query("domain == 'total'"))
    assert grid.shape == (2, 1)
    widths = [bar.get_width() for bar in grid[0, 0].patches]
    assert widths == pytest.approx(
        [*win_shares(table).iloc[1][["win", "tie", "lose"]], *win_shares(table).iloc[0][["win", "tie", "lose"]]]
    )
    assert len(grid[1, 0].patches) == 3, "a source may lack a method"
