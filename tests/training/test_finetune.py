"""Fine-tuning: known first losses, adapters found and loaded again, interrupted and spoilt trainings."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import FEW_PAIRS, SMALL_RECIPE, Lengths, save_tiny_lm, training_in
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainingArguments

from icdpo_nb.common.errors import InputError
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.templates import base_context
from icdpo_nb.training import finetune, trainers
from icdpo_nb.training.finetune import adapter_at, fine_tune, loss_curves, training_cost, training_record
from icdpo_nb.training.recipes import METHODS, Recipe, paper_recipe, recipe_settings


@pytest.fixture(autouse=True)
def cache(tmp_path):
    with training_in(tmp_path / "cache") as folder:
        yield folder


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("method", "loss"),
    [
        ("DPO", math.log(2)),
        ("IPO", 1 / (2 * 0.1) ** 2),
        ("KTO", 0.5),
        ("RPO-Paired", math.log(2)),
        ("RPO-Unpaired", math.log(2)),
    ],
)
def test_first_losses(tuned, method, loss):
    """Before the first step the policy is its reference: -log σ(0), (0 - 1/2β)² and 1 - σ(0)."""
    assert training_record(tuned[method])["losses"][0] == pytest.approx(loss, rel=1e-4)


def test_first_loss_of_sft_is_that_of_the_responses_alone(tuned_base, tuned):
    """Mean over the tokens of the responses and their EOS; the prompt is not taught."""
    lm, eos = load_lm(tuned_base), RECOMMENDED.but(eos_scored="always")
    nll = [lm.logprobs([base_context(p.prompt)], [[lm.encode_response(p.chosen, eos)]])[0][0] for p in FEW_PAIRS]
    by_step = training_record(tuned["SFT"])["losses"]
    assert len(by_step) == 3
    assert min(-v.mean() for v in nll) < by_step[0] < max(-v.mean() for v in nll)
    one = training_record(fine_tune(load_lm(tuned_base), FEW_PAIRS[:1], Recipe("SFT", **SMALL_RECIPE | {"n_pairs": 1})))[
        "losses"
    ][0]
    assert one == pytest.approx(-nll[0].mean(), rel=1e-4)


def trainer_of(tuned_base, folder, recipe, pairs=FEW_PAIRS):
    """The trainer that a recipe makes, before it has trained."""
    job = finetune._job(finetune.Plan(load_lm(tuned_base), pairs, recipe, Lengths()), RECOMMENDED)
    model, tokenizer, *_ = finetune.load_adapted(*job.model)
    return finetune.make_trainer(model, tokenizer, finetune._with_embeddings(job).rows, recipe, folder, True)


@pytest.mark.parametrize(("n_pairs", "batch", "matched"), [(12, 4, 0), (11, 4, 0), (10, 4, 0), (9, 4, 2), (3, 8, 0)])
def test_the_pairs_of_ktos_kl_term_are_mismatched(tuned_base, tmp_path, n_pairs, batch, matched):
    """No prompt meets one of its own two responses, but in a last batch of one pair, which has no others."""
    trainer = trainer_of(tuned_base, tmp_path, Recipe("KTO", **SMALL_RECIPE | {"n_pairs": n_pairs, "batch": batch}))
    tokenizer = load_lm(tuned_base).tokenizer
    own = {base_context(p.prompt): {f" {p.chosen}", f" {p.rejected}"} for p in FEW_PAIRS}
    found, sizes = [], []
    for step in trainer.get_train_dataloader():
        sizes.append(int(step["label"].sum()))
        assert 2 * sizes[-1] == len(step["label"]), "as many chosen as rejected"
        for ids, mask in zip(step["KL_input_ids"], step["KL_completion_mask"], strict=True):
            text = [tokenizer.decode(ids[mask == side], skip_special_tokens=True) for side in (0, 1)]
            found.append(text[1] in own[text[0]])
    assert len(found) == 2 * n_pairs
    assert sizes == [min(batch, n_pairs - i) for i in range(0, n_pairs, batch)]
    assert sum(found) == matched


def test_every_method_reads_the_same_pairs_in_the_same_order(tuned_base, tmp_path):
    """The chosen responses of each step, as the trainers' own loaders give them; only unpaired RPO moves the rejected ones."""
    tokenizer, read = load_lm(tuned_base).tokenizer, {}
    for method in METHODS:
        trainer, steps = trainer_of(tuned_base, tmp_path / method, Recipe(method, **SMALL_RECIPE)), []
        for step in trainer.get_train_dataloader():
            rows = step.get("ids", step.get("input_ids"))
            rows = rows[:, 0] if rows.ndim == 3 else rows[:4]  # chosen before rejected, whoever collates
            steps.append([tokenizer.decode(ids, skip_special_tokens=True).replace("<pad>", "") for ids in rows])
        read[method] = steps
    assert [len(texts) for texts in read["SFT"]] == [4, 4, 4]
    assert len({str(steps) for steps in read.values()}) == 1, read


