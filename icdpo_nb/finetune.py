"""Fine-tuned companions: SFT, DPO, IPO, KTO (TRL's trainers) and RPO (ours) with LoRA adapters.

The policy learns π(y | x) from the base context alone, so nothing but the adapter sets it apart from its reference, the base
model. What was trained lies in the cache under the digest of all that can change it: `adapter_model.safetensors`,
`adapter_config.json`, and `training.json` with the recipe, the loss curve and what it cost. `load_lm("base+folder")` loads it.
"""

import json
import math
import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from .checkpoints import cache_folder, fingerprint, load_checkpoint
from .data import Preference
from .protocol import RECOMMENDED, InputError, Protocol
from .retrieval import Embedder
from .rpo import check_weighting
from .store import digest
from .templates import base_context

SCHEMA = 1  # raise it when a change to the code changes what is trained
LEARNING_RATES = {  # of a few, by dev prompts of the sandbox alone
    "SFT": 1e-3, "DPO": 5e-4, "IPO": 5e-4, "KTO": 5e-4, "RPO-Paired": 5e-4, "RPO-Unpaired": 5e-4,
}  # fmt: skip
METHODS = tuple(LEARNING_RATES)
TAUS = {"RPO-Paired": 0.5, "RPO-Unpaired": 0.75}  # the paper's (arXiv:2402.10958, Table 5)
SIDES = ("chosen", "rejected")
TRAINING = "training.json"
CHECKPOINTS = 5  # of a training, so that an interrupted one loses a fifth at most


