"""Fine-tuned companions: SFT, DPO, KTO (TRL's trainers), RPO and IPO (ours) with LoRA adapters.

The policy learns π(y | x) from the base context alone, so nothing but the adapter sets it apart from its reference, the model
that it begins as: a base model, or an SFT policy on top of one. What was trained lies in the cache under the digest of all that
can change it: `adapter_model.safetensors`, `adapter_config.json`, and `training.json` with the recipe, the loss curve and what
it cost. `load_lm("base+folder")` loads it.
"""

import json
import os
import random
import shutil
import time
import warnings
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
from .trainers import SIDES, adapter_at, keep_steps, last_checkpoint, make_trainer, stop_when_not_finite

SCHEMA = 2  # raise it when a change to the code changes what is trained
TRAINING, WEIGHTS = "training.json", "adapter_model.safetensors"
Key = TypeVar("Key")
PROCESS_BYTES = 2**30  # bytes of a process that trains, without the model


class Plan(NamedTuple):
    """A policy to be trained: the model that it begins as, which is its reference too, and what it learns."""

    lm: LanguageModel
    pairs: Sequence[Preference]  # the recipe's seed draws `n_pairs` of them
    recipe: Recipe
    embed: Embedder | None = None  # tells RPO how alike two prompts are; nothing else has a use for it


def fine_tune(
    lm: LanguageModel,
    pairs: Sequence[Preference],
    recipe: Recipe,
    protocol: Protocol = RECOMMENDED,
    embed: Embedder | None = None,
) -> Path:
    """Train an adapter for the model on preference pairs, or find it; returns its folder.

    `load_lm(f"{lm.name}+{folder}")` loads the policy. Arguments as in `Plan`. A training that was interrupted goes on from its
    last checkpoint; one whose loss is no longer finite ends with `InputError`, and its last good adapter stays. Two processes
    train it once.
    """
    return fine_tune_all({"": Plan(lm, pairs, recipe, embed)}, protocol)[""]


def fine_tune_all(plans: Mapping[Key, Plan], protocol: Protocol = RECOMMENDED) -> dict[Key, Path]:
    """`fine_tune` for every plan, by its key: on a processor as many at a time as it has threads, each in a process of its own.

    A small model's training leaves most of a processor idle; two side by side take little longer than one.
    """
    from tqdm.auto import tqdm

    if missing := [package for package in ("trl", "peft") if find_spec(package) is None]:
        raise InputError(f"fine-tuning needs {' and '.join(missing)}; run: pip install -c constraints.txt -e '.[train]'")
    jobs = {key: _job(plan, protocol) for key, plan in plans.items()}
    todo = list({job.folder: job for job in jobs.values() if not _is_whole(job)}.values())
    workers, threads = _at_a_time(todo)
    if workers == 1:
        for job in todo:
            _fulfil(job)
    else:
        from joblib import Parallel, delayed, parallel_config

        alone = [_with_embeddings(job) for job in todo]  # here, so that no worker loads an encoder
        with parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads):
            done = Parallel(return_as="generator_unordered")(delayed(_fulfil)(job, quiet=True) for job in alone)
            for _ in tqdm(done, "fine-tuning", len(todo)):
                pass
    return {key: job.folder for key, job in jobs.items()}


def training_record(folder: Path) -> dict:
    """What `training.json` of an adapter says: method, recipe, losses, seconds, parameters and more."""
    return json.loads((folder / TRAINING).read_text(encoding="utf-8"))


def drawn(pairs: Sequence[Preference], recipe: Recipe) -> list[Preference]:
    """The pairs that a recipe learns, in the order in which every method reads them."""
    return random.Random(recipe.seed).sample(list(pairs), min(recipe.n_pairs, len(pairs)))


def loss_curves(folders: Sequence[Path]) -> pd.DataFrame:
    """Columns method, step, loss of several adapters' trainings."""
    rows = [(r["method"], step, loss) for r in map(training_record, folders) for step, loss in enumerate(r["losses"], 1)]
    return pd.DataFrame(rows, columns=["method", "step", "loss"])


def training_cost(folders: Sequence[Path]) -> pd.DataFrame:
    """Columns method, pairs, trained parameters and their share of the model's (texts), seconds; ICDPO's row holds zeros."""
    records = [training_record(folder) for folder in folders]
    rows = [
        {
            "method": r["method"],
            "pairs": r["n_pairs"],
            "trained parameters": f"{r['trained']:,}",
            "of the model's": f"{r['trained'] / r['parameters']:.1%}",
            "seconds": r["seconds"],
        }
        for r in records
    ]
    nothing = {"method": "ICDPO", "pairs": 0, "trained parameters": "0", "of the model's": "0.0%", "seconds": 0.0}
    return pd.DataFrame([*rows, nothing])


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class _Job:
    """A training that another process can do, if its rows hold their embeddings."""

    model: tuple[str, str, str, str]  # name, dtype, device, revision: for `load_adapted`
    n_parameters: int
    rows: list[dict]
    prompts: list[str]
    recipe: Recipe
    encoder: Embedder | None
    folder: Path
    record: dict