def test_ipo_by_equation_5_and_as_trl_has_it(tuned_base, tuned, tmp_path):
    """Step by step the same first gradient as a loop over Eq. 5; divided by tokens, the same losses as TRL's own trainer."""
    import trl
    from datasets import Dataset

    lm, policy = load_lm(tuned_base), load_lm(f"{tuned_base}+{tuned['DPO']}")
    sums, means, always = [], [], RECOMMENDED.but(eos_scored="always")
    for p in FEW_PAIRS[:3]:
        sides = []
        for y in (lm.encode_response(text, always) for text in (p.chosen, p.rejected)):
            ours, theirs = (m.logprobs([base_context(p.prompt)], [[y]])[0][0] for m in (policy, lm))
            sides.append((ours - theirs).astype(float))
        sums.append((sides[0].sum() - sides[1].sum() - 1 / (2 * 0.2)) ** 2)
        means.append((sides[0].mean() - sides[1].mean() - 1 / (2 * 0.2)) ** 2)
    small = SMALL_RECIPE | {"n_pairs": 3, "beta": 0.2}
    for ipo, expected in (("sum", sums), ("token_mean", means)):
        trainer = trainer_of(tuned_base, tmp_path / ipo, Recipe("IPO", **small, ipo=ipo), FEW_PAIRS[:3])
        assert isinstance(trainer, trl.DPOTrainer) == (ipo == "token_mean")
        trainer.model.load_adapter(tuned["DPO"], "default")
        (batch,) = trainer.get_train_dataloader()
        if ipo == "sum":
            with torch.no_grad():
                loss = trainer.loss(*trainer.logratios(trainer.model, batch), batch)
        else:
            loss = trainer.compute_loss(trainer.model, batch).detach()
        assert float(loss) == pytest.approx(np.mean(expected), rel=1e-3)
    folder = fine_tune(lm, FEW_PAIRS, Recipe("IPO", **SMALL_RECIPE, ipo="token_mean"))
    assert not np.allclose(training_record(folder)["losses"], training_record(tuned["IPO"])["losses"], rtol=1e-2)
    job = finetune._job(finetune.Plan(lm, FEW_PAIRS, Recipe("IPO", **SMALL_RECIPE), None), RECOMMENDED)
    model, tokenizer, *_ = finetune.load_adapted(*job.model)
    model.set_attn_implementation("sdpa")
    plain = trainer_of(tuned_base, tmp_path / "plain", Recipe("IPO", **SMALL_RECIPE, ipo="token_mean"))
    args = trl.DPOConfig(**{k: getattr(plain.args, k) for k in (
        "output_dir", "per_device_train_batch_size", "num_train_epochs", "seed", "train_sampling_strategy", "learning_rate",
        "lr_scheduler_type", "warmup_steps", "use_cpu", "bf16", "gradient_checkpointing", "report_to", "logging_steps",
        "disable_tqdm", "save_strategy", "beta",
    )}, loss_type=["ipo"])  # fmt: skip
    theirs = trl.DPOTrainer(
        model, args=args, train_dataset=Dataset.from_list(job.rows), processing_class=tokenizer,
        peft_config=plain.model.peft_config["default"],
    )  # fmt: skip
    theirs.train()
    np.testing.assert_allclose(
        [e["loss"] for e in theirs.state.log_history if "loss" in e], training_record(folder)["losses"], rtol=1e-3
    )


def test_several_gpus_change_no_batch(tmp_path):
    """transformers multiplies the batch by their number; here two are pretended."""
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, use_cpu=True, report_to=[])
    args._n_gpu = 2
    assert args.train_batch_size == 16
    assert trainers.on_one_device(args).train_batch_size == 8


