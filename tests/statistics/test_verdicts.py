"""Verdicts: every case by hand, what the paper says for the same role, and sentences with their edge cases."""

import math

import numpy as np
import pandas as pd
import pytest

from icdpo_nb.reports.tables import show_claims
from icdpo_nb.statistics.estimates import TOTAL, method_gains
from icdpo_nb.statistics.findings import AGREES, CONTRADICTS, HIGHER, LOWER, NOT, OPEN, SAME, SMALL, needed_text
from icdpo_nb.statistics.intervals import Estimate, mean_ci
from icdpo_nb.statistics.verdicts import (
    Reported,
    claims,
    family_sentence,
    finding,
    icdpo_paper,
    in_words,
    n_to_decide,
    verdict,
)

NONE = float("nan")


def interval(low: float, high: float, n: int = 100) -> Estimate:
    return Estimate((low + high) / 2, low, high, n)


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        (interval(0.1, 0.9), HIGHER),
        (interval(-0.9, -0.1), LOWER),
        (interval(0.05, 0.25), SMALL),  # a difference is shown, and it is too small to matter
        (interval(-0.2, 0.29), SMALL),
        (interval(-0.2, 0.31), OPEN),
        (interval(-0.5, 0.1), OPEN),
        (Estimate(2.0, NONE, NONE, 4), OPEN),
    ],
)
def test_what_is_found_here(ours, found):
    assert finding(ours, margin=0.3) == found


def test_nothing_changed():
    """All responses the same; or nearly all, and no difference shown; a shown difference stands whatever the share."""
    assert finding(Estimate(0.0, NONE, NONE, 40), 0.3, same=1.0) == SAME
    assert finding(interval(-0.01, 0.02), 0.3, same=0.96) == SAME
    assert finding(interval(0.2, 0.5), 0.3, same=0.96) == HIGHER
    assert finding(interval(-0.01, 0.02), 0.3, same=0.9) == SMALL


@pytest.mark.parametrize(
    ("theirs", "verdicts"),
    [
        (Reported({"a": 23.1, "b": 6.0, "c": 2.4}), (AGREES, CONTRADICTS, SMALL, OPEN)),
        (Reported({"a": -0.7, "b": -5.3}), (CONTRADICTS, AGREES, SMALL, OPEN)),
        (Reported({"a": -0.7, "b": 5.3}), (NOT, NOT, NOT, NOT)),  # the paper's models differ
        (Reported(words="clearly", sign=1), (AGREES, CONTRADICTS, SMALL, OPEN)),
        (Reported(words="equal or higher", sign=1, at_least=True), (AGREES, CONTRADICTS, AGREES, OPEN)),
        (Reported(), (NOT, NOT, NOT, NOT)),
    ],
)
def test_held_against_what_the_paper_says(theirs, verdicts):
    ours = (interval(0.1, 0.9), interval(-0.9, -0.1), interval(-0.2, 0.1), interval(-0.5, 0.1))
    assert tuple(verdict(e, 0.3, theirs) for e in ours) == verdicts


def test_equal_or_higher_excludes_a_loss_of_the_margin():
    theirs = Reported(words="equal or higher", sign=1, at_least=True)
    assert verdict(interval(-0.25, 0.9), 0.3, theirs) == AGREES
    assert verdict(interval(-0.35, 0.9), 0.3, theirs) == OPEN


