"""Fine-tuning with LoRA adapters: SFT, DPO and KTO with TRL's trainers, RPO and IPO with our own.

A policy is trained on π(y | x) in the base context, so it differs from its reference only by the adapter. The reference is the
initial model: a base model, or an SFT policy on top of one. Adapters are cached under a digest of everything that affects them,
with the files `adapter_model.safetensors`, `adapter_config.json`, and `training.json`, which records the recipe, the loss curve
and the cost. `load_lm("base+folder")` loads a policy.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd

from ..common.errors import InputError
from ..common.files import cache_folder, digest
from ..data.preferences import Preference
from ..models.checkpoints import fingerprint, load_adapted
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..protocol import RECOMMENDED, Protocol
from ..templates import base_context
from .recipes import Recipe
from .trainers import SIDES, adapter_at, keep_steps, last_checkpoint, make_trainer, stop_when_not_finite, undisturbed

SCHEMA = 2  # increase it if a change to the code affects the trained weights
TRAINING, WEIGHTS = "training.json", "adapter_model.safetensors"
Key = TypeVar("Key")
PROCESS_BYTES = 2**30  # memory of a training process without the model


class Plan(NamedTuple):
    """A policy to be trained. `lm` is both its initial model and its reference."""

    lm: LanguageModel
    pairs: Sequence[Preference]  # from which the recipe draws `n_pairs`
    recipe: Recipe
    embed: Embedder | None = None  # used by RPO only, for the similarity of prompts


def fine_tune(
    lm: LanguageModel,
    pairs: Sequence[Preference],
    recipe: Recipe,
    protocol: Protocol = RECOMMENDED,
    embed: Embedder | None = None,
) -> Path:
    """Train an adapter on preference pairs, or find it in the cache; returns its folder.

    `load_lm(f"{lm.name}+{folder}")` loads the policy. The arguments are those of `Plan`. An interrupted training resumes from
    its last checkpoint. If the loss is no longer finite, `InputError` is raised and the last good adapter is retained. If two
    processes request the same adapter, it is trained once.
    """
    return fine_tune_all({"": Plan(lm, pairs, recipe, embed)}, protocol)[""]


def fine_tune_all(plans: Mapping[Key, Plan], protocol: Protocol = RECOMMENDED) -> dict[Key, Path]:
    """`fine_tune` for every plan, by key. On a CPU several trainings run in parallel, each in its own process.

    Training a small model leaves most of a CPU idle, so two trainings in parallel take little longer than one.
    """
    from tqdm.auto import tqdm

    if missing := [package for package in ("trl", "peft") if find_spec(package) is None]:
        raise InputError(f"fine-tuning needs {' and '.join(missing)}; run: pip install -c constraints.txt -e '.[train]'")
    jobs = {key: _job(plan, protocol) for key, plan in plans.items()}
    todo = list({job.folder: job for job in jobs.values() if not _is_complete(job)}.values())
    workers, threads = _at_a_time(todo)
    if workers == 1:
        for job in todo:
            _train_once(job)
    else:
        from joblib import Parallel, delayed, parallel_config

        embedded = [_with_embeddings(job) for job in todo]  # in this process, so that no worker loads an encoder
        with parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads):
            done = Parallel(return_as="generator_unordered")(delayed(_train_once)(job, quiet=True) for job in embedded)
            for _ in tqdm(done, "fine-tuning", len(todo)):
                pass
    return {key: job.folder for key, job in jobs.items()}


def training_record(folder: Path) -> dict:
    """The record of an adapter in `training.json`: method, recipe, losses, seconds, parameters and more."""
    return json.loads((folder / TRAINING).read_text(encoding="utf-8"))


def drawn(pairs: Sequence[Preference], recipe: Recipe) -> list[Preference]:
    """The training pairs of a recipe, in the order in which every method uses them."""
    return random.Random(recipe.seed).sample(list(pairs), min(recipe.n_pairs, len(pairs)))


def loss_curves(folders: Sequence[Path]) -> pd.DataFrame:
    """The loss curves of several adapters: columns method, step, loss."""
    rows = [(r["method"], step, loss) for r in map(training_record, folders) for step, loss in enumerate(r["losses"], 1)]
    return pd.DataFrame(rows, columns=["method", "step", "loss"])


def training_cost(folders: Sequence[Path]) -> pd.DataFrame:
    """The cost of training: columns method, pairs, trained parameters, of the model's (their share), seconds; 0 for ICDPO."""
    columns = ["method", "pairs", "trained parameters", "of the model's", "seconds"]
    rows = [
        (r["method"], r["n_pairs"], f"{r['trained']:,}", f"{r['trained'] / r['parameters']:.1%}", r["seconds"])
        for r in map(training_record, folders)
    ]
    return pd.DataFrame([*rows, ("ICDPO", 0, "0", "0.0%", 0.0)], columns=columns)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class _Job:
    """A training that another process can run, once its rows contain their embeddings."""

    model: tuple[str, str, str, str]  # name, dtype, device and revision for `load_adapted`
    n_parameters: int
    rows: list[dict]
    prompts: list[str]
    recipe: Recipe
    encoder: Embedder | None
    folder: Path
    record: dict