def test_the_papers_recipe(tuned_base, tmp_path):
    """RMSprop and what else Table 5 prints; warm-up, schedule and clipping of the released code; and what is given counts."""
    recipe = paper_recipe("RPO-Paired", n_pairs=12)
    printed = {"batch": 64, "learning_rate": 5e-7, "beta": 0.1, "tau": 0.5, "optimizer": "rmsprop"}
    assert {name: recipe.effective[name] for name in printed} == printed
    assert paper_recipe("RPO-Unpaired").effective["tau"] == 0.75
    trainer = trainer_of(tuned_base, tmp_path, recipe)
    trainer.create_optimizer_and_scheduler(400)
    assert type(getattr(trainer.optimizer, "optimizer", trainer.optimizer)) is torch.optim.RMSprop
    rates = []
    for _ in range(160):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[75] == pytest.approx(5e-7 / 2)
    assert rates[150] == rates[-1] == pytest.approx(5e-7)
    assert trainer.args.max_grad_norm == 10
    assert recipe_settings("paper", {"batch": 8}, learning_rate=0.0, batch=16)["batch"] == 16
    assert recipe_settings("workbook", {"batch": 8, "learning_rate": 0.001}, batch=0) == {"batch": 8, "learning_rate": 0.001}
    with pytest.raises(InputError, match="recipe is 'papers', but must be workbook or paper"):
        recipe_settings("papers", {})


def test_adapters_of_given_steps_are_kept(tuned_base, tuned, cache, monkeypatch):
    """The adapter after a step is that of the training, found again, and trained anew where it is gone."""
    lm, recipe = load_lm(tuned_base), Recipe("DPO", **SMALL_RECIPE, keep=(1, 3))
    folder = fine_tune(lm, FEW_PAIRS, recipe)
    for name, values in weights(tuned["DPO"]).items():
        assert torch.equal(weights(folder)[name], values), "keeping changes nothing"
        assert torch.equal(weights(adapter_at(folder, 3))[name], values), "the last step"
        assert not torch.equal(weights(adapter_at(folder, 1))[name], values) or not values.any()
    assert load_lm(f"{tuned_base}+{adapter_at(folder, 1)}").fingerprint != load_lm(f"{tuned_base}+{folder}").fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "load_adapted", None)
        assert fine_tune(lm, FEW_PAIRS, recipe) == folder
    shutil.rmtree(adapter_at(folder, 1))
    assert fine_tune(lm, FEW_PAIRS, recipe) == folder
    assert adapter_at(folder, 1).exists()
    with pytest.raises(InputError, match=r"keep is \[1, 4\], but one pass over 12 pairs has 3 steps"):
        fine_tune(lm, FEW_PAIRS, Recipe("DPO", **SMALL_RECIPE, keep=(1, 4)))


@pytest.mark.slow
def test_what_was_trained_is_found_again(tuned_base, tuned, cache, monkeypatch):
    recipe = Recipe("DPO", **SMALL_RECIPE)
    lm = load_lm(tuned_base)
    first = fine_tune(lm, FEW_PAIRS, recipe)
    assert sorted(p.name for p in first.parent.iterdir()) == [first.name, f"{first.name}.lock"], "no checkpoint is left"
    for name, values in weights(first).items():
        assert torch.equal(values, weights(tuned["DPO"])[name]), "the same seed gives the same adapter"
    with monkeypatch.context() as patch:  # neither trained again nor loaded
        patch.setattr(finetune, "load_adapted", None)
        assert fine_tune(lm, FEW_PAIRS, recipe) == first
        of_no_use = {"tau": 0.1, "weighting": "uniform", "alpha": 0.3, "matrix": 2, "encoded": "prompt+response"}
        assert fine_tune(lm, FEW_PAIRS, Recipe("DPO", **SMALL_RECIPE, **of_no_use), embed=Lengths()) == first
    assert fine_tune(lm, FEW_PAIRS, Recipe("DPO", **SMALL_RECIPE | {"seed": 1})) != first
    assert fine_tune(lm, FEW_PAIRS[1:], recipe) != first
    kinds = ({}, {"tau": 0.1}, {"weighting": "uniform"}, {"matrix": 2}, {"encoded": "prompt+response"})
    rpo = [Recipe("RPO-Paired", **SMALL_RECIPE, **changed) for changed in kinds]
    assert len({fine_tune(lm, FEW_PAIRS, r, embed=Lengths()) for r in rpo}) == len(kinds)
    path = first / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert fine_tune(lm, FEW_PAIRS, recipe) == first
    assert torch.equal(weights(first)["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"],
                       weights(tuned["DPO"])["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"])  # fmt: skip