def test_the_paper_is_read_for_the_same_role():
    """Table 2, + ŜR minus + Ŝ: raw −0.72, −5.33, −4.78; LLaMA2-chat +23.08, +5.97, +2.43; GPT-3.5 +18.33, +6.66, +4.90."""
    paper = icdpo_paper(roles=["mine=GPT-3.5", "other=none"])
    pair = ("ICDPO + ŜR", "ICDPO + Ŝ")
    assert paper(*pair, "raw", TOTAL).gains == {"LLaMA": -0.72, "LLaMA2": -5.33, "Mistral": -4.78}
    assert paper(*pair, "raw", TOTAL).expected == -1
    assert paper(*pair, "teacher-a", TOTAL).text == "LLaMA +23.1, LLaMA2 +6.0, Mistral +2.4"
    assert paper(*pair, "teacher-b", TOTAL) == paper(*pair, "mine", TOTAL)
    assert paper(*pair, "teacher-b", "harmless").gains["LLaMA"] == pytest.approx(82.21 - 64.03)
    assert paper(*pair, "other", TOTAL).text == "no source of the paper corresponds to other"
    assert paper("ICDPO", "RM-BoN", "raw", TOTAL).expected == 0
    assert paper("ICDPO", "RM-BoN", "teacher-a", TOTAL).expected == 1
    assert icdpo_paper("SyntheticGPT")(*pair, "teacher-b", TOTAL).text == "not reported"


def test_words_stand_for_the_sources_that_the_paper_has():
    said = in_words({("A", "B"): Reported(words="higher", sign=1)}, ("LLaMA2-chat",))
    assert said("A", "B", "teacher-a", TOTAL).expected == 1
    assert said("A", "B", "raw", TOTAL).expected == 0
    assert said("A", "C", "teacher-a", TOTAL).expected == 0


def test_prompts_that_would_decide():
    """Of 100 prompts and reach 0.4: a difference of 0.3 would be shown by 100 (0.4 / 0.3 * 2.8016 / 1.9600)² prompts."""
    assert n_to_decide(Estimate(0.3, -0.1, 0.7, 100), 0.3) == math.ceil(
        100 * (0.4 / 0.3 * (1.959964 + 0.841621) / 1.959964) ** 2
    )
    assert n_to_decide(Estimate(0.0, -0.4, 0.4, 100), 0.3) == n_to_decide(Estimate(0.3, -0.1, 0.7, 100), 0.3)
    assert math.isnan(n_to_decide(Estimate(0.3, NONE, NONE, 3), 0.3))
    assert needed_text(1234) == "about 1,300 prompts would decide it"
    assert [needed_text(n)[6:8].strip() for n in (7, 70)] == ["7", "70"]
    assert needed_text(NONE) == ""


@pytest.mark.slow
def test_so_many_prompts_decide_four_times_in_five():
    """Draws with a true difference of 0.5 and spread 2: the number that 60 prompts ask for decides in about 80 %."""
    rng, decided, margin = np.random.default_rng(0), [], 0.5
    for _ in range(80):
        first = mean_ci([rng.normal(0.5, 2, 60)])
        ideal = Estimate(0.5, 0.5 - (first.high - first.low) / 2, 0.5 + (first.high - first.low) / 2, 60)
        more = mean_ci([rng.normal(0.5, 2, int(n_to_decide(ideal, margin)))])
        decided.append(finding(more, margin) != OPEN)
    assert 0.68 < np.mean(decided) < 0.92


@pytest.fixture
def gains() -> pd.DataFrame:
    """ICL above Base by 1, ICDPO as ICL; for two sources, two domains of 40 prompts."""
    rng = np.random.default_rng(1)
    rows = [
        ("m", source, method, domain, f"{domain}{i}", value)
        for source in ("raw", "teacher-a")
        for domain in ("harmless", "helpful")
        for i in range(40)
        for base, more in [rng.normal(size=2)]
        for method, value in (("Base", base), ("ICL", base + 1 + more), ("ICDPO", base + 1 + more + rng.normal() / 10))
    ]
    values = pd.DataFrame(rows, columns=["lm", "source", "method", "domain", "prompt_id", "reward"])
    return method_gains(values, [("ICL", "Base"), ("ICDPO", "ICL")])


