"""ICDPO as a labeller: pairs by hand, and a set that TRL, our own reader and our own training take."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_RECIPE, training_in

from icdpo_nb.algorithm import candidates_table
from icdpo_nb.analyses import labelling
from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import Preference, load_preferences
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever


def table(*rows) -> pd.DataFrame:
    """Candidates from (prompt, response, finish, S)."""
    columns = ["prompt_id", "response", "finish", "S"]
    made = pd.DataFrame(rows, columns=columns).assign(
        domain="d", lm="m", source="raw", n_tokens=lambda t: t["response"].str.len()
    )
    return made.assign(prompt="Human: " + made["prompt_id"])


def test_best_and_worst_by_hand():
    candidates = table(
        ("p", "middle", "eos", 1.0), ("p", "best", "stop", 3.5), ("p", "worst", "eos", -2.0), ("p", "longest", "length", 9.0),
        ("q", "same", "eos", 2.0), ("q", " same ", "eos", 2.0), ("q", "", "eos", -np.inf),
        ("r", "level", "eos", 1.0), ("r", "also", "eos", 1.0), ("r", "  ", "length", -np.inf),
    )  # fmt: skip
    pairs, dropped = labelling.label_candidates(candidates)
    assert pairs.to_dict("records") == [
        {"id": "p", "domain": "d", "prompt": "Human: p", "chosen": "best", "rejected": "worst", "margin": 5.5,
         "score_chosen": 3.5, "score_rejected": -2.0}
    ]  # fmt: skip
    assert dropped == {
        "candidates without text": 2,
        "candidates cut by the length limit": 1,
        "candidates copied from a demonstration": 0,
        "candidates with the text of another": 1,
        "prompts with fewer than two candidates left": 1,
        "prompts whose candidates all have the same score": 1,
    }
    assert labelling.labelling_sentence(pairs, dropped).startswith("1 pair, labelled by S; the median margin is 5.50 ")
    nothing = labelling.label_candidates(candidates[candidates["prompt_id"] != "p"])
    assert labelling.labelling_sentence(*nothing).startswith(
        "no prompt gives a pair, raise n_candidates or max_new_tokens; left out: candidates without text (2), "
    )
    assert list(labelling.standard_format(nothing[0]).columns) == labelling.COLUMNS
    assert list(labelling.conversational_format(nothing[0]).columns) == labelling.COLUMNS


def test_copies_of_a_demonstration_are_no_labels():
    """Two of the four runs of four words stand in the demonstration: a copy; one of four does not make one."""
    support = [Preference("d0", "d", "Human: slugs?", "Pick them off by hand. Use beer!", "No.")]
    rows = [("p", "PICK them off, by hand or not", "eos", 9.0), ("p", "Pick them off by all means now", "eos", 1.0),
            ("p", "Three words only", "eos", 0.0)]  # fmt: skip
    candidates = table(*rows).assign(demo_ids=[("d0",)] * 3)
    marked = labelling.with_copies(candidates, support)
    assert list(marked["copied"]) == [0.5, 0.25, 0.0]
    assert list(labelling.with_copies(candidates.assign(demo_ids=[()] * 3), support)["copied"]) == [0.0] * 3
    pairs, dropped = labelling.label_candidates(marked)
    assert dropped["candidates copied from a demonstration"] == 1
    assert list(pairs["chosen"]) == ["Pick them off by all means now"]
    assert labelling.copies_sentence(marked).endswith("1 of 3 candidates, 1 of 1 choices of S.")


def test_tables_that_cannot_be_labelled():
    one = table(("p", "a", "eos", 1.0), ("p", "b", "eos", 2.0))
    with pytest.raises(InputError, match="several values of lm"):
        labelling.label_candidates(pd.concat([one, one.assign(lm="other")]))
    with pytest.raises(InputError, match="have no S_hat"):
        labelling.label_candidates(one, "S_hat")
    with pytest.raises(InputError, match="have no S, or not all"):
        labelling.label_candidates(one.assign(S=[1.0, np.nan]))


def test_scores_are_checked_before_anything_is_sampled():
    labelling.check_score("S_hat")
    labelling.check_score("reward", rewarded=True)
    for name in ("reward", "s"):
        with pytest.raises(InputError, match=f"label_by is '{name}', but must be one of S, S_hat, ICL"):
            labelling.check_score(name)


def test_lengths_and_agreement_by_hand():
    candidates = table(("p", "a", "eos", 1.0), ("p", "abc", "eos", 2.0), ("q", "abcd", "eos", 1.0), ("q", "ab", "eos", 0.0))
    candidates = candidates.assign(S_hat=[0.0, 1.0, 0.0, 1.0])
    lengths = labelling.chosen_lengths(candidates).set_index(["method", "prompt_id"])["tokens"]
    assert dict(lengths) == {("ICDPO (S)", "p"): 1, ("ICDPO (S)", "q"): 1, ("ICDPO + Ŝ", "p"): 1, ("ICDPO + Ŝ", "q"): -1}
    assert labelling.agreement(candidates).mean == 0.5


@pytest.fixture(scope="module")
def sampled(pairs, tiny_lm) -> pd.DataFrame:
    retrievers = {d: RandomRetriever([p for p in pairs if p.domain == d]) for d in ("helpful", "harmless")}
    settings = RECOMMENDED.but(max_new_tokens=12, n_candidates=4)
    candidates = candidates_table(pairs, retrievers, tiny_lm, settings)
    return candidates.assign(finish="eos")  # a random model rarely ends


@pytest.fixture(scope="module")
def exported(sampled, tmp_path_factory):
    """The files of both formats, as a run writes them."""
    folder = tmp_path_factory.mktemp("export")
    labels, _ = labelling.label_candidates(sampled)
    assert len(labels) >= 6
    for name, shaped in (("standard", labelling.standard_format(labels)), ("chat", labelling.conversational_format(labels))):
        shaped.to_json(folder / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
    return folder, labels


@pytest.mark.parametrize("kind", ["standard", "chat"])
def test_our_own_reader_takes_it(exported, kind):
    folder, labels = exported
    data = load_preferences(folder / f"{kind}.jsonl")
    found = {p.prompt_id: p for p in (*data.support, *data.dev, *data.test)}
    assert data.dropped == {}
    assert set(found) == set(labels["id"])
    for row in labels.itertuples():
        p = found[row.id]
        assert (p.domain, p.prompt, p.chosen, p.rejected) == (row.domain, row.prompt, row.chosen, row.rejected)


@pytest.mark.parametrize("kind", ["standard", "chat"])
def test_trl_takes_it(exported, tuned_base, tmp_path, kind):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dataset = datasets.load_dataset(
        "json", data_files=str(exported[0] / f"{kind}.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    tokenizer = AutoTokenizer.from_pretrained(tuned_base)
    tokenizer.pad_token = "<pad>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}"
    config = trl.DPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tuned_base)
    trainer = trl.DPOTrainer(model, args=config, train_dataset=dataset, processing_class=tokenizer)
    result = trainer.train()
    assert result.global_step == 2
    assert np.isfinite(result.training_loss)


def test_our_own_training_takes_it(exported, tuned_base, tmp_path):
    from icdpo_nb.models.lm import load_lm
    from icdpo_nb.reports.job import read_job
    from icdpo_nb.training.finetune import fine_tune, training_record
    from icdpo_nb.training.recipes import Recipe

    file = str(exported[0] / "standard.jsonl")
    given = read_job("06_fine_tuning", {"preferences": file, "demonstrations": "raw"}).values
    (source,) = given["demonstrations"]
    data = load_preferences(given["preferences"], demonstrations=source)
    with training_in(tmp_path):
        adapter = fine_tune(load_lm(tuned_base), data.support, Recipe("DPO", **SMALL_RECIPE | {"n_pairs": 4}))
    assert training_record(adapter)["n_pairs"] == 4
    assert json.loads((exported[0] / "standard.jsonl").read_text().split("\n")[0])["margin"] > 0