def test_an_adapter_is_loaded_on_its_base(tuned_base, tuned):
    """The log-probabilities are those of peft's own model, which keeps the adapter apart."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lm, policy = load_lm(tuned_base), load_lm(f"{tuned_base}+{tuned['DPO']}")
    assert policy.fingerprint not in (lm.fingerprint, load_lm(f"{tuned_base}+{tuned['SFT']}").fingerprint)
    assert policy.fingerprint == load_lm(f"{tuned_base}+{tuned['DPO']}").fingerprint
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tuned_base), tuned["DPO"])
    context, y = base_context(FEW_PAIRS[0].prompt), policy.encode_response(FEW_PAIRS[0].chosen)
    ids = policy.encode_context(context)
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([[*ids, *y.token_ids]])).logits[0].double()
    expected = torch.log_softmax(logits, -1)[len(ids) - 1 : -1].gather(-1, torch.tensor(y.token_ids)[:, None])[:, 0]
    found = policy.logprobs([context], [[y]])[0][0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert not np.allclose(found, lm.logprobs([context], [[y]])[0][0], atol=1e-2)


def test_a_policy_may_begin_as_another(tuned_base, tuned, tmp_path):
    """DPO on top of SFT: the SFT policy is what it begins as and its reference."""
    sft = load_lm(f"{tuned_base}+{tuned['SFT']}")
    folder = fine_tune(sft, FEW_PAIRS, Recipe("DPO", **SMALL_RECIPE))
    assert training_record(folder)["base"] == sft.name
    assert training_record(folder)["losses"][0] == pytest.approx(math.log(2), rel=1e-4)
    policy = load_lm(f"{sft.name}+{folder}")
    assert len({lm.fingerprint for lm in (policy, sft, load_lm(f"{tuned_base}+{folder}"), load_lm(tuned_base))}) == 4
    merged = tmp_path / "merged"
    sft.engine.model.save_pretrained(merged)
    sft.tokenizer.save_pretrained(merged)
    context, y = base_context(FEW_PAIRS[0].prompt), policy.encode_response(FEW_PAIRS[0].chosen)
    found, expected = (lm.logprobs([context], [[y]])[0][0] for lm in (policy, load_lm(f"{merged}+{folder}")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_rpo_compares(monkeypatch):
    """Prompts alone, or each side's own text (Table 6); no encoder is asked where no weights need it."""
    rows = [{"prompt": f"Human: {i}\n\nAssistant:", "chosen": " yes", "rejected": " no"} for i in range(2)]
    asked = []

    def encoder(texts):
        asked.append(list(texts))
        return np.array([[float(len(t))] for t in texts])

    def embedded(**changed):
        prompts, recipe = ["Human: 0", "Human: 1"], Recipe("RPO-Paired", **changed)
        return finetune._with_embeddings(finetune._Job((), 0, rows, prompts, recipe, encoder, None, {})).rows

    found = embedded()
    assert asked == [["Human: 0", "Human: 1"]] * 2
    assert found[0]["chosen_embedding"] == found[0]["rejected_embedding"] == [8.0]
    found = embedded(encoded="prompt+response")
    assert asked[-1] == ["Human: 0\n\nAssistant: no", "Human: 1\n\nAssistant: no"]
    assert found[1]["chosen_embedding"] == [24.0]
    assert finetune._encoder(Recipe("RPO-Paired", weighting="uniform"), encoder) is None
    assert finetune._encoder(Recipe("DPO"), encoder) is None


