"""S and Ŝ taken apart: contexts by hand, exact sums with a tiny model, choices by hand, and every form of the sentence."""

import numpy as np
import pandas as pd
import pytest

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.chains import CHAINS, FIRST, LAST, PARTS, chain_contexts, chain_table, chain_tables, sampled_from_each
from icdpo_nb.analyses.decomposition import (
    RANDOM,
    agreement_sentence,
    method_of,
    part_choices,
    part_sizes,
    parts_of,
    verdict_sentence,
)
from icdpo_nb.data.preferences import PreferenceSet
from icdpo_nb.protocol import RECOMMENDED, REFERENCE
from icdpo_nb.retrieval.retrievers import RandomRetriever
from icdpo_nb.statistics.findings import HIGHER, LOWER, OPEN, SAME, SMALL
from icdpo_nb.templates import CUE, INSTRUCTION, SIDES, base_context, icl_context

POLITE, RUDE = (CUE.format(**SIDES[side]) for side in ("chosen", "rejected"))
SMALL_PROTOCOL = RECOMMENDED.but(max_new_tokens=6)


@pytest.fixture(scope="module")
def table(pairs, tiny_lm):
    return _table(pairs, tiny_lm, SMALL_PROTOCOL)


def _table(pairs, lm, protocol):
    retrievers = dict.fromkeys(("helpful", "harmless"), RandomRetriever(pairs[:6]))
    return chain_table(pairs[2:6], retrievers, lm, protocol)


def test_the_chain_of_s_adds_text_and_that_of_s_hat_exchanges_it(pairs):
    d, x = pairs[:1], "Human: Why?"
    text = chain_contexts(d, x, RECOMMENDED)
    assert text["base"] == "Human: Why?\n\nAssistant:"
    assert text["cue"] == f"Human: Why?\n\n{POLITE}"
    assert text["instruction"] == f"{INSTRUCTION.format(**SIDES['chosen'])}\n\n##\n\n{text['cue']}" == icl_context([], x)
    assert text["demonstrations"] == f"##\n\n{d[0].prompt}\n\n{POLITE} {d[0].chosen}\n\n##\n\n{text['cue']}"
    assert text["icl"] == f"{INSTRUCTION.format(**SIDES['chosen'])}\n\n{text['demonstrations']}"
    step = text["icl_rejected"]
    for name, before, after in (
        ("rejected_cue", RUDE, POLITE),
        ("rejected_instruction", SIDES["rejected"]["traits"], SIDES["chosen"]["traits"]),
        ("icl", d[0].rejected, d[0].chosen),
    ):
        step = step.replace(before, after)
        assert text[name] == step, name
    assert text["rejected_demonstrations"] == text["rejected_cue"].replace(d[0].rejected, d[0].chosen)


def test_line_breaks_of_the_released_code(pairs):
    text = chain_contexts(pairs[:1], "Human: Why?", REFERENCE)
    assert text["cue"] == f"\n\nHuman: Why?\n{POLITE}"
    assert text["base"] == base_context("Human: Why?", REFERENCE)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("order", [FIRST, LAST])
@pytest.mark.parametrize("protocol", [SMALL_PROTOCOL, SMALL_PROTOCOL.but(reduction="mean"), REFERENCE.but(max_new_tokens=6)])
def test_parts_add_up_to_the_score(pairs, tiny_lm, name, order, protocol):
    found = _table(pairs, tiny_lm, protocol)
    parts = parts_of(found, name, order, protocol.reduction)
    full = np.isfinite(found[name])
    assert full.any()
    np.testing.assert_allclose(parts.sum(axis=1)[full], found[name][full], rtol=0, atol=1e-9)
    assert (parts[["instruction", "demonstrations"]].abs() > 1e-6).all(axis=None), "each context differs from the next"


def test_the_candidates_are_those_of_the_method(table, pairs, tiny_lm):
    retrievers = dict.fromkeys(("helpful", "harmless"), RandomRetriever(pairs[:6]))
    plain = candidates_table(pairs[2:6], retrievers, tiny_lm, SMALL_PROTOCOL)
    pd.testing.assert_frame_equal(table[list(plain)], plain, rtol=1e-4, atol=1e-4)


