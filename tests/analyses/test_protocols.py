"""The protocols compared: settings by stage, shared candidates, flips by hand, and the sentence."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.protocols import (
    SAMPLING,
    SCORING,
    START,
    SUMMARY,
    candidates_under,
    choices_under,
    differences,
    flips_table,
    matters_sentence,
    stage,
    totals_sentence,
    variants,
)
from icdpo_nb.protocol import PAPER, RECOMMENDED, REFERENCE, Protocol
from icdpo_nb.retrieval.retrievers import by_domain
from icdpo_nb.statistics.findings import HIGHER, LOWER, OPEN, SAME, SMALL

OWN = {"max_new_tokens": 8}


def test_every_setting_has_one_stage():
    names = [f.name for f in fields(Protocol) if f.name != "name"]
    assert sorted(names) == sorted([*SAMPLING, *SCORING, *SUMMARY])


def test_the_variants_are_the_settings_in_which_the_released_code_differs():
    found = variants(OWN)
    assert list(found) == [
        START, "top_k = 50", "stop = anywhere", "scored_tokens = retokenized", "eos_scored = always", "line_breaks = code",
        "REFERENCE", "PAPER",
    ]  # fmt: skip
    assert found["PAPER"] == PAPER.but(**OWN)
    start, changed = found[START], found["REFERENCE"]
    for name, protocol in list(found.items())[1:-2]:
        assert len(differences(start, protocol)) == 1, name
    together = set().union(*(differences(start, p) for p in list(found.values())[1:-2])) | SUMMARY
    assert together == set(differences(start, changed))
    assert "top_k = 50" not in variants({"top_k": 50})


def test_stages():
    assert stage(RECOMMENDED.but(eos_scored="always"), RECOMMENDED) == "scoring"
    assert stage(RECOMMENDED.but(stop="anywhere"), RECOMMENDED) == "sampling"
    assert stage(REFERENCE, RECOMMENDED) == "sampling and scoring"
    assert stage(RECOMMENDED.but(totals="micro"), RECOMMENDED) == "nothing"


class Counting:
    """A language model that counts what is sampled."""

    def __init__(self, lm):
        self.lm, self.calls = lm, 0

    def __getattr__(self, name):
        return getattr(self.lm, name)

    def sample(self, *args, **options):
        self.calls += 1
        return self.lm.sample(*args, **options)


@pytest.fixture(scope="module")
def compared(pairs, tiny_lm):
    lm, protocols = Counting(tiny_lm), variants(OWN)
    return candidates_under(pairs[6:], pairs[:6], lm, protocols).assign(lm="m", source="a"), protocols, lm.calls


def test_settings_of_scoring_share_their_candidates(compared):
    table, protocols, calls = compared
    assert calls == 6, "RECOMMENDED and both settings of scoring sample once"
    texts = table.groupby("variant")["response"].apply(list)
    for name in ("scored_tokens = retokenized", "eos_scored = always"):
        assert texts[name] == texts[START]
    assert (table.groupby("variant").size() == 2 * 3).all()
    assert list(table["variant"].unique()) == list(protocols)


@pytest.mark.parametrize("name", [START, "eos_scored = always", "scored_tokens = retokenized", "REFERENCE"])
def test_every_variant_is_what_its_protocol_gives_alone(compared, pairs, tiny_lm, name):
    """Sampled anew under the protocol itself, candidates and scores are the same."""
    table, protocols, _ = compared
    protocol = protocols[name]
    retrievers = by_domain("random", pairs[:6], ["harmless"], protocol)
    alone = candidates_table(pairs[6:], retrievers, tiny_lm, protocol)
    found = table[table["variant"] == name].reset_index(drop=True)
    assert found["response"].tolist() == alone["response"].tolist()
    assert found["n_tokens"].tolist() == alone["n_tokens"].tolist()
    np.testing.assert_allclose(found["S"], alone["S"], atol=1e-4)


def by_hand() -> pd.DataFrame:
    """Two prompts of each of two domains: what S prefers under RECOMMENDED, with EOS scored, and in another sample."""
    rows = []
    for variant, texts, scores in (
        (START, "ab", [[2, 1], [2, 1], [1, 2]]),
        ("eos_scored = always", "ab", [[1, 2], [2, 1], [1, 2]]),
        ("stop = anywhere", "cb", [[2, 1], [2, 1], [1, 2]]),
    ):
        for i, prompt in enumerate("pqr"):
            for j in range(2):
                text = texts[j] if i < 2 else "ab"[j]
                rows.append((variant, "one" if i else "two", prompt, j, text, 10.0 * i + j + (text == "c") * 5, scores[i][j]))
    columns = ["variant", "domain", "prompt_id", "candidate_id", "response", "reward", "S"]
    return pd.DataFrame(rows, columns=columns).assign(lm="m", source="a")


def test_flips_by_hand():
    found = choices_under(by_hand()).set_index(["method", "prompt_id"])
    changed = found[["reward", "flipped", "index", "resampled"]].to_dict("index")
    assert all(row == {"reward": r, "flipped": 0, "index": 0, "resampled": 0}
               for (m, _), row in changed.items() if m == START for r in [row["reward"]])  # fmt: skip
    assert changed["eos_scored = always", "p"] == {"reward": 1, "flipped": 1, "index": 1, "resampled": 0}
    assert changed["eos_scored = always", "q"] == {"reward": 10, "flipped": 0, "index": 0, "resampled": 0}
    assert changed["stop = anywhere", "p"] == {"reward": 5, "flipped": 1, "index": 0, "resampled": 1}
    assert changed["stop = anywhere", "r"] == {"reward": 21, "flipped": 0, "index": 0, "resampled": 0}
    protocols = dict.fromkeys(by_hand()["variant"].unique(), RECOMMENDED)
    protocols |= {"stop = anywhere": RECOMMENDED.but(stop="anywhere"), "eos_scored = always": REFERENCE}
    table = flips_table(choices_under(by_hand()), protocols).set_index("protocol")
    assert table.loc["stop = anywhere"].tolist() == ["sampling", "75 % [–]", "0 % [–]", "75 % [–]"]
    assert table.loc["eos_scored = always", "another response chosen"] == "50 % [–]"


def test_totals_are_said_apart():
    """Means by hand: 0 in two; 10 and 21 in one. Macro 7.75, micro 31 / 3."""
    assert "moves a mean, by +2.58 points at most" in totals_sentence(choices_under(by_hand()))
    even = by_hand()
    assert "no mean either" in totals_sentence(choices_under(even[even["prompt_id"] != "r"]))


def claims(*rows) -> pd.DataFrame:
    return pd.DataFrame([{"claim": f"{name} > RECOMMENDED", "finding": f} for name, f in rows], columns=["claim", "finding"])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [("stop", LOWER), ("top_k", OPEN), ("eos", SMALL), ("line_breaks", SAME), ("x", HIGHER), ("REFERENCE", LOWER)],
            "Of 5 settings, changed one at a time from RECOMMENDED to REFERENCE, raise the reward: x; lower the reward: stop; "
            "undecided: top_k; too small to matter: eos; nothing changed: line_breaks; REFERENCE as a whole: lower.",
        ),
        (
            [("stop", LOWER), ("stop", OPEN), ("PAPER", OPEN), ("PAPER", OPEN)],
            "Of 1 settings, changed one at a time from RECOMMENDED to REFERENCE, lower the reward: stop (in 1 of 2 models); "
            "undecided: stop (in 1 of 2 models); PAPER as a whole: cannot tell.",
        ),
        ([("PAPER", OPEN)], "The protocols differ in no setting that changes a choice."),
    ],
)
def test_the_sentence(rows, says):
    assert matters_sentence(claims(*rows)) == says
