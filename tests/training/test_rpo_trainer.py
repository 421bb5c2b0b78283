"""The trainer of RPO: against TRL's DPO, the engine's log-probabilities, and itself in parts."""

import numpy as np
import pytest
import torch
from conftest import FEW_PAIRS, SMALL_RECIPE, Lengths, training_in
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

from icdpo_nb.common.errors import InputError
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.templates import base_context
from icdpo_nb.training.finetune import fine_tune, training_record
from icdpo_nb.training.recipes import Recipe
from icdpo_nb.training.rpo_trainer import IGNORED, RPOTrainer, collate, rpo_items


@pytest.fixture
def rows() -> list[dict]:
    vectors = Lengths()([p.prompt for p in FEW_PAIRS]).tolist()
    sides = [{"prompt": base_context(p.prompt), "chosen": f" {p.chosen}", "rejected": f" {p.rejected}"} for p in FEW_PAIRS]
    return [row | {"chosen_embedding": v, "rejected_embedding": v} for row, v in zip(sides, vectors, strict=True)]


@pytest.fixture
def make(tuned_base, tmp_path):
    """A trainer of the base model with a fresh adapter that is no longer its reference."""

    def trainer(items, **how):
        set_seed(0)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tuned_base), LoraConfig(r=2, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], remove_unused_columns=False)
        return RPOTrainer(model, args=args, train_dataset=items, **how)

    return trainer


def test_items_hold_the_responses_and_their_end(rows, tuned_base):
    tokenizer = AutoTokenizer.from_pretrained(tuned_base)
    for row, item in zip(rows, rpo_items(rows, tokenizer, 999), strict=True):
        for side in ("chosen", "rejected"):
            taught = [t for t in item[side]["targets"] if t != IGNORED]
            assert tokenizer.decode(taught) == row[side] + tokenizer.eos_token
            assert tokenizer.decode(item[side]["ids"]) == row["prompt"] + row[side] + tokenizer.eos_token
    assert max(len(item["chosen"]["ids"]) for item in rpo_items(rows, tokenizer, 9)) == 9


def test_a_batch_holds_what_its_items_hold(rows, tuned_base):
    items = rpo_items(rows, AutoTokenizer.from_pretrained(tuned_base), 999)[:3]
    batch = collate(items)
    assert batch["embedding"].shape == (3, 2, 3)
    for i, item in enumerate(items):
        for j, side in enumerate(("chosen", "rejected")):
            n = len(item[side]["ids"])
            assert batch["ids"][i, j, :n].tolist() == item[side]["ids"]
            assert batch["targets"][i, j, :n].tolist() == item[side]["targets"]
            assert batch["mask"][i, j].tolist() == [1] * n + [0] * (batch["mask"].shape[-1] - n)
            assert (batch["targets"][i, j, n:] == IGNORED).all()


def test_unpaired_data_are_the_same_responses_apart(rows, tuned_base):
    tokenizer = AutoTokenizer.from_pretrained(tuned_base)
    paired, unpaired = (rpo_items(rows, tokenizer, 999, kind) for kind in (True, False))
    assert [i["chosen"] for i in paired] == [i["chosen"] for i in unpaired]
    ids = [[i["rejected"]["ids"] for i in items] for items in (paired, unpaired)]
    assert ids[0] != ids[1]
    assert sorted(ids[0]) == sorted(ids[1])
    known = {tuple(i["rejected"]["ids"]): i["rejected"]["embedding"] for i in paired}
    assert all(known[tuple(i["rejected"]["ids"])] == i["rejected"]["embedding"] for i in unpaired), "each with its own prompt"


def test_log_ratios_are_those_of_the_engine(tuned_base, tuned, make, rows):
    """Padding changes nothing: each sequence alone, through the engine, with the adapter merged."""
    trainer = make(rpo_items(rows, AutoTokenizer.from_pretrained(tuned_base), 999))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tuned_base), tuned["DPO"])
    with torch.no_grad():
        found = trainer.logratios(model, collate(trainer.train_dataset[:5]))
    lm, policy = load_lm(tuned_base), load_lm(f"{tuned_base}+{tuned['DPO']}")
    always = RECOMMENDED.but(eos_scored="always")
    for side, ratios in zip(("chosen", "rejected"), found, strict=True):
        for p, ratio in zip(FEW_PAIRS, ratios.tolist(), strict=False):
            y = lm.encode_response(getattr(p, side), always)
            theirs, ours = (m.logprobs([base_context(p.prompt)], [[y]])[0][0].sum() for m in (lm, policy))
            assert ratio == pytest.approx(ours - theirs, abs=1e-3)


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_a_matrix_in_parts_has_the_gradient_of_the_whole(tuned_base, make, rows, micro):
    items = rpo_items(rows, AutoTokenizer.from_pretrained(tuned_base), 999, paired=False)[:6]

    def step(size):
        trainer = make(items, micro=size, tau=0.2, beta=0.5)
        loss = trainer.training_step(trainer.model, collate(items))
        return loss, {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    (whole, expected), (loss, found) = step(0), step(micro)
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(loss, whole)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_with_one_prompt_a_step_it_is_dpo(tuned_base, tmp_path):
    """The same losses, step by step, as TRL's DPO on the same pairs in the same order."""
    lm, recipes = load_lm(tuned_base), [Recipe(m, **SMALL_RECIPE | {"batch": 1}) for m in ("DPO", "RPO-Paired")]
    with training_in(tmp_path):
        dpo, rpo = (training_record(fine_tune(lm, FEW_PAIRS, recipe, embed=Lengths())) for recipe in recipes)
    np.testing.assert_allclose(rpo["losses"], dpo["losses"], rtol=1e-3)
    assert dpo["losses"][-1] < dpo["losses"][0]


def test_matrices_smaller_than_the_batch(tuned_base, make, rows):
    """The loss is the mean over the rows of all matrices; the last may be smaller. With one row each it is DPO's."""
    items = rpo_items(rows, AutoTokenizer.from_pretrained(tuned_base), 999)[:7]
    batch, whole = collate(items), make(items, tau=0.2, beta=0.5)
    with torch.no_grad():
        chosen, rejected = whole.logratios(whole.model, batch)
    expected = 0.0
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        alone = {name: values[part] for name, values in batch.items()}
        expected += float(whole.loss(chosen[part], rejected[part], alone)) * len(range(7)[part]) / 7
    assert float(make(items, tau=0.2, beta=0.5, matrix=3).loss(chosen, rejected, batch)) == pytest.approx(expected)
    assert expected != pytest.approx(float(whole.loss(chosen, rejected, batch)), rel=1e-3)
    dpo = -torch.nn.functional.logsigmoid(0.5 * (chosen - rejected)).mean()
    assert float(make(items, beta=0.5, matrix=1).loss(chosen, rejected, batch)) == pytest.approx(float(dpo))


def test_weightings(tuned_base, make, rows):
    items = rpo_items(rows, AutoTokenizer.from_pretrained(tuned_base), 999)
    batch, kinds = collate(items), ("embedding", "uniform", "diagonal")
    found = {kind: make(items[:1], weighting=kind).weights(batch) for kind in kinds}
    assert all(weights.shape == (12, 12) for weights in found.values())
    assert found["uniform"][0, 0] == pytest.approx(1 / 12)
    assert found["diagonal"][3, 3] == pytest.approx(0.8)
    assert (found["embedding"].diag() == found["embedding"].amax(1)).all(), "no prompt is more like one than itself"
    with pytest.raises(InputError, match="weighting is 'even'"):
        make(items[:1], weighting="even")
