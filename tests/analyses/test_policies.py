"""Fine-tuned policies: the score S on them, and the methods of Table 4."""

import pandas as pd
import pytest
from conftest import FEW_PAIRS, SMALL_RECIPE, Lengths, training_in

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.comparison import chosen_responses
from icdpo_nb.analyses.policies import (
    _points,
    adapter_name,
    along_means,
    along_sentence,
    along_training,
    first_candidates,
    in_every_seed,
    mean_of_seeds,
    policy_table,
    reward_by_n,
    sample_policies,
    train_policies,
    tuned_methods,
)
from icdpo_nb.analyses.sampling import with_origin
from icdpo_nb.common.errors import InputError
from icdpo_nb.judging.rewards import with_rewards
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.templates import base_context
from icdpo_nb.training.finetune import Plan, fine_tune, training_record
from icdpo_nb.training.recipes import Recipe


def test_the_score_of_a_policy(tuned_base, tuned):
    """S is the mean difference of the log-probabilities of policy and base model, each scored by itself."""
    lm, policy = load_lm(tuned_base), load_lm(f"{tuned_base}+{tuned['DPO']}")
    protocol = RECOMMENDED.but(max_new_tokens=6, n_candidates=2)
    table = policy_table(FEW_PAIRS[:2], policy, lm, protocol)
    sampled = policy.sample([base_context(p.prompt) for p in FEW_PAIRS[:2]], 2, protocol)
    for i, p in enumerate(FEW_PAIRS[:2]):
        for j, y in enumerate(sampled[i]):
            row = table[(table["prompt_id"] == p.prompt_id) & (table["candidate_id"] == j)].iloc[0]
            expert, amateur = (m.logprobs([base_context(p.prompt)], [[y]], rescore=True)[0][0] for m in (policy, lm))
            assert row["response"] == y.text
            assert row["S"] == pytest.approx((expert - amateur).mean(), abs=1e-4)
    assert (table["logp_icl"] != table["logp_base"]).all()


@pytest.fixture(scope="module")
def policies(tuned_base, tmp_path_factory):
    """SFT and DPO from two seeds, DPO on top of SFT; by (source, method, seed)."""
    recipes = {method: Recipe(method, **SMALL_RECIPE) for method in ("SFT", "DPO")}
    with training_in(tmp_path_factory.mktemp("cache")):
        return train_policies(load_lm(tuned_base), {"raw": FEW_PAIRS}, recipes, [3, 4], store=False)


def test_preference_losses_begin_as_the_sft_policy_of_their_seed(tuned_base, policies, tmp_path):
    """As in both papers; from the base model where that is asked for, and never from nothing."""
    assert list(policies) == [("raw", "SFT", 3), ("raw", "SFT", 4), ("raw", "DPO", 3), ("raw", "DPO", 4)]
    for (_, method, seed), trained in policies.items():
        began = tuned_base if method == "SFT" else policies["raw", "SFT", seed].model
        assert training_record(trained.folder)["base"] == trained.reference.name == began
        assert training_record(trained.folder)["recipe"]["seed"] == seed
    with training_in(tmp_path):
        recipes = {"DPO": Recipe("DPO", **SMALL_RECIPE)}
        alone = train_policies(load_lm(tuned_base), {"raw": FEW_PAIRS}, recipes, [3], begin="base")
        assert training_record(alone["raw", "DPO", 3].folder)["base"] == tuned_base
        with pytest.raises(InputError, match="start from an SFT policy; add SFT to the methods"):
            train_policies(load_lm(tuned_base), {"raw": FEW_PAIRS}, recipes, [3])
        with pytest.raises(InputError, match="begin is 'dpo', but must be sft or base"):
            train_policies(load_lm(tuned_base), {"raw": FEW_PAIRS}, recipes, [3], begin="dpo")


def test_the_methods_of_table_4(tuned_base, policies):
    """A policy answers with the mean of its candidates, + S with the best by S, in every seed; with n = 1 S has no choice."""
    lm, protocol = load_lm(tuned_base), RECOMMENDED.but(max_new_tokens=5, n_candidates=3)
    answered, work = sample_policies(FEW_PAIRS[:4], policies, lm, protocol, store=False)
    assert list(work["model"])[:4] == ["SFT, raw, seed 3", "SFT, raw, seed 4", "DPO, raw, seed 3", "DPO, raw, seed 4"]
    assert len(work) == 4 + 2 + 1, "the two references and the base model too"
    assert answered[["lm", "source", "policy"]].drop_duplicates().values.tolist() == [
        [tuned_base, "raw", "SFT"],
        [tuned_base, "raw", "DPO"],
    ]
    answered = with_rewards(answered, reward=Lengths())
    dpo = answered[answered["policy"] == "DPO"]
    names = {seed: adapter_name(policies["raw", "DPO", seed].model) for seed in (3, 4)}
    assert dpo.groupby("seed")["adapter"].unique().map(list).to_dict() == {seed: [name] for seed, name in names.items()}
    assert names[3].count("+") == 2, "SFT's adapter and DPO's"
    beside = candidates_table(FEW_PAIRS[:4], None, lm, protocol).assign(reward=0.0)
    of_icdpo = [with_origin(beside.assign(S=0.0, S_hat=0.0), tuned_base, "raw", kind) for kind in ("random", "R")]
    among = pd.concat([with_origin(beside, tuned_base), *of_icdpo, answered], ignore_index=True)
    rewards = in_every_seed(chosen_responses(among, tuned_methods()), [3, 4])
    wanted = ["Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR", "SFT", "SFT + S", "DPO", "DPO + S"]
    assert rewards["method"].drop_duplicates().tolist() == wanted
    assert (rewards.groupby(["method", "seed"]).size() == 4).all()
    assert set(rewards.loc[rewards["method"] == "ICDPO", "adapter"]) == {tuned_base}
    at = rewards.set_index(["method", "seed", "prompt_id"])
    for seed, prompt in [(s, p.prompt_id) for s in (3, 4) for p in FEW_PAIRS[:4]]:
        here = dpo[(dpo["prompt_id"] == prompt) & (dpo["seed"] == seed)]
        assert at.loc[("DPO", seed, prompt), "reward"] == pytest.approx(here["reward"].mean())
        assert at.loc[("DPO + S", seed, prompt), "reward"] == here.loc[here["S"].idxmax(), "reward"]
        assert at.loc[("DPO + S", seed, prompt), "adapter"] == names[seed]
    means = mean_of_seeds(rewards).set_index(["method", "prompt_id"])["reward"]
    assert means["DPO + S", "0"] == pytest.approx(at.loc["DPO + S"].xs("0", level="prompt_id")["reward"].mean())
    by_n = reward_by_n(answered).set_index(["method", "n_candidates"])["mean"]
    assert by_n["DPO", 3] == pytest.approx(means["DPO + S"].mean())
    assert by_n["DPO", 1] == pytest.approx(dpo[dpo["candidate_id"] == 0]["reward"].mean())
    one = policies["raw", "DPO", 3]
    fewer = policy_table(FEW_PAIRS[:4], load_lm(one.model), one.reference, protocol.but(n_candidates=2), 3)
    assert list(first_candidates(dpo[dpo["seed"] == 3], 2)["response"]) == list(fewer["response"])


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
