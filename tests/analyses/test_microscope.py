"""Tokens of a choice: contributions sum to the scores; words by hand; alarms by hand and by brute force."""

import json

import numpy as np
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st
from parts import Fixed
from scipy.stats import binomtest

from icdpo_nb.algorithm import CONTEXTS, Selection, candidates_table, icdpo, selected
from icdpo_nb.analyses.microscope import (
    ALARMS,
    CUT,
    alarm_table,
    alarms,
    alternatives,
    contributions,
    groups,
    selections,
    token_table,
)
from icdpo_nb.models.tokens import Response
from icdpo_nb.protocol import PROTOCOLS, RECOMMENDED
from icdpo_nb.retrieval.retrievers import by_domain
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredLM


def joined(pieces) -> list[str]:
    """The text of each word."""
    words = groups(pieces)[1]
    return ["".join(p for p, w in zip(pieces, words, strict=True) if w == k) for k in dict.fromkeys(words)]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([" un", "believ", "able", ",", " don", "'t", "\n", "\n", "go"], [" unbelievable", ",", " don't", "\n", "\n", "go"]),
        (["a", " ", "b", "c", " ", " ", "d"], ["a", " bc", "  d"]),
        (["我", "喜欢", "茶。"], ["我", "喜欢", "茶。"]),
        (["", "", "我", "", "", "喜"], ["我", "喜"]),
        (["👩", "", "\u200d", "", "🔬", "!"], ["👩\u200d🔬", "!"]),
        (["caf", "e", "\u0301", "s"], ["cafe\u0301s"]),
        (["ส", "ว", "ั", "ส"], ["ส", "วั", "ส"]),
        (["3", ".", "14", "."], ["3.14", "."]),
        ([" שלום", " עולם"], [" שלום", " עולם"]),
        ([], []),
    ],
)
def test_words(pieces, words):
    assert joined(pieces) == words


def test_a_character_of_several_tokens_is_one():
    assert groups(["a", "", "", "我", "👩", "", "\u200d", "🔬"])[0] == [0, 1, 1, 1, 2, 2, 2, 2]


@given(st.lists(st.text("a我 \n\u0301\u200d👩\ufffd", max_size=3), max_size=8))
@few(80)
def test_groups_never_decrease_and_never_skip(pieces):
    for part in groups(pieces):
        assert len(part) == len(pieces)
        assert all(0 <= after - before <= 1 for before, after in zip(part, part[1:], strict=False))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_contributions_sum_to_the_scores_of_the_table(pairs, tiny_lm, name, reduction):
    """With each protocol's end of text, which RECOMMENDED leaves out and REFERENCE adds, within 1e-5 nats."""
    check_sums(pairs, pairs, tiny_lm, PROTOCOLS[name].but(max_new_tokens=12, reduction=reduction))


@pytest.mark.slow
def test_contributions_sum_to_the_scores_on_smollm2(pairs, smollm2):
    check_sums(pairs[:1], pairs[1:], smollm2, RECOMMENDED.but(max_new_tokens=12, eos_scored="if_sampled"))


def check_sums(prompts, support, lm, protocol):
    retrievers = {p.domain: Fixed(support) for p in prompts}
    table = candidates_table(prompts, retrievers, lm, protocol, seed=2)
    for score in ("S", "S_hat", "ICL"):
        found = selections(prompts, retrievers, lm, score, protocol, seed=2)
        one = [icdpo(p.prompt, retrievers[p.domain], lm, score, protocol, 2).best.text for p in prompts[:2]]
        assert [s.best.text for s in found[:2]] == one
        for p, selection in zip(prompts, found, strict=True):
            rows = table[table["prompt_id"] == p.prompt_id].reset_index(drop=True)
            tokens = token_table(selection)
            for j, y in enumerate(selection.responses):
                part = tokens[tokens["candidate_id"] == j]
                assert len(part) == rows["n_tokens"][j] == len(y.token_ids)
                whole = [t for t in y.token_ids if t not in lm.eos_ids]
                assert "".join(part["text"]) == lm.decode(whole)
                if protocol.eos_scored == "always":
                    assert part["role"].iloc[-1] == "eos"
                assert "eos" not in part["role"].tolist()[:-1]
                for c in CONTEXTS:
                    assert part[f"logp_{c}"].sum() == pytest.approx(rows[f"logp_{c}"][j], abs=1e-5)
                if y.text.strip():
                    assert part["contribution"].sum() == pytest.approx(rows[score][j], abs=1e-5)
                    assert part["running"].iloc[-1] == pytest.approx(rows[score][j], abs=1e-5)


def test_what_is_stored_is_not_computed_again(pairs, tiny_lm, tmp_path, monkeypatch):
    lm = StoredLM(tiny_lm, Store(tmp_path))
    retrievers = by_domain("random", pairs, ["helpful", "harmless"])
    protocol = RECOMMENDED.but(max_new_tokens=6)
    table = candidates_table(pairs, retrievers, lm, protocol)
    monkeypatch.setattr(tiny_lm, "sample", None)
    monkeypatch.setattr(tiny_lm.engine, "logprobs", None)
    scores = np.concatenate([s.scores for s in selections(pairs, retrievers, lm, "S", protocol)])
    np.testing.assert_allclose(scores, table["S"], atol=1e-5)