def test_tables_of_every_model_and_source(pairs, tiny_lm):
    """As one by one, with their origin."""
    data = PreferenceSet("x", "local", "raw", tuple(pairs[:6]), (), tuple(pairs[6:]), {}, "0")
    found = chain_tables(pairs[6:], {"raw": data, "b": data}, {"tiny": tiny_lm}, SMALL_PROTOCOL)
    assert found.groupby(["lm", "source", "retriever"], sort=False).size().to_dict() == {
        ("tiny", "raw", "random"): 6,
        ("tiny", "b", "random"): 6,
    }
    alone = chain_table(pairs[6:], {"harmless": RandomRetriever(pairs[4:6])}, tiny_lm, SMALL_PROTOCOL)
    assert found["response"].tolist() == [*alone["response"]] * 2


def test_without_demonstrations_they_add_nothing(pairs, tiny_lm):
    found = _table(pairs, tiny_lm, SMALL_PROTOCOL.but(n_demos=0))
    for name, order in ((n, o) for n in CHAINS for o in (FIRST, LAST)):
        np.testing.assert_allclose(parts_of(found, name, order)["demonstrations"], 0, atol=1e-4)
    chosen = part_choices(found.assign(reward=np.arange(len(found))), SMALL_PROTOCOL)
    wide = chosen.pivot(index="prompt_id", columns="method", values="reward")
    np.testing.assert_allclose(wide[method_of("demonstrations")], wide[RANDOM])  # what says nothing chooses as chance


def test_from_the_template_on_only_demonstrations_add(pairs, tiny_lm):
    found = _table(pairs, tiny_lm, SMALL_PROTOCOL.but(amateur="template"))
    for order in (FIRST, LAST):
        parts = parts_of(found, "S", order)
        np.testing.assert_allclose(parts[["cue", "instruction"]], 0, atol=1e-4)
        np.testing.assert_allclose(parts["demonstrations"], found["logp_icl"] - found["logp_base"], atol=1e-4)


HAND = pd.DataFrame({
    "lm": "m", "source": "a", "domain": "d", "prompt_id": ["p"] * 3 + ["q"] * 3, "n_tokens": 2,
    "response": ["a", "b", "c", "d", "", "d"], "reward": [0.0, 3, 9, 5, 1, 6],
    "logp_base": [-9.0] * 6, "logp_cue": [-9.0, -9, -7, -9, -9, -9], "logp_instruction": [-8.0, -6, -7, -5, -1, -9],
    "logp_demonstrations": [-9.0] * 6, "logp_icl": [-4.0, -5, -5, -3, -1, -4],
    **{f"logp_{c}": 0.0 for c in ("icl_rejected", "rejected_cue", "rejected_instruction", "rejected_demonstrations")},
})  # fmt: skip
HAND = HAND.assign(
    S=np.where(HAND["response"] == "", -np.inf, HAND["logp_icl"] - HAND["logp_base"]),
    S_hat=np.where(HAND["response"] == "", -np.inf, HAND["logp_icl"]),
)


def test_choices_by_hand():
    """S chooses a (5, 4, 4) and the first d (6, empty, 5); cue c and either d; instruction b and d; demonstrations a and d."""
    found = part_choices(HAND, RECOMMENDED)
    rewards = found.pivot(index="method", columns="prompt_id", values="reward")
    same = found.pivot(index="method", columns="prompt_id", values="same S")
    assert rewards.loc["S"].tolist() == [0, 5]
    assert rewards.loc["cue in S"].tolist() == [9, 5.5]
    assert rewards.loc["instruction in S"].tolist() == [3, 5]
    assert rewards.loc["demonstrations in S"].tolist() == [0, 6]
    assert rewards.loc[RANDOM].tolist() == pytest.approx([4, 4]), "the empty one too"
    assert same.loc["demonstrations in S"].tolist() == [1, 1], "the same text, if another candidate"
    assert same.loc["cue in S"].tolist() == [0, 1]
    assert same.loc[RANDOM].tolist() == pytest.approx([1 / 3, 2 / 3]), "chance, with a text that was sampled twice"


