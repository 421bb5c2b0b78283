"""The reward along a training: by hand, and with a tiny model."""

import pytest
from conftest import FEW_PAIRS, SMALL_RECIPE, Lengths, training_in

from icdpo_nb.analyses.policies import policy_table
from icdpo_nb.analyses.training_course import _points, along_means, along_sentence, along_training
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.training.finetune import Plan, fine_tune
from icdpo_nb.training.recipes import Recipe


def test_along_a_training(tuned_base, tmp_path):
    """The last point is the policy that the training leaves; S is against what it began as, whatever the step."""
    lm, protocol = load_lm(tuned_base), RECOMMENDED.but(max_new_tokens=6, n_candidates=2)
    plan = Plan(lm, FEW_PAIRS, Recipe("DPO", **SMALL_RECIPE))
    with training_in(tmp_path):
        found = along_training(FEW_PAIRS[:3], {"from base": plan}, 2, Lengths(), protocol, store=False)
        folder = fine_tune(lm, FEW_PAIRS, plan.recipe)
        last = policy_table(FEW_PAIRS[:3], load_lm(f"{tuned_base}+{folder}"), lm, protocol)
    assert sorted(set(found["step"])) == [1, 3]
    lengths = last.assign(reward=last["response"].str.len().astype(float))
    here = found[found["step"] == 3].set_index(["method", "prompt_id"])["reward"]
    for p in FEW_PAIRS[:3]:
        part = lengths[lengths["prompt_id"] == p.prompt_id]
        assert here["policy", p.prompt_id] == pytest.approx(part["reward"].mean())
        assert here["policy + S", p.prompt_id] == part.loc[part["S"].idxmax(), "reward"]
    means, gains = along_means(found)
    at = means.set_index(["step", "method"])["mean"]
    assert gains.set_index("step").loc[3, "mean"] == pytest.approx(at[3, "policy + S"] - at[3, "policy"])
    assert list(gains["n"]) == [3, 3]
    told = gains.assign(mean=[0.5, -0.5], low=[0.1, -0.9], high=[0.9, -0.1])
    assert along_sentence(told) == (
        "from base: S raises the reward at step 1 and lowers the reward at step 3 (of 1, 3); the largest gain is "
        "0.50 [0.10, 0.90], at step 1. The 95 % intervals are over 3 prompts, with one training seed."
    )


@pytest.mark.parametrize(
    ("steps", "n", "points"), [(50, 8, (1, 3, 7, 12, 20, 28, 38, 50)), (3, 8, (1, 2, 3)), (1, 5, (1,)), (9, 1, (9,))]
)
def test_points_of_a_training(steps, n, points):
    """Close together at the beginning, none twice, and the last step among them."""
    assert _points(steps, n) == points