class Letters:
    """Tokens 1, 2, … are the letters a, b, …; 0 ends a text."""

    eos_ids = (0,)

    def pieces(self, ids):
        return [chr(96 + i) for i in ids]


def made(gaps, finishes=(), eos=(), empty=(), protocol=RECOMMENDED) -> Selection:
    """A choice by S whose candidates' tokens add `gaps`; those of `eos` end with a scored end of text."""
    responses, logp = [], {"icl": [], "base": []}
    for j, values in enumerate(gaps):
        ids = [*range(1, len(values) + 1 - (j in eos)), *[0] * (j in eos)]
        text = "" if j in empty else "x" * len(values)
        responses.append(Response(text, tuple(ids), finishes[j] if finishes else "stop"))
        logp["icl"].append(np.array(values, np.float32) - 9)
        logp["base"].append(np.full(len(values), -9, np.float32))
    return selected("Human: x", [], responses, logp, Letters(), "S", protocol)


CASES = [  # by hand: gaps, options, the alarms that hold
    ([[1, 0, 1], [1, 1, 1]], {}, {"one token"}),  # without one token both have 2, and the first of equals wins
    ([[2, 2, 2], [1, 0, 1]], {}, set()),
    ([[0, 5, 0], [1, 1, 1]], {}, {"one token"}),
    ([[5, 0, 0], [1, 1, 1]], {}, {"one token", "first token"}),
    ([[3, -1], [-4]], {}, set()),  # without its first token the second response would say nothing
    ([[1, 1, 5], [1, 1, 1]], {"eos": (0,)}, {"one token", "end of text"}),
    ([[1] * 8, [2, 2]], {}, {"length"}),
    ([[2, 2, 2], [1, 1, 1]], {"finishes": ("length", "eos")}, {"truncation", CUT}),
    ([[2, 2, 2], [1, 1, 1]], {"finishes": ("length", "length")}, {CUT}),
    ([[2, 2, 2], [1, 1, 1]], {"finishes": ("eos", "length")}, set()),
    ([[0, 5, 0], [1, 1, 1]], {"empty": (1,)}, set()),  # nothing to choose between
    ([[0, 5, 0], [4, 4, 4], [1, 1, 1]], {"empty": (1,)}, {"one token"}),
]


@pytest.mark.parametrize(("gaps", "options", "held"), CASES)
def test_alarms_by_hand(gaps, options, held):
    assert {name for name, holds in alarms(made(gaps, **options)).items() if holds} == held


def test_length_compares_with_the_other_reduction():
    selection = made([[1] * 8, [2, 2]], protocol=RECOMMENDED.but(reduction="mean"))
    assert selection.best is selection.responses[1]
    assert alternatives(selection)["length"] == 0


gap = st.integers(-30, 30).map(lambda v: v / 10)


@given(st.lists(st.lists(gap, min_size=1, max_size=5), min_size=2, max_size=4), st.data())
@few(80)
def test_alarms_by_brute_force(gaps, data):
    """A single token is tried at every place, and every alternative is a choice among new totals."""
    finishes = data.draw(st.lists(st.sampled_from(["stop", "length"]), min_size=len(gaps), max_size=len(gaps)))
    selection = made(gaps, finishes)
    values = contributions(selection)
    best = max(range(len(gaps)), key=lambda j: (sum(values[j]), -j))
    lost = False
    for t in range(len(values[best])):
        rest = sum(v for k, v in enumerate(values[best]) if k != t)
        totals = [(rest if len(v) > 1 else -99) if j == best else sum(v) for j, v in enumerate(values)]
        lost |= max(range(len(gaps)), key=lambda j: (round(totals[j], 9), -j)) != best
    held = alarms(selection)
    tied = min(abs(sum(values[best]) - max(values[best]) - sum(v)) for j, v in enumerate(values) if j != best) < 1e-5
    assert held["one token"] == lost or tied
    whole = [j for j in range(len(gaps)) if finishes[j] != "length"]
    assert held["truncation"] == (bool(whole) and finishes[best] == "length")
    assert held[CUT] == (finishes[best] == "length")


def test_alarm_table_counts_prompts_with_a_choice():
    chosen = [made(*case[:1], **case[1]) for case in CASES]
    table = alarm_table(chosen).set_index("alarm")
    n = len(CASES) - 1
    assert list(table.index) == [*ALARMS, "any"]
    assert set(table["n"]) == {n}
    for name in ALARMS:
        assert table.loc[name, "prompts"] == sum(name in held for *_, held in CASES)
        exact = binomtest(int(table.loc[name, "prompts"]), n).proportion_ci()
        assert (table.loc[name, "low"], table.loc[name, "high"]) == pytest.approx((exact.low, exact.high))
    assert table.loc["any", "prompts"] == sum(bool(held) for *_, held in CASES)
    assert alarm_table([])["n"].tolist() == [0] * (len(ALARMS) + 1)


def test_a_table_of_tokens_is_plain_data(pairs, tiny_lm):
    found = icdpo(pairs[0].prompt, Fixed(pairs), tiny_lm, "S", RECOMMENDED.but(max_new_tokens=4))
    table = token_table(found)
    assert list(table) == [
        "candidate_id", "position", "token_id", "text", "role", *(f"logp_{c}" for c in CONTEXTS),
        "contribution", "running", "character", "word",
    ]  # fmt: skip
    assert json.loads(table.to_json(orient="records"))[0]["role"] == "first"
