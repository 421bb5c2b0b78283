"""What RPO's weights do: gradients and sizes by hand, policies that answer alike, and the procedure that chooses a scale."""

import numpy as np
import pandas as pd
import pytest
from conftest import FEW_PAIRS, SMALL_RECIPE, Lengths, training_in

from icdpo_nb.analyses.policies import adapter_name
from icdpo_nb.analyses.weighting import (
    contrasts,
    effect_sentence,
    identical_share,
    inert_table,
    log_ratios,
    score_sizes,
    weight_effect,
    weight_effects,
)
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.templates import base_context
from icdpo_nb.training.finetune import fine_tune
from icdpo_nb.training.losses import gradient_cosine, prompt_weights, uniform_weights
from icdpo_nb.training.recipes import Recipe


def test_the_contrast_matrix_is_that_of_the_training(tuned_base, tuned):
    """Its scores are beta times differences of log-ratios that are taken response by response."""
    lm, policy = load_lm(tuned_base), load_lm(f"{tuned_base}+{tuned['DPO']}")
    weights, scores = contrasts(FEW_PAIRS[:3], policy, lm, Lengths(), Recipe("RPO-Paired", beta=0.2, tau=0.3))
    always, ratios = RECOMMENDED.but(eos_scored="always"), {}
    for side in ("chosen", "rejected"):
        for i, p in enumerate(FEW_PAIRS[:3]):
            y = lm.encode_response(getattr(p, side), always)
            ours, theirs = (m.logprobs([base_context(p.prompt)], [[y]])[0][0].sum() for m in (policy, lm))
            ratios[side, i] = ours - theirs
    for i in range(3):
        for j in range(3):
            assert scores[i, j] == pytest.approx(0.2 * (ratios["chosen", i] - ratios["rejected", j]), abs=1e-4)
    vectors = Lengths()([p.prompt for p in FEW_PAIRS[:3]])
    raw = np.exp(-(1 - vectors @ vectors.T) / 0.3)
    np.testing.assert_allclose(weights, raw / raw.sum(1, keepdims=True), atol=1e-6)


def test_the_effect_of_weights_is_taken_matrix_by_matrix(tuned_base, tuned):
    """The size is a median over the contrasts of all matrices; the cosines are means over them."""
    lm, policy = load_lm(tuned_base), load_lm(f"{tuned_base}+{tuned['RPO-Paired']}")
    recipe = Recipe("RPO-Paired", batch=4, matrix=3, beta=0.7, tau=0.25)
    found, sizes, cosines = weight_effect(FEW_PAIRS[:8], policy, lm, Lengths(), recipe), [], []
    for part in (FEW_PAIRS[0:3], FEW_PAIRS[3:6]):
        chosen, rejected = log_ratios(part, policy, lm)
        vectors = Lengths()([p.prompt for p in part])
        weights = prompt_weights(vectors, vectors, 0.25)
        sizes += [abs(0.7 * weights[i, j] * (chosen[i] - rejected[j])) for i in range(3) for j in range(3)]
        cosines.append(gradient_cosine(chosen, rejected, weights, uniform_weights(3, 3), 0.7))
    assert found["size"] == pytest.approx(float(np.median(sizes)), rel=1e-5)
    assert found["cosine, τ = 0.25"] == pytest.approx(np.mean(cosines))
    assert set(found) == {"size", "cosine, τ = 0.25", "cosine, τ = 0.5", "cosine, τ = 0.75", "cosine, diagonal"}
    alone = weight_effect(FEW_PAIRS[:2], policy, lm, Lengths(), recipe)
    assert alone["size"] > 0, "fewer pairs than a matrix has rows are one matrix"


def answers_of(**responses) -> pd.DataFrame:
    """By policy the responses of two seeds to two prompts."""
    where = [(seed, prompt, 0) for seed in (0, 1) for prompt in ("a", "b")]
    rows = [(name, *at, text) for name, texts in responses.items() for at, text in zip(where, texts.split(), strict=True)]
    return pd.DataFrame(rows, columns=["method", "seed", "prompt_id", "candidate_id", "response"])


def test_identical_answers_are_counted_within_prompt_and_seed():
    answers = answers_of(DPO="w x y z", same="w x y z", half="w x z y", swapped="y z w x")
    found = identical_share(answers, "DPO").set_index("policy")
    assert list(found["share"]) == [1.0, 0.5, 0.0]
    assert list(found["n"]) == [4, 4, 4]
    assert set(found["against"]) == {"DPO"}
    more = pd.concat([answers, answers[answers["method"] == "same"].assign(candidate_id=1)])
    assert identical_share(more, "DPO").set_index("policy").loc["same", "n"] == 4, "only what both have"


def test_policies_of_paired_rpo_beside_their_answers(tuned_base, tuned):
    """A row a policy, its seeds' means; the sentence names what did nothing."""
    lm, paired = load_lm(tuned_base), f"{tuned_base}+{tuned['RPO-Paired']}"
    recipes = {
        "RPO-Paired": Recipe("RPO-Paired", **SMALL_RECIPE),
        "warm": Recipe("RPO-Paired", **SMALL_RECIPE),
        "DPO": Recipe("DPO"),
    }
    policies = {("RPO-Paired", 0): paired, ("warm", 0): paired, ("DPO", 0): f"{tuned_base}+{tuned['DPO']}"}
    effects = weight_effects(policies, recipes, {0: lm}, FEW_PAIRS, Lengths(), n=4, store=False)
    assert list(effects["method"]) == ["RPO-Paired"], "another method has no such weights, and equal policies count once"
    assert list(effects["adapter"]) == [adapter_name(paired)]
    two = pd.concat([effects.assign(method=m, size=s) for m, s in (("RPO-Paired", 0.01), ("b", 0.02), ("b", 0.04), ("c", 0.5))])
    shares = pd.DataFrame(
        [("b", "RPO-Paired", 0.96, 9), ("c", "RPO-Paired", 0.4, 9)], columns=["policy", "against", "share", "n"]
    )
    table = inert_table(two, shares).set_index("method")
    assert table.loc["b", "size"] == pytest.approx(0.03)
    assert np.isnan(table.loc["RPO-Paired", "identical answers"])
    sentence = effect_sentence(table.reset_index())
    assert "is 0.03 nats" in sentence
    assert "The share is 95% or more for b, so these settings had no effect." in sentence
    assert "40% to 96% of the answers are identical to those of RPO-Paired." in sentence


def test_the_scale_is_told_by_the_size_of_the_scores_on_dev_pairs(tuned_base, tmp_path):
    """A larger β makes larger scores from the first step on; the procedure reports what `weight_effect` finds."""
    lm, small = load_lm(tuned_base), SMALL_RECIPE | {"learning_rate": 1e-3}
    recipes = {str(beta): Recipe("RPO-Paired", **small, beta=beta) for beta in (0.1, 1.0)}
    with training_in(tmp_path):
        found = score_sizes(lm, FEW_PAIRS[4:], FEW_PAIRS[:4], Lengths(), recipes).set_index("recipe")
        folder = fine_tune(lm, FEW_PAIRS[4:], recipes["1.0"], embed=Lengths())
    assert found.loc["1.0", "size"] > 3 * found.loc["0.1", "size"] > 0
    again = weight_effect(FEW_PAIRS[:4], load_lm(f"{tuned_base}+{folder}"), lm, Lengths(), recipes["1.0"], RECOMMENDED)
    assert found.loc["1.0"].to_dict() == pytest.approx(again)
