"""Fine-tuning: known first losses, adapters found and loaded again, interrupted and spoilt trainings, S on a tuned policy."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from icdpo_nb import finetune
from icdpo_nb.algorithm import candidates_table
from icdpo_nb.data import Preference
from icdpo_nb.finetune import (
    Recipe,
    fine_tune,
    first_candidates,
    loss_curves,
    policy_table,
    policy_tables,
    reward_by_n,
    training,
    training_cost,
    tuned_picks,
)
from icdpo_nb.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED, InputError
from icdpo_nb.templates import base_context

PAIRS = [Preference(str(i), "d", f"Human: Say {i}", f"Well, {i} it is.", f"No {i}!") for i in range(12)]
SMALL = {"n_pairs": 12, "batch": 4, "rank": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_tiny_lm(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """An adapter of each method, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICDPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TQDM_DISABLE", "1")
        return {m: fine_tune(base, PAIRS, Recipe(m, **SMALL)) for m in finetune.LEARNING_RATES}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "cache"


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(("method", "loss"), [("DPO", math.log(2)), ("IPO", 1 / (2 * 0.1) ** 2), ("KTO", 0.5)])
def test_first_losses(tuned, method, loss):
    """Before the first step the policy is its reference: -log σ(0), (0 - 1/2β)² and 1 - σ(0)."""
    assert training(tuned[method])["losses"][0] == pytest.approx(loss, rel=1e-4)


def test_first_loss_of_sft_is_that_of_the_responses_alone(base, tuned):
    """Mean over the tokens of the responses and their EOS; the prompt is not taught."""
    lm, eos = load_lm(base), RECOMMENDED.but(eos_scored="always")
    nll = [lm.logprobs([base_context(p.prompt)], [[lm.encode_response(p.chosen, eos)]])[0][0] for p in PAIRS]
    by_step = training(tuned["SFT"])["losses"]
    assert len(by_step) == 3
    assert min(-v.mean() for v in nll) < by_step[0] < max(-v.mean() for v in nll)
    one = training(fine_tune(base, PAIRS[:1], Recipe("SFT", **SMALL | {"n_pairs": 1})))["losses"][0]
    assert one == pytest.approx(-nll[0].mean(), rel=1e-4)


def test_what_was_trained_is_found_again(base, tuned, cache, monkeypatch):
    recipe = Recipe("DPO", **SMALL)
    first = fine_tune(base, PAIRS, recipe)
    assert sorted(p.name for p in first.parent.iterdir()) == [first.name, f"{first.name}.lock"], "no checkpoint is left"
    for name, values in weights(first).items():
        assert torch.equal(values, weights(tuned["DPO"])[name]), "the same seed gives the same adapter"
    train = finetune._train
    monkeypatch.setattr(finetune, "_train", None)
    assert fine_tune(base, PAIRS, recipe) == first
    monkeypatch.setattr(finetune, "_train", train)
    assert fine_tune(base, PAIRS, Recipe("DPO", **SMALL | {"seed": 1})) != first
    assert fine_tune(base, PAIRS[1:], recipe) != first
    path = first / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert fine_tune(base, PAIRS, recipe) == first
    assert torch.equal(weights(first)["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"],
                       weights(tuned["DPO"])["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"])  # fmt: skip


