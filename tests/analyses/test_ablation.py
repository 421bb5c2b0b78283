"""One setting at a time: which variants there are, what they give on a tiny model, and what sentences say of them."""

import numpy as np
import pandas as pd
import pytest
from conftest import Lengths

from icdpo_nb.algorithm import candidates_table, select
from icdpo_nb.analyses import ablation
from icdpo_nb.analyses.ablation import DEMOS, DIVERSITY, ORDER, RETRIEVER, WINDOW
from icdpo_nb.analyses.influence import influence, influence_table
from icdpo_nb.data.preferences import PreferenceSet
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import by_domain
from icdpo_nb.statistics.findings import HIGHER, LOWER, OPEN, SAME, SMALL
from icdpo_nb.templates import contexts

BASE = RECOMMENDED.but(max_new_tokens=6, n_candidates=4)


@pytest.fixture
def preferences(pairs) -> PreferenceSet:
    return PreferenceSet("made", "local", "raw", tuple(pairs[1:]), (), (), {}, "")


def test_every_setting_has_the_base_value_once():
    found = ablation.variants(BASE, "R", [0, 4], [5, 100], [0.5])
    base = ablation.base_values(BASE, "R")
    values = {s: [v.value for v in found if v.setting == s] for s in base}
    assert values == {
        DEMOS: ["0", "2", "4"],
        RETRIEVER: ["random", "BM25", "SBERT", "R"],
        ORDER: ["most similar last", "most similar first", "shuffled"],
        DIVERSITY: ["0", "0.5"],
        WINDOW: ["5", "30", "100"],
    }
    for setting, value in base.items():
        (own,) = [v for v in found if (v.setting, v.value) == (setting, value)]
        assert (own.protocol, own.retriever, own.weight, own.shuffled) == (BASE, "R", 0.0, False)
    assert {v.setting for v in ablation.variants(BASE, "random", [0], [5], [0.5])} == {DEMOS, RETRIEVER}
    assert {v.setting for v in ablation.variants(BASE, "SBERT", [0], [5], [0.5])} == {DEMOS, RETRIEVER, ORDER, DIVERSITY}


def test_outcomes_are_those_of_the_candidates_table(tiny_lm, preferences, pairs):
    prompts = [pairs[0], pairs[4]]
    found = ablation.variants(BASE, "BM25", [0, 1], [5], [0.5])
    table, too_long = ablation.outcomes(found, prompts, preferences, tiny_lm, Lengths(), Lengths(), near="keep")
    assert too_long == []
    assert len(table) == 2 * len(found)
    retrievers = by_domain("BM25", preferences.support, ["helpful", "harmless"], BASE, tokenize=tiny_lm.tokenize)
    candidates = candidates_table(prompts, retrievers, tiny_lm, BASE)
    candidates["reward"] = candidates["response"].str.len().astype(float)
    chosen = select(candidates, "S")
    for setting in (DEMOS, ORDER, WINDOW, DIVERSITY):
        own = table[(table["source"] == setting) & (table["method"] == ablation.base_values(BASE, "BM25")[setting])]
        np.testing.assert_array_equal(own["reward"], chosen["reward"])
        means = candidates.groupby("prompt_id", sort=False)["reward"].mean().to_numpy()
        np.testing.assert_allclose(own["gain"], chosen["reward"] - means)
    demos = {d.prompt_id: d for d in preferences.support}
    first = chosen.iloc[0]
    text = contexts([demos[i] for i in first["demo_ids"]], first["prompt"], BASE)
    n = candidates.loc[candidates["prompt_id"] == first["prompt_id"], "n_tokens"].sum()
    assert own["tokens"].iloc[0] == len(tiny_lm.tokenize(text["icl"])) + len(tiny_lm.tokenize(text["base"])) + 2 * n


def test_what_does_not_fit_is_left_out(tiny_lm, preferences, pairs):
    """The tiny model reads 1,024 characters; seven demonstrations take more."""
    mixed = BASE.but(support="mixed")
    found = ablation.variants(mixed, "random", [0, 7], [], [])
    table, too_long = ablation.outcomes(found, pairs[:1], preferences, tiny_lm, Lengths(), Lengths())
    assert [(v.setting, v.value) for v in too_long] == [(DEMOS, "7")]
    assert set(table[table["source"] == DEMOS]["method"]) == {"0", "2"}