def test_sizes_add_up_and_the_lead_is_that_of_the_choice():
    found = part_sizes(HAND, RECOMMENDED)
    for value in ("size", "lead"):
        wide = found.pivot(index="prompt_id", columns="method", values=value)
        np.testing.assert_allclose(wide[[f"{p} in S" for p in PARTS]].sum(axis=1), wide["S"])
        np.testing.assert_allclose(wide[[f"{p} in Ŝ" for p in PARTS]].sum(axis=1), wide["Ŝ"])
    lead = found[found["prompt_id"] == "p"].set_index("method")["lead"]
    assert lead["S"] == pytest.approx(5 - (5 + 4 + 4) / 3)
    assert lead["demonstrations in S"] == pytest.approx(4 - (4 + 1 + 2) / 3)


def test_samples_from_each_context(pairs, tiny_lm):
    retrievers = dict.fromkeys(("helpful", "harmless"), RandomRetriever(pairs[:6]))
    found = sampled_from_each(pairs[2:4], retrievers, tiny_lm, SMALL_PROTOCOL)
    assert found.groupby("method", sort=False).size().to_dict() == dict.fromkeys(
        ("prompt alone", "cue", "cue and instruction", "cue and demonstrations", "all three"), 6
    )
    texts = candidates_table(pairs[2:4], retrievers, tiny_lm, SMALL_PROTOCOL)["response"]
    assert found.loc[found["method"] == "all three", "response"].tolist() == texts.tolist()
    same = sampled_from_each(pairs[2:4], retrievers, tiny_lm, SMALL_PROTOCOL.but(amateur="template"))
    pd.testing.assert_frame_equal(found, same)


def test_agreement_over_settings():
    """By hand, from two settings: the smallest and the largest share, once where they are equal."""
    rows = [(m, v) for m, values in {"cue in S": (0.2, 0.4), "instruction in S": (0.5, 0.5), "demonstrations in S": (0.6, 0.9),
                                     RANDOM: (1 / 3, 1 / 3)}.items() for v in values]  # fmt: skip
    said = agreement_sentence(pd.DataFrame(rows, columns=["method", "mean"]))
    assert said == (
        "How often a part alone chooses as S does: cue in S 20 to 40 %, instruction in S 50 %, demonstrations in S 60 to 90 % "
        "(chance 33 %)."
    )


S_CLAIM = "demonstrations in S > instruction in S"
SAMPLING = "cue and demonstrations > cue and instruction"


def claims(**findings) -> pd.DataFrame:
    names = {"s": S_CLAIM, "sampling": SAMPLING}
    return pd.DataFrame(
        [{"claim": names[k], "finding": f, "mean": m} for k, rows in findings.items() for f, m in rows],
        columns=["claim", "finding", "mean"],
    )


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"s": [(HIGHER, 0.5)]}, "In choosing by S, the demonstrations align more than the instruction (by 0.50 points)."),
        ({"s": [(LOWER, -0.5)]}, "In choosing by S, the instruction aligns more than the demonstrations (by 0.50 points)."),
        ({"s": [(OPEN, 0.1)]}, "In choosing by S, the data do not tell demonstrations and instruction apart."),
        ({"s": [(SMALL, 0.0)]}, "In choosing by S, demonstrations and instruction differ too little to matter."),
        ({"s": [(SAME, 0.0)]}, "In choosing by S, demonstrations and instruction lead to the same responses."),
        (
            {"sampling": [(HIGHER, 1.0), (HIGHER, 2.5), (OPEN, 0.1)], "s": [(OPEN, 0.1), (LOWER, -1.0)]},
            "In sampling, the demonstrations align more than the instruction (in 2 of 3 settings, by 1.00 to 2.50 points, "
            "undecided in 1); in choosing by S, the instruction aligns more than the demonstrations (in 1 of 2 settings, by "
            "1.00 points, undecided in 1).",
        ),
        ({}, "Demonstrations and instruction were not compared."),
    ],
)
def test_the_sentence(found, says):
    assert verdict_sentence(claims(**found)) == says