def _job(plan: Plan, protocol: Protocol) -> _Job:
    lm, pairs, recipe, embed = plan
    taught = drawn(pairs, recipe)
    if not taught:
        raise InputError("fine-tuning needs at least one preference pair")
    if recipe.keep and not 1 <= min(recipe.keep) <= max(recipe.keep) <= recipe.steps(len(taught)):
        raise InputError(
            f"keep is {list(recipe.keep)}, but one pass over {len(taught)} pairs has {recipe.steps(len(taught))} steps"
        )
    if lm.tokenizer.eos_token is None:
        raise InputError(f"model {lm.name!r}: its tokenizer has no EOS token, so no response could be taught to end")
    rows = [
        {"prompt": base_context(p.prompt, protocol), "chosen": f" {p.chosen}", "rejected": f" {p.rejected}"} for p in taught
    ]
    encoder = _encoder(recipe, embed)
    given = [SCHEMA, lm.fingerprint, recipe.effective, rows, encoder and encoder.fingerprint]
    folder = cache_folder() / "adapters" / digest(given)[:16]
    record = {"method": recipe.method, "recipe": recipe.effective, "base": lm.name, "base_fingerprint": lm.fingerprint}
    model = (lm.name, lm.dtype, lm.device, lm.revision)
    return _Job(model, lm.n_parameters, rows, [p.prompt for p in taught], recipe, encoder, folder, record)


def _encoder(recipe: Recipe, embed: Embedder | None) -> Embedder | None:
    """The encoder that RPO's embedding weights need; None for everything else."""
    if not recipe.needs_encoder:
        return None
    if embed is None:
        raise InputError(f"{recipe.method} weighs prompts by their likeness; give it an encoder (embed=Embedder())")
    return embed


def _with_embeddings(job: _Job) -> _Job:
    """The job with the embeddings that RPO compares in its rows: computed once, not at every step."""
    if job.encoder is None:
        return job
    texts = {side: [row["prompt"] + row[side] for row in job.rows] for side in SIDES}
    if job.recipe.encoded == "prompt":
        texts = dict.fromkeys(SIDES, job.prompts)
    vectors = {side: job.encoder(texts[side]).tolist() for side in SIDES}
    rows = [row | {f"{side}_embedding": vectors[side][i] for side in SIDES} for i, row in enumerate(job.rows)]
    return replace(job, rows=rows, encoder=None)


def _at_a_time(jobs: Sequence[_Job]) -> tuple[int, int]:
    """How many trainings run side by side, and the threads of each: on a GPU one, else as many as threads and memory allow."""
    import psutil
    import torch

    threads = torch.get_num_threads()
    if not jobs or any(job.model[2] != "cpu" for job in jobs):
        return 1, threads
    need = PROCESS_BYTES + 32 * max(job.n_parameters for job in jobs)  # weights, and what a step keeps of about their size
    workers = max(1, min(threads, len(jobs), psutil.virtual_memory().available // need))
    return workers, max(1, threads // workers)


def _fulfil(job: _Job, quiet: bool = False) -> None:
    """Train, unless another process just did. `quiet`: without progress bar and warnings, in a process of its own."""
    from filelock import FileLock

    if quiet:
        warnings.filterwarnings("ignore", category=FutureWarning)
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{job.folder}.lock"):
        if not _is_whole(job):
            shutil.rmtree(job.folder, ignore_errors=True)
            _train(_with_embeddings(job), quiet)


def _is_whole(job: _Job) -> bool:
    """Whether an adapter is there as it was left, and those of the steps that are kept."""
    try:
        found = training_record(job.folder)["fingerprint"] == fingerprint(str(job.folder), "")
    except (OSError, ValueError, KeyError):
        return False
    return found and all((adapter_at(job.folder, step) / WEIGHTS).exists() for step in job.recipe.keep)


def _train(job: _Job, quiet: bool) -> None:
    """Train, and put adapter and record in the folder, whole or not at all; checkpoints lie beside it until then."""
    import peft
    import transformers

    recipe, folder = job.recipe, job.folder
    model, tokenizer, *_ = load_adapted(*job.model)
    partial = folder.with_name(f"{folder.name}.partial")
    transformers.set_seed(recipe.seed)
    model.set_attn_implementation("sdpa")  # the engine's own serves sampling and scoring alone
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
    cost = {"seconds": round(time.perf_counter() - began, 1), "n_pairs": len(job.rows), "parameters": total}
    cost["trained"] = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    kept = {**job.record, **cost, "losses": losses, "fingerprint": fingerprint(str(done), ""), "peft": peft.__version__}
    (done / TRAINING).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    os.replace(done, folder)
    shutil.rmtree(partial, ignore_errors=True)