def test_an_adapter_is_loaded_on_its_base(base, tuned):
    """The log-probabilities are those of peft's own model, which keeps the adapter apart."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lm, policy = load_lm(base), load_lm(f"{base}+{tuned['DPO']}")
    assert policy.fingerprint not in (lm.fingerprint, load_lm(f"{base}+{tuned['SFT']}").fingerprint)
    assert policy.fingerprint == load_lm(f"{base}+{tuned['DPO']}").fingerprint
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tuned["DPO"])
    context, y = base_context(PAIRS[0].prompt), policy.encode_response(PAIRS[0].chosen)
    ids = policy.encode_context(context)
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([[*ids, *y.token_ids]])).logits[0].double()
    expected = torch.log_softmax(logits, -1)[len(ids) - 1 : -1].gather(-1, torch.tensor(y.token_ids)[:, None])[:, 0]
    found = policy.logprobs([context], [[y]])[0][0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert not np.allclose(found, lm.logprobs([context], [[y]])[0][0], atol=1e-2)


def test_adapters_that_cannot_be_loaded(base, tuned, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(tuned["SFT"], pickled)
    torch.save(load_file(pickled / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="has no adapter_model.safetensors; give the folder"):
        load_lm(f"{base}+{pickled}")
    with pytest.raises(InputError, match="adapter '/nowhere' has no adapter_config.json"):
        load_lm(f"{base}+/nowhere")
    other = tmp_path / "other"
    shutil.copytree(tuned["SFT"], other)
    save_file(
        {k: torch.ones(v.shape[0] + 1, v.shape[1]) for k, v in weights(other).items()}, other / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match="does not fit its model"):
        load_lm(f"{base}+{other}")


class Interrupt(TrainerCallback):
    """Interrupts a training in its eighth step, after a checkpoint."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_an_interrupted_training_goes_on(base, cache, tmp_path, monkeypatch):
    """The last checkpoint is cut short too, as if the process had been killed in it: the one before serves."""
    recipe = Recipe("DPO", **SMALL | {"batch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "_watch", lambda *given: Interrupt())
        patch.setattr(finetune, "CHECKPOINTS", 6)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(base, PAIRS, recipe)
    (partial,) = (cache / "adapters").glob("*.partial")
    (kept,) = partial.glob("checkpoint-*")
    assert kept.name == "checkpoint-6"
    (partial / "checkpoint-8").mkdir()
    (partial / "checkpoint-8" / "trainer_state.json").write_text('{"epoch":')
    resumed = fine_tune(base, PAIRS, recipe)
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "another"))
    whole = fine_tune(base, PAIRS, recipe)
    np.testing.assert_allclose(training(resumed)["losses"], training(whole)["losses"], rtol=1e-5)
    for name, values in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], values)