def test_claims_hold_each_source_and_domain_against_its_own_numbers(gains):
    table = claims(gains, 0.3, icdpo_paper())
    assert len(table) == 2 * 2 * 3
    a = table[(table["source"] == "teacher-a") & (table["claim"] == "ICL > Base")].set_index("domain")
    assert a.loc[TOTAL, "verdict"] == AGREES
    assert a.loc[TOTAL, "paper"] == "LLaMA +54.6, LLaMA2 +87.7, Mistral +75.5"
    assert a.loc["helpful", "paper"] == "LLaMA +51.4, LLaMA2 +84.4, Mistral +65.9"
    raw = table[(table["source"] == "raw") & (table["claim"] == "ICL > Base")].set_index("domain")
    assert (raw.loc[TOTAL, "verdict"], raw.loc[TOTAL, "finding"]) == (NOT, HIGHER), "the paper has no ICL with raw"
    small = table[(table["claim"] == "ICDPO > ICL") & (table["source"] == "teacher-a")].set_index("domain")
    assert small.loc[TOTAL, "verdict"] == SMALL
    assert table.loc[table["domain"] == TOTAL, "holm"].notna().all()
    assert table.loc[table["domain"] != TOTAL, "holm"].isna().all()


def test_what_agrees_asks_for_no_more_prompts():
    """Equal or higher, with an interval that holds 0 and excludes a loss of the margin."""
    row = {"lm": "m", "source": "raw", "method": "A", "baseline": "B", "domain": TOTAL, "mean": 0.2, "low": -0.1, "high": 0.5}
    said = in_words({("A", "B"): Reported(words="equal or higher", sign=1, at_least=True)})
    table = claims(pd.DataFrame([row | {"n": 100, "p": 0.2}]), 0.3, said)
    assert (table["verdict"][0], table["finding"][0]) == (AGREES, OPEN)
    assert math.isnan(table["decide"][0])


def test_one_domain_alone_is_the_papers_total(gains):
    alone = gains[gains["domain"] == "helpful"].assign(domain="instructions")
    assert claims(alone, 0.3, icdpo_paper())["paper"].iloc[2] == "LLaMA +54.6, LLaMA2 +87.7, Mistral +75.5"


def shown(table: pd.DataFrame, monkeypatch) -> tuple[pd.DataFrame, str]:
    found = []
    monkeypatch.setattr("icdpo_nb.reports.tables.show_table", lambda t, caption: found.append((t, caption)))
    show_claims(table, "One.", 0.3)
    return found[0]


def test_claims_of_several_models_stand_side_by_side(gains, monkeypatch):
    table = claims(gains, 0.3, icdpo_paper())
    table = table[table["domain"] == TOTAL]
    one, caption = shown(table, monkeypatch)
    assert list(one) == ["claim", "demonstrations", "here [95 % interval]", "found here", "paper", "verdict"]
    assert caption == "One. The smallest difference that matters: 0.3 points."
    another = table.assign(lm="another", verdict=[NOT, OPEN, OPEN, OPEN], finding=OPEN, decide=1234.0)
    wide, caption = shown(pd.concat([table, another]), monkeypatch)
    assert list(wide) == ["claim", "demonstrations", "m", "another", "paper"]
    assert [text.rpartition("] ")[2] for text in wide["m"]] == ["–▲", "✓", "–≈", "≈"]
    assert [text.rpartition("] ")[2] for text in wide["another"]] == ["–? 1,300", *["? 1,300"] * 3]
    assert "✓ agrees" in caption
    assert "▲ higher" in caption
    assert "after ? the prompts that would decide it" in caption
    assert "✗" not in caption


def row(claim: str, verdict: str, finding: str = HIGHER, decide: float = NONE, **more) -> dict:
    return {
        "claim": claim,
        "lm": "m",
        "source": "s",
        "domain": TOTAL,
        "verdict": verdict,
        "finding": finding,
        "decide": decide,
    } | more


def test_the_family_is_counted():
    table = pd.DataFrame(
        [row("A > B", AGREES, p=p, holm=h) for p, h in ((0.001, 0.003), (0.04, 0.08), (0.5, 0.5), (NONE, NONE))]
    )
    said = family_sentence(table)
    assert said.startswith("3 comparisons are tested at the 5 % level")
    assert "about 0.15 would be significant by chance; 2 are, and 1 after Holm's correction" in said
    assert family_sentence(table[:1]) == ""