def _job(plan: Plan, protocol: Protocol) -> _Job:
    lm, pairs, recipe, embed = plan
    selected = drawn(pairs, recipe)
    if not selected:
        raise InputError("fine-tuning needs at least one preference pair")
    steps = recipe.steps(len(selected))
    if recipe.keep and not 1 <= min(recipe.keep) <= max(recipe.keep) <= steps:
        raise InputError(f"keep is {list(recipe.keep)}, but one pass over {len(selected)} pairs has {steps} steps")
    if lm.tokenizer.eos_token is None:
        raise InputError(f"model {lm.name!r}: its tokenizer has no EOS token, so it cannot learn to end a response")
    rows = [
        {"prompt": base_context(p.prompt, protocol), "chosen": f" {p.chosen}", "rejected": f" {p.rejected}"} for p in selected
    ]
    encoder = _encoder(recipe, embed)
    identity = [SCHEMA, lm.fingerprint, recipe.effective, rows, encoder and encoder.fingerprint]
    folder = cache_folder() / "adapters" / digest(identity)[:16]
    record = {"method": recipe.method, "recipe": recipe.effective, "base": lm.name, "base_fingerprint": lm.fingerprint}
    model = (lm.name, lm.dtype, lm.device, lm.revision)
    return _Job(model, lm.n_parameters, rows, [p.prompt for p in selected], recipe, encoder, folder, record)


def _encoder(recipe: Recipe, embed: Embedder | None) -> Embedder | None:
    """The encoder for RPO's embedding weights; None if it is not needed."""
    if not recipe.needs_encoder:
        return None
    if embed is None:
        raise InputError(f"{recipe.method} uses the similarity of prompts; give it an encoder (embed=Embedder())")
    return embed


def _with_embeddings(job: _Job) -> _Job:
    """Add the embeddings for RPO's weights to the rows of a job. They are computed once, not at every step."""
    if job.encoder is None:
        return job
    texts = {side: [row["prompt"] + row[side] for row in job.rows] for side in SIDES}
    if job.recipe.encoded == "prompt":
        texts = dict.fromkeys(SIDES, job.prompts)
    vectors = {side: job.encoder(texts[side]).tolist() for side in SIDES}
    rows = [row | {f"{side}_embedding": vectors[side][i] for side in SIDES} for i, row in enumerate(job.rows)]
    return replace(job, rows=rows, encoder=None)


def _at_a_time(jobs: Sequence[_Job]) -> tuple[int, int]:
    """The number of parallel trainings and the threads of each: one on a GPU, else as threads and memory permit."""
    import psutil
    import torch

    threads = torch.get_num_threads()
    if not jobs or any(job.model[2] != "cpu" for job in jobs):
        return 1, threads
    required = PROCESS_BYTES + 32 * max(job.n_parameters for job in jobs)  # 32 bytes per parameter for weights and activations
    workers = max(1, min(threads, len(jobs), psutil.virtual_memory().available // required))
    return workers, max(1, threads // workers)


def _train_once(job: _Job, quiet: bool = False) -> None:
    """Train, unless another process has done so. `quiet`: without a progress bar, for worker processes."""
    from filelock import FileLock

    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{job.folder}.lock"):
        if not _is_complete(job):
            shutil.rmtree(job.folder, ignore_errors=True)
            with undisturbed():
                _train(_with_embeddings(job), quiet)


def _is_complete(job: _Job) -> bool:
    """Whether the adapter is in the cache and unchanged, with those of all steps to keep."""
    try:
        unchanged = training_record(job.folder)["fingerprint"] == fingerprint(str(job.folder), "")
    except (OSError, ValueError, KeyError):
        return False
    return unchanged and all((adapter_at(job.folder, step) / WEIGHTS).exists() for step in job.recipe.keep)


def _train(job: _Job, quiet: bool) -> None:
    """Train, then move adapter and record to the folder atomically. Until then, checkpoints are kept next to it."""
    import peft
    import transformers

    recipe, folder = job.recipe, job.folder
    model, tokenizer, *_ = load_adapted(*job.model)
    partial = folder.with_name(f"{folder.name}.partial")
    transformers.set_seed(recipe.seed)
    total = model.num_parameters()
    trainer = make_trainer(model, tokenizer, job.rows, recipe, partial, quiet)
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.add_callback(stop_when_not_finite(recipe.method, partial))
    trainer.add_callback(keep_steps(recipe.keep, partial / "kept"))
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=last_checkpoint(partial))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    done = partial / "done"
    shutil.rmtree(done, ignore_errors=True)
    trainer.model.save_pretrained(done)  # safetensors
    for step in recipe.keep:
        os.replace(adapter_at(partial / "kept", step), adapter_at(done, step))
    record = {
        **job.record,
        "seconds": round(time.perf_counter() - began, 1),
        "n_pairs": len(job.rows),
        "parameters": total,
        "trained": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "losses": losses,
        "fingerprint": fingerprint(str(done), ""),
        "peft": peft.__version__,
    }
    (done / TRAINING).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(done, folder)
    shutil.rmtree(partial, ignore_errors=True)
