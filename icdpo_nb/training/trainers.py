"""The trainer of each method, with LoRA: TRL's for SFT, DPO and KTO, our own for RPO and for IPO as in RPO's paper."""

import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import InputError
from .recipes import TAUS, Recipe

SIDES = ("chosen", "rejected")
CHECKPOINTS = 5  # per training, so that an interruption loses at most a fifth of it


def make_trainer(model, tokenizer, rows: list[dict], recipe: Recipe, folder: Path, quiet: bool):
    """The trainer of a method: TRL's, or our own for losses that TRL does not have."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    config = _arguments(model, recipe, recipe.steps(len(rows)), folder, quiet)
    lora = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    given = {"processing_class": tokenizer, "peft_config": lora}
    if recipe.method in TAUS or (recipe.method == "IPO" and recipe.ipo == "sum"):
        return _own_trainer(model, tokenizer, rows, recipe, config, lora)
    if recipe.method == "SFT":
        taught = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
        args = on_one_device(trl.SFTConfig(**config, completion_only_loss=True))
        return trl.SFTTrainer(model, args=args, train_dataset=Dataset.from_list(taught), **given)
    if recipe.method == "KTO":
        args = on_one_device(trl.KTOConfig(**config, beta=recipe.beta))
        return trl.KTOTrainer(model, args=args, train_dataset=Dataset.from_list(mismatched(rows, recipe.batch)), **given)
    loss = [{"DPO": "sigmoid", "IPO": "ipo"}[recipe.method]]
    args = on_one_device(trl.DPOConfig(**config, beta=recipe.beta, loss_type=loss))
    return trl.DPOTrainer(model, args=args, train_dataset=Dataset.from_list(rows), **given)


def on_one_device(args):
    """Training arguments whose batch size does not depend on the number of visible GPUs.

    Otherwise transformers would use a batch per GPU, which changes the steps and contrast matrices of a recipe.
    """
    args._n_gpu = min(args.n_gpu, 1)
    return args


def _arguments(model, recipe: Recipe, steps: int, folder: Path, quiet: bool) -> dict:
    """Arguments common to all trainers. Unlike TRL's defaults, bfloat16 and activation checkpointing are disabled on a CPU."""
    on_cpu = model.device.type == "cpu"
    window = getattr(model.config.get_text_config(), "max_position_embeddings", 1024)
    batch_size = recipe.batch * (2 if recipe.method == "KTO" else 1)  # KTO treats a pair as two examples
    return {
        "output_dir": str(folder), "per_device_train_batch_size": batch_size, "num_train_epochs": 1, "seed": recipe.seed,
        "train_sampling_strategy": "sequential",  # so that every method is trained on the same pairs at the same step
        "learning_rate": recipe.rate, "optim": {"adamw": "adamw_torch", "rmsprop": "rmsprop"}[recipe.optimizer],
        "lr_scheduler_type": {"cosine": "cosine", "constant": "constant_with_warmup"}[recipe.schedule],
        "warmup_steps": min(5, steps // 10) if recipe.warmup < 0 else recipe.warmup, "max_grad_norm": recipe.clip,
        "use_cpu": on_cpu, "bf16": not on_cpu, "activation_checkpointing": not on_cpu, "report_to": [],
        "logging_steps": 1, "logging_nan_inf_filter": False, "max_length": window,
        "save_strategy": "steps", "save_steps": math.ceil(steps / CHECKPOINTS), "save_total_limit": 1,
        "disable_tqdm": quiet or bool(os.environ.get("TQDM_DISABLE")),
    }  # fmt: skip


def mismatched(rows: list[dict], batch: int) -> list[dict]:
    """Examples for KTO: for each batch of pairs, first the chosen and then the rejected responses.

    TRL estimates the KL term from mismatched pairs: it combines the prompt of each row with the completion of the preceding row
    in the batch, and the first prompt with the last completion. In this order they are indeed mismatched, whereas with the two
    responses of a prompt next to each other, half of them would not be. This is impossible for a batch of a single pair.
    """
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for i in range(0, len(rows), batch)
        for side in SIDES
        for row in rows[i : i + batch]
    ]


def _own_trainer(model, tokenizer, rows: list[dict], recipe: Recipe, config: dict, lora):
    """The trainer of RPO, or of IPO without TRL's division by the number of tokens."""
    from peft import get_peft_model
    from transformers import TrainingArguments

    from .rpo_trainer import IPOTrainer, RPOTrainer, rpo_items

    items = rpo_items(rows, tokenizer, config.pop("max_length"), recipe.method != "RPO-Unpaired", recipe.seed)
    names = ("beta", "tau", "weighting", "alpha", "matrix")
    settings = {name: value for name, value in recipe.effective.items() if name in names}
    args = on_one_device(TrainingArguments(**config, remove_unused_columns=False))
    trainer = IPOTrainer if recipe.method == "IPO" else RPOTrainer
    return trainer(get_peft_model(model, lora), args=args, train_dataset=items, **settings)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without the bars of datasets for every small step, and without a warning that TRL and peft cause in transformers."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def keep_steps(steps: Sequence[int], folder: Path):
    """A callback that saves the adapter after each of the given steps."""
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step in steps:
                model.save_pretrained(adapter_at(folder, state.global_step))

    return Keep()


def stop_when_not_finite(method: str, folder: Path):
    """A callback that stops training when the loss or the gradient is no longer finite."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if all(math.isfinite(float(logs.get(name, 0.0))) for name in ("loss", "grad_norm")):
                return  # a non-finite gradient corrupts the weights before the loss reveals it
            last = last_checkpoint(folder)
            kept = f"the last good adapter is in {last}" if last else "there is no earlier adapter"
            raise InputError(
                f"{method}: the loss was no longer finite at step {state.global_step}; {kept}; lower learning_rate"
            )

    return Watch()


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint, recognised by the trainer state, which is written last."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for path in newest_first:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
        except (OSError, ValueError):
            continue
    return None


def adapter_at(folder: Path, step: int) -> Path:
    """The folder of the adapter saved after this step (see `Recipe.keep`)."""
    return folder / f"step-{step:05d}"