def test_adapters_that_cannot_be_loaded(tuned_base, tuned, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(tuned["SFT"], pickled)
    torch.save(load_file(pickled / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="has no adapter_model.safetensors; give the folder"):
        load_lm(f"{tuned_base}+{pickled}")
    with pytest.raises(InputError, match="adapter '/nowhere' has no adapter_config.json"):
        load_lm(f"{tuned_base}+/nowhere")
    other = tmp_path / "other"
    shutil.copytree(tuned["SFT"], other)
    save_file(
        {k: torch.ones(v.shape[0] + 1, v.shape[1]) for k, v in weights(other).items()}, other / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match="does not fit its model"):
        load_lm(f"{tuned_base}+{other}")


class Interrupt(TrainerCallback):
    """Interrupts a training in its eighth step, after a checkpoint."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_an_interrupted_training_goes_on(tuned_base, cache, tmp_path, monkeypatch):
    """The last checkpoint is cut short too, as if the process had been killed in it: the one before serves."""
    recipe = Recipe("DPO", **SMALL_RECIPE | {"batch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "stop_when_not_finite", lambda *given: Interrupt())
        patch.setattr(trainers, "CHECKPOINTS", 6)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(load_lm(tuned_base), FEW_PAIRS, recipe)
    (partial,) = (cache / "adapters").glob("*.partial")
    (kept,) = partial.glob("checkpoint-*")
    assert kept.name == "checkpoint-6"
    (partial / "checkpoint-8").mkdir()
    (partial / "checkpoint-8" / "trainer_state.json").write_text('{"epoch":')
    resumed = fine_tune(load_lm(tuned_base), FEW_PAIRS, recipe)
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "another"))
    whole = fine_tune(load_lm(tuned_base), FEW_PAIRS, recipe)
    np.testing.assert_allclose(training_record(resumed)["losses"], training_record(whole)["losses"], rtol=1e-5)
    for name, values in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], values)


class Spoil(TrainerCallback):
    """Makes a weight infinite before the eighth step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 7:
            next(p for p in model.parameters() if p.requires_grad).data[0, 0] = float("inf")


def test_a_loss_that_is_not_finite_ends_the_training(tuned_base, cache, monkeypatch):
    def spoilt(*given, make=finetune.make_trainer):
        trainer = make(*given)
        trainer.add_callback(Spoil())
        return trainer

    monkeypatch.setattr(finetune, "make_trainer", spoilt)
    with pytest.raises(
        InputError, match="SFT: the loss was no longer finite at step 8; the last good adapter is in .*checkpoint-6;"
    ):
        fine_tune(load_lm(tuned_base), FEW_PAIRS, Recipe("SFT", **SMALL_RECIPE | {"batch": 1}))
    (kept,) = (cache / "adapters").glob("*.partial/checkpoint-6")
    assert all(values.isfinite().all() for values in weights(kept).values())
    assert not [p for p in (cache / "adapters").iterdir() if (p / finetune.TRAINING).exists()]


def test_what_a_training_cost(tuned_base, tuned):
    cost = training_cost(list(tuned.values())).set_index("method")
    assert list(cost.index) == [*METHODS, "ICDPO"]
    assert cost.loc["ICDPO", "trained parameters"] == "0"
    assert cost.loc["DPO", "trained parameters"] == f"{sum(v.numel() for v in weights(tuned['DPO']).values()):,}"
    curves = loss_curves(list(tuned.values()))
    assert curves.groupby("method")["step"].max().to_dict() == dict.fromkeys(METHODS, 3), "pairs a step, KTO's too"


@pytest.mark.parametrize(("given", "said"), [
    ({"method": "PPO"}, "method is 'PPO', but must be one of SFT, DPO, IPO, KTO, RPO-Paired, RPO-Unpaired"),
    ({"method": "DPO", "n_pairs": 0}, "n_pairs is 0"),
    ({"method": "DPO", "rank": 0}, "rank is 0"),
    ({"method": "DPO", "batch": -1}, "batch is -1"),
    ({"method": "DPO", "beta": 0.0}, "beta is 0.0"),
    ({"method": "DPO", "beta": float("nan")}, "beta is nan"),
    ({"method": "DPO", "learning_rate": -1e-4}, "learning_rate is -0.0001"),
    ({"method": "RPO-Paired", "tau": -1.0}, "tau is -1.0"),
    ({"method": "RPO-Paired", "alpha": 1.1}, "alpha is 1.1, but must lie between 0 and 1"),
    ({"method": "RPO-Paired", "matrix": 17}, "matrix is 17, but must be 0 or lie between 1 and batch, 16"),
    ({"method": "RPO-Paired", "encoded": "all"}, "encoded is 'all', but must be prompt or prompt.response"),
    ({"method": "IPO", "ipo": "mean"}, "ipo is 'mean', but must be sum or token_mean"),
    ({"method": "DPO", "optimizer": "sgd"}, "optimizer is 'sgd', but must be adamw or rmsprop"),
    ({"method": "DPO", "schedule": "linear"}, "schedule is 'linear', but must be cosine or constant"),
    ({"method": "DPO", "clip": 0.0}, "clip is 0.0, but must be a number above 0"),
    ({"method": "RPO-Paired", "weighting": "even"}, "weighting is 'even', but must be embedding, uniform or diagonal"),
])  # fmt: skip
def test_bad_recipes(given, said):
    with pytest.raises(InputError, match=said):
        Recipe(**given)


def test_bad_data_and_models(tuned_base, tmp_path):
    with pytest.raises(InputError, match="at least one preference pair"):
        fine_tune(load_lm(tuned_base), [], Recipe("DPO"))
    with pytest.raises(InputError, match="RPO-Paired uses the similarity of prompts; give it an encoder"):
        fine_tune(load_lm(tuned_base), FEW_PAIRS, Recipe("RPO-Paired"))
    endless = save_tiny_lm(tmp_path / "endless", eos=False)
    with pytest.raises(InputError, match="no EOS token"):
        fine_tune(load_lm(str(endless)), FEW_PAIRS, Recipe("DPO"))