@dataclass(frozen=True)
class Recipe:
    """How a policy is fine-tuned; one pass over the pairs."""

    method: str  # SFT (chosen responses alone), DPO, IPO, KTO, RPO-Paired or RPO-Unpaired (arXiv:2402.10958)
    n_pairs: int = 800
    beta: float = 0.1  # of the preference losses
    learning_rate: float = 0.0  # 0: that of LEARNING_RATES
    rank: int = 16  # of LoRA, on all linear layers
    batch: int = 16  # pairs a step
    seed: int = 0  # of the choice and order of the pairs, and of the adapter's first weights
    tau: float = 0.0  # of RPO's weights; 0: that of TAUS
    weighting: str = "embedding"  # of RPO: embedding, uniform or diagonal

    def __post_init__(self):
        if self.method not in LEARNING_RATES:
            raise InputError(f"method is {self.method!r}, but must be one of {', '.join(LEARNING_RATES)}")
        for name in ("n_pairs", "rank", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name, default in (("beta", False), ("learning_rate", True), ("tau", True)):
            value = getattr(self, name)
            if not (value > 0 or (default and value == 0)) or not math.isfinite(value):
                raise InputError(f"{name} is {value}, but must be a number above 0")
        check_weighting(self.weighting)

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return self.learning_rate or LEARNING_RATES[self.method]


def fine_tune(
    name: str,
    pairs: Sequence[Preference],
    recipe: Recipe,
    protocol: Protocol = RECOMMENDED,
    embed: Embedder | None = None,
) -> Path:
    """Train an adapter for the model `name` (as for `load_lm`) on preference pairs, or find it; returns its folder.

    `embed` tells RPO how alike two prompts are; the other methods have no use for it. The pairs are drawn from `pairs` by the
    recipe's seed. A training that was interrupted goes on from its last checkpoint; one whose loss is no longer finite ends
    with `InputError`, and its last good adapter stays. Two processes train it once.
    """
    from filelock import FileLock

    if missing := [package for package in ("trl", "peft") if find_spec(package) is None]:
        raise InputError(f"fine-tuning needs {' and '.join(missing)}; run: pip install -c constraints.txt -e '.[train]'")
    drawn = random.Random(recipe.seed).sample(list(pairs), min(recipe.n_pairs, len(pairs)))
    if not drawn:
        raise InputError("fine-tuning needs at least one preference pair")
    rows = [{"prompt": base_context(p.prompt, protocol), "chosen": f" {p.chosen}", "rejected": f" {p.rejected}"} for p in drawn]
    model, tokenizer, _, version = load_checkpoint(name)
    if tokenizer.eos_token is None:
        raise InputError(f"model {name!r}: its tokenizer has no EOS token, so no response could be taught to end")
    base = fingerprint(model.name_or_path, version)
    contrast = _encoder(recipe, embed)
    given = [SCHEMA, base, asdict(recipe) | {"learning_rate": recipe.rate}, rows, contrast and contrast.fingerprint]
    folder = cache_folder() / "adapters" / digest(given)[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            if contrast:  # once, not at every step
                vectors = contrast([p.prompt for p in drawn]).tolist()
                rows = [row | {"embedding": v} for row, v in zip(rows, vectors, strict=True)]
            record = {"method": recipe.method, "recipe": asdict(recipe), "base": name, "base_fingerprint": base}
            _train(model, tokenizer, rows, recipe, folder, record)
    return folder


def training(folder: Path) -> dict:
    """What `training.json` of an adapter says: method, recipe, losses, seconds, parameters and more."""
    return json.loads((folder / TRAINING).read_text(encoding="utf-8"))


def loss_curves(folders: Sequence[Path]) -> pd.DataFrame:
    """Columns method, step, loss of several adapters' trainings."""
    rows = [(r["method"], step, loss) for r in map(training, folders) for step, loss in enumerate(r["losses"], 1)]
    return pd.DataFrame(rows, columns=["method", "step", "loss"])


def training_cost(folders: Sequence[Path]) -> pd.DataFrame:
    """Columns method, pairs, trained parameters and their share of the model's (texts), seconds; ICDPO's row holds zeros."""
    records = [training(folder) for folder in folders]
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


def _encoder(recipe: Recipe, embed: Embedder | None) -> Embedder | None:
    """The encoder that RPO needs; None for the other methods."""
    if recipe.method not in TAUS:
        return None
    if embed is None:
        raise InputError(f"{recipe.method} weighs prompts by their likeness; give it an encoder (embed=Embedder())")
    return embed


def _is_whole(folder: Path) -> bool:
    """Whether an adapter is there as it was left."""
    try:
        return training(folder)["fingerprint"] == fingerprint(str(folder), "")
    except (OSError, ValueError, KeyError):
        return False


def _train(model, tokenizer, rows: list[dict], recipe: Recipe, folder: Path, record: dict) -> None:
    """Train, and put adapter and record in the folder, whole or not at all; checkpoints lie beside it until then."""
    import peft
    import transformers

    partial = folder.with_name(f"{folder.name}.partial")
    transformers.set_seed(recipe.seed)
    model.set_attn_implementation("sdpa")  # the engine's own serves sampling and scoring alone
    total = model.num_parameters()
    trainer = _trainer(model, tokenizer, rows, recipe, partial)
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.add_callback(_watch(recipe.method, partial))
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=_last_checkpoint(partial))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    done = partial / "done"
    shutil.rmtree(done, ignore_errors=True)
    trainer.model.save_pretrained(done)  # safetensors
    cost = {"seconds": round(time.perf_counter() - began, 1), "n_pairs": len(rows), "parameters": total}
    cost["trained"] = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    kept = {**record, **cost, "losses": losses, "fingerprint": fingerprint(str(done), ""), "peft": peft.__version__}
    (done / TRAINING).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    os.replace(done, folder)
    shutil.rmtree(partial, ignore_errors=True)


def _trainer(model, tokenizer, rows: list[dict], recipe: Recipe, folder: Path):
    """TRL's trainer of a method. Its defaults are those of a GPU; on a processor bfloat16 and checkpointing are off."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    on_cpu, window = model.device.type == "cpu", getattr(model.config.get_text_config(), "max_position_embeddings", 1024)
    steps = math.ceil(len(rows) / recipe.batch) * (2 if recipe.method == "KTO" else 1)
    config = {
        "output_dir": str(folder), "per_device_train_batch_size": recipe.batch, "num_train_epochs": 1, "seed": recipe.seed,
        "learning_rate": recipe.rate, "lr_scheduler_type": "cosine", "warmup_steps": min(5, steps // 10),
        "use_cpu": on_cpu, "bf16": not on_cpu, "gradient_checkpointing": not on_cpu, "report_to": [],
        "logging_steps": 1, "logging_nan_inf_filter": False, "max_length": window,
        "save_strategy": "steps", "save_steps": math.ceil(steps / CHECKPOINTS), "save_total_limit": 1,
        "disable_tqdm": bool(os.environ.get("TQDM_DISABLE")),
    }  # fmt: skip
    lora = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    given = {"processing_class": tokenizer, "peft_config": lora}
    if recipe.method in TAUS:
        return _rpo_trainer(model, tokenizer, rows, recipe, config, lora)
    if recipe.method == "SFT":
        taught = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
        args = trl.SFTConfig(**config, completion_only_loss=True)
        return trl.SFTTrainer(model, args=args, train_dataset=Dataset.from_list(taught), **given)
    if recipe.method == "KTO":
        each = [{"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"} for r in rows for side in SIDES]
        args = trl.KTOConfig(**config, beta=recipe.beta)
        return trl.KTOTrainer(model, args=args, train_dataset=Dataset.from_list(each), **given)
    args = trl.DPOConfig(**config, beta=recipe.beta, loss_type=[{"DPO": "sigmoid", "IPO": "ipo"}[recipe.method]])
    return trl.DPOTrainer(model, args=args, train_dataset=Dataset.from_list(rows), **given)


def _rpo_trainer(model, tokenizer, rows: list[dict], recipe: Recipe, config: dict, lora):
    from peft import get_peft_model
    from transformers import TrainingArguments

    from .rpo_trainer import RPOTrainer, rpo_items

    items = rpo_items(rows, tokenizer, config.pop("max_length"), recipe.method == "RPO-Paired", recipe.seed)
    how = {"beta": recipe.beta, "tau": recipe.tau or TAUS[recipe.method], "weighting": recipe.weighting}
    args = TrainingArguments(**config, remove_unused_columns=False)
    return RPOTrainer(get_peft_model(model, lora), args=args, train_dataset=items, **how)


def _watch(method: str, folder: Path):
    """A callback that ends a training whose loss is no longer finite."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if all(math.isfinite(float(logs.get(name, 0.0))) for name in ("loss", "grad_norm")):
                return  # a gradient that is not finite spoils the weights before the next loss shows it
            last = _last_checkpoint(folder)
            kept = f"the last good adapter is in {last}" if last else "no adapter was good before"
            raise InputError(
                f"{method}: the loss was no longer finite at step {state.global_step}; {kept}; lower learning_rate"
            )

    return Watch()


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: the trainer's state is the last of its files."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for path in newest_first:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
        except (OSError, ValueError):
            continue
    return None