def outcome(reward: dict[str, list[float]]) -> pd.DataFrame:
    same = {"lm": "m", "source": DEMOS, "domain": "all", "mrr": 1.0, "tokens": 7}
    rows = [
        same | {"method": value, "prompt_id": str(i), "reward": r}
        for value, rewards in reward.items() for i, r in enumerate(rewards)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_effects_by_hand():
    rng = np.random.default_rng(0)
    base = rng.normal(size=60)
    table = outcome({
        "0": base - 2 + rng.normal(0, 0.1, 60), "2": base, "4": base + 1 + rng.normal(0, 0.1, 60),
        "8": base + rng.normal(0, 0.01, 60), "16": base + rng.normal(0, 3, 60), "32": base,
    })  # fmt: skip
    found = ablation.effects(table, {DEMOS: "2"}, 0.25)
    assert dict(zip(found["method"], found["finding"], strict=True)) == {
        "0": LOWER, "4": HIGHER, "8": SMALL, "16": OPEN, "32": SAME,
    }  # fmt: skip
    (sentence,) = ablation.effect_sentences(found)
    assert sentence.startswith("Demonstrations (m), against 2: a higher reward with 4 (+")
    assert "; a lower reward with 0 (−1.99); no difference" in sentence
    assert sentence.endswith("no difference that matters with 8; the same answers with 32; undecided with 16.")
    whole = ablation.effects_sentence(found, "Here")
    assert whole.startswith("Here, of 5 values of the settings the mean reward is higher with demonstrations (m) 4 (+")
    assert whole.endswith(" and lower with demonstrations (m) 0 (−1.99); the other 3 are not shown to change it.")
    assert ablation.effects_sentence(found[found["method"] == "8"], "Here").startswith("Here, none of 1 ")
    shown = ablation.effects_table(found, ablation.effects(table, {DEMOS: "2"}, 0.05, "mrr"), table).set_index("value")
    assert shown.loc["2", "difference in reward"] == "base"
    assert shown.loc["4", "finding"] == HIGHER
    assert shown.loc["4", "mean reward"] == pytest.approx(table[table["method"] == "4"]["reward"].mean())


def test_influence_is_the_difference_of_two_scores(tiny_lm, preferences, pairs):
    prompts = [pairs[0], pairs[4]]
    retrievers = by_domain("BM25", preferences.support, ["helpful", "harmless"], BASE, tokenize=tiny_lm.tokenize)
    found = influence(prompts, retrievers, tiny_lm, BASE)
    assert len(found) == 2 * BASE.n_demos
    p = prompts[0]
    demos = retrievers[p.domain].retrieve([p.prompt], BASE.n_demos)[0]
    own = found[found["prompt_id"] == p.prompt_id].set_index("demo_id")
    whole, one = (contexts(ds, p.prompt, BASE) for ds in (demos, demos[1:]))
    responses = tiny_lm.sample([whole["icl"]], BASE.n_candidates, BASE, 0)[0]
    icl, left, base = (
        [y.sum() for y in tiny_lm.logprobs([c], [responses])[0]] for c in (whole["icl"], one["icl"], whole["base"])
    )
    words = np.array([bool(y.text.strip()) for y in responses])
    assert own.loc[demos[0].prompt_id, "shift"] == pytest.approx((np.array(icl) - left)[words].mean(), abs=1e-4)
    assert own.loc[demos[0].prompt_id, "position"] == 1, "the most similar one stands next to the prompt"
    with_it, without = (np.where(words, np.array(v) - base, -np.inf).argmax() for v in (icl, left))
    assert own.loc[demos[0].prompt_id, "changed"] == float(with_it != without)
    shown = influence_table(found)
    assert shown["position"].tolist() == ["1 (next to the prompt)", "2"]
    assert shown["prompts"].tolist() == [2, 2]