class Spoil(TrainerCallback):
    """Makes a weight infinite before the eighth step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 7:
            next(p for p in model.parameters() if p.requires_grad).data[0, 0] = float("inf")


def test_a_loss_that_is_not_finite_ends_the_training(base, cache, monkeypatch):
    def spoilt(*given, make=finetune._trainer):
        trainer = make(*given)
        trainer.add_callback(Spoil())
        return trainer

    monkeypatch.setattr(finetune, "_trainer", spoilt)
    with pytest.raises(
        InputError, match="SFT: the loss was no longer finite at step 8; the last good adapter is in .*checkpoint-6;"
    ):
        fine_tune(base, PAIRS, Recipe("SFT", **SMALL | {"batch": 1}))
    (kept,) = (cache / "adapters").glob("*.partial/checkpoint-6")
    assert all(values.isfinite().all() for values in weights(kept).values())
    assert not [p for p in (cache / "adapters").iterdir() if (p / finetune.TRAINING).exists()]


def test_the_score_of_a_policy(base, tuned):
    """S is the mean difference of the log-probabilities of policy and base model, each scored by itself."""
    lm, policy = load_lm(base), load_lm(f"{base}+{tuned['DPO']}")
    protocol = RECOMMENDED.but(max_new_tokens=6, n_candidates=2)
    table = policy_table(PAIRS[:2], policy, lm, protocol)
    sampled = policy.sample([base_context(p.prompt) for p in PAIRS[:2]], 2, protocol)
    for i, p in enumerate(PAIRS[:2]):
        for j, y in enumerate(sampled[i]):
            row = table[(table["prompt_id"] == p.prompt_id) & (table["candidate_id"] == j)].iloc[0]
            expert, amateur = (m.logprobs([base_context(p.prompt)], [[y]], rescore=True)[0][0] for m in (policy, lm))
            assert row["response"] == y.text
            assert row["S"] == pytest.approx((expert - amateur).mean(), abs=1e-4)
    assert (table["logp_icl"] != table["logp_base"]).all()


class Length:
    """A reward made by hand: the length of the response."""

    name = note = fingerprint = "length"

    def score(self, prompts, responses):
        return np.array([float(len(y)) for y in responses])


def test_the_methods_of_table_4(base, tuned):
    """A policy answers with the mean of its candidates, + S with the best by S; with n = 1 S has no choice."""
    lm, protocol = load_lm(base), RECOMMENDED.but(max_new_tokens=5, n_candidates=3)
    adapters = {("raw", method): tuned[method] for method in ("SFT", "DPO")}
    tables, work = policy_tables(PAIRS[:4], adapters, lm, Length(), protocol, keep=False)
    assert list(work["model"]) == ["SFT, raw", "DPO, raw", base]
    assert (work["tokens"] > 0).all()
    assert list(tables) == [(base, "raw", "SFT"), (base, "raw", "DPO")]
    dpo = tables[base, "raw", "DPO"]
    assert (dpo["reward"] == dpo["response"].str.len()).all()
    beside = candidates_table(PAIRS[:4], None, lm, protocol).assign(reward=0.0)
    of_icdpo = beside.assign(S=0.0, S_hat=0.0)
    among = tables | {(base, "none", "none"): beside, (base, "raw", "random"): of_icdpo, (base, "raw", "R"): of_icdpo}
    found = tuned_picks(among, base, "raw")
    assert list(found) == ["Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR", "SFT", "SFT + S", "DPO", "DPO + S"]
    for p in PAIRS[:4]:
        here = dpo[dpo["prompt_id"] == p.prompt_id]
        one, best = (found[name].set_index("prompt_id").loc[p.prompt_id] for name in ("DPO", "DPO + S"))
        assert one["reward"] == pytest.approx(here["reward"].mean())
        assert best["S"] == here["S"].max()
    by_n = reward_by_n(tables).set_index(["method", "n_candidates"])["mean"]
    assert by_n["DPO", 3] == pytest.approx(found["DPO + S"]["reward"].mean())
    assert by_n["DPO", 1] == pytest.approx(dpo[dpo["candidate_id"] == 0]["reward"].mean())
    fewer = policy_table(PAIRS[:4], load_lm(f"{base}+{tuned['DPO']}"), lm, protocol.but(n_candidates=2))
    assert list(first_candidates(dpo, 2)["response"]) == list(fewer["response"])


def test_what_a_training_cost(base, tuned):
    cost = training_cost(list(tuned.values())).set_index("method")
    assert list(cost.index) == ["SFT", "DPO", "IPO", "KTO", "ICDPO"]
    assert cost.loc["ICDPO", "trained parameters"] == "0"
    assert cost.loc["DPO", "trained parameters"] == f"{sum(v.numel() for v in weights(tuned['DPO']).values()):,}"
    curves = loss_curves(list(tuned.values()))
    assert curves.groupby("method")["step"].max().to_dict() == {"DPO": 3, "IPO": 3, "KTO": 6, "SFT": 3}


@pytest.mark.parametrize(("given", "said"), [
    ({"method": "PPO"}, "method is 'PPO', but must be one of SFT, DPO, IPO, KTO"),
    ({"method": "DPO", "n_pairs": 0}, "n_pairs is 0"),
    ({"method": "DPO", "rank": 0}, "rank is 0"),
    ({"method": "DPO", "batch": -1}, "batch is -1"),
    ({"method": "DPO", "beta": 0.0}, "beta is 0.0"),
    ({"method": "DPO", "beta": float("nan")}, "beta is nan"),
    ({"method": "DPO", "learning_rate": -1e-4}, "learning_rate is -0.0001"),
])  # fmt: skip
def test_bad_recipes(given, said):
    with pytest.raises(InputError, match=said):
        Recipe(**given)


def test_bad_data_and_models(base, tmp_path):
    with pytest.raises(InputError, match="at least one preference pair"):
        fine_tune(base, [], Recipe("DPO"))
    endless = save_tiny_lm(tmp_path / "endless", eos=False)
    with pytest.raises(InputError, match="no EOS token"):
        fine_tune(str(endless), PAIRS, Recipe("DPO"))
