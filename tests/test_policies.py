"""Fine-tuned policies: the score S on them, and the methods of Table 4."""

import pytest
from conftest import FEW_PAIRS, Lengths

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.lm import load_lm
from icdpo_nb.policies import first_candidates, policy_table, policy_tables, reward_by_n, tuned_picks
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.templates import base_context


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


def test_the_methods_of_table_4(tuned_base, tuned):
    """A policy answers with the mean of its candidates, + S with the best by S; with n = 1 S has no choice."""
    lm, protocol = load_lm(tuned_base), RECOMMENDED.but(max_new_tokens=5, n_candidates=3)
    adapters = {("raw", method): tuned[method] for method in ("SFT", "DPO")}
    tables, work = policy_tables(FEW_PAIRS[:4], adapters, lm, Lengths(), protocol, keep=False)
    assert list(work["model"]) == ["SFT, raw", "DPO, raw", tuned_base]
    assert (work["tokens"] > 0).all()
    assert list(tables) == [(tuned_base, "raw", "SFT"), (tuned_base, "raw", "DPO")]
    dpo = tables[tuned_base, "raw", "DPO"]
    assert (dpo["reward"] == dpo["response"].str.len()).all()
    beside = candidates_table(FEW_PAIRS[:4], None, lm, protocol).assign(reward=0.0)
    of_icdpo = beside.assign(S=0.0, S_hat=0.0)
    among = tables | {
        (tuned_base, "none", "none"): beside,
        (tuned_base, "raw", "random"): of_icdpo,
        (tuned_base, "raw", "R"): of_icdpo,
    }
    found = tuned_picks(among, tuned_base, "raw")
    assert list(found) == ["Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR", "SFT", "SFT + S", "DPO", "DPO + S"]
    for p in FEW_PAIRS[:4]:
        here = dpo[dpo["prompt_id"] == p.prompt_id]
        one, best = (found[name].set_index("prompt_id").loc[p.prompt_id] for name in ("DPO", "DPO + S"))
        assert one["reward"] == pytest.approx(here["reward"].mean())
        assert best["S"] == here["S"].max()
    by_n = reward_by_n(tables).set_index(["method", "n_candidates"])["mean"]
    assert by_n["DPO", 3] == pytest.approx(found["DPO + S"]["reward"].mean())
    assert by_n["DPO", 1] == pytest.approx(dpo[dpo["candidate_id"] == 0]["reward"].mean())
    fewer = policy_table(FEW_PAIRS[:4], load_lm(f"{tuned_base}+{tuned['DPO']}"), lm, protocol.but(n_candidates=2))
    assert list(first_candidates(dpo, 2)["response"]) == list(fewer["response"])
