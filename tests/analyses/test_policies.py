"""Fine-tuned policies: the score S on them, and the methods of Table 4."""

import pandas as pd
import pytest
from conftest import FEW_PAIRS, SMALL_RECIPE, Lengths, training_in

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses.comparison import chosen_responses
from icdpo_nb.analyses.policies import (
    adapter_name,
    first_candidates,
    in_every_seed,
    in_general,
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
from icdpo_nb.training.finetune import training_record
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


def test_claims_about_single_methods_in_general():
    claims = pd.DataFrame({"claim": ["SFT > Base", "DPO + S > DPO", "ICDPO + ŜR > SFT"], "mean": [1, 2, 3]})
    assert in_general(claims)["claim"].tolist() == [
        "Fine-tuning > Base",
        "A policy with S > the policy alone",
        "ICDPO + ŜR > SFT",
    ]
