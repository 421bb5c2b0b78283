"""Fine-tuned companions: SFT, DPO, IPO and KTO with LoRA through TRL's trainers, and the score S on the policy they leave.

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from .algorithm import add_scores, responses_table, select
from .baselines import one_at_random
from .checkpoints import cache_folder, fingerprint, load_checkpoint
from .data import Preference
from .experiment import Tables, picks, work_done
from .lm import CausalLM, load_lm
from .protocol import RECOMMENDED, InputError, Protocol
from .rewards import Reward
from .store import digest, stored
from .tables import method_means, per_prompt, totals_of
from .templates import base_context

SCHEMA = 1  # raise it when a change to the code changes what is trained
LEARNING_RATES = {"SFT": 1e-3, "DPO": 5e-4, "IPO": 5e-4, "KTO": 5e-4}  # of a few, by dev prompts of the sandbox alone
SIDES = ("chosen", "rejected")
TRAINING = "training.json"
CHECKPOINTS = 5  # of a training, so that an interrupted one loses a fifth at most


@dataclass(frozen=True)
class Recipe:
    """How a policy is fine-tuned; one pass over the pairs."""

    method: str  # SFT (chosen responses alone), DPO, IPO or KTO
    n_pairs: int = 800
    beta: float = 0.1  # of the three preference losses
    learning_rate: float = 0.0  # 0: that of LEARNING_RATES
    rank: int = 16  # of LoRA, on all linear layers
    batch: int = 16  # pairs a step
    seed: int = 0  # of the choice and order of the pairs, and of the adapter's first weights

    def __post_init__(self):
        if self.method not in LEARNING_RATES:
            raise InputError(f"method is {self.method!r}, but must be one of {', '.join(LEARNING_RATES)}")
        for name in ("n_pairs", "rank", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name, low in (("beta", False), ("learning_rate", True)):
            value = getattr(self, name)
            if not (value > 0 or (low and value == 0)) or not math.isfinite(value):
                raise InputError(f"{name} is {value}, but must be a number above 0")

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return self.learning_rate or LEARNING_RATES[self.method]


def fine_tune(name: str, pairs: Sequence[Preference], recipe: Recipe, protocol: Protocol = RECOMMENDED) -> Path:
    """Train an adapter for the model `name` (as for `load_lm`) on preference pairs, or find it; returns its folder.

    The pairs are drawn from `pairs` by the recipe's seed. A training that was interrupted goes on from its last checkpoint; one
    whose loss is no longer finite ends with `InputError`, and its last good adapter stays. Two processes train it once.
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
    folder = cache_folder() / "adapters" / digest([SCHEMA, base, asdict(recipe) | {"learning_rate": recipe.rate}, rows])[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
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


def policy_table(
    prompts: Sequence[Preference], policy: CausalLM, reference: CausalLM, protocol: Protocol = RECOMMENDED, seed: int = 0
) -> pd.DataFrame:
    """Candidates of a fine-tuned policy and their score S, with π* the policy and π0 its reference (section 4.1, Table 4).

    The responses are sampled from the policy under x alone. S is the mean over tokens: the paper takes π as the n-th root of
    P(y|x). Columns as in `candidates_table`; `logp_icl` is the policy's, `logp_base` the reference's.
    """
    context = [base_context(p.prompt, protocol) for p in prompts]
    sampled = policy.sample(context, protocol.n_candidates, protocol, seed)
    expert = policy.logprobs(context, sampled)
    table = responses_table(prompts, [[]] * len(prompts), [{"base": c} for c in context], sampled, reference, protocol)
    logp = [values.sum(dtype=float) for ys in expert for values in ys]
    return add_scores(table.assign(logp_icl=logp), protocol.but(reduction="mean"))


def policy_tables(
    prompts: Sequence[Preference],
    adapters: Mapping[tuple[str, str], Path],
    reference: CausalLM,
    reward: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    keep: bool = True,
) -> tuple[Tables, pd.DataFrame]:
    """`policy_table` with rewards for every adapter, by (name of the base model, source, method); and `work_done`.

    `adapters`: the folder of each (source, method); one is loaded at a time. `keep`: whether what is sampled and scored is
    found again. The work's last row is that of the reference, whatever it did before included.
    """
    tables, work = {}, []
    for (source, method), folder in adapters.items():
        policy = stored(load_lm(f"{reference.name}+{folder}"), keep)
        table = policy_table(prompts, policy, reference, protocol, seed)
        scored = reward.score(list(table["prompt"]), list(table["response"]))
        tables[reference.name, source, method] = table.assign(reward=scored)
        work.append(work_done({f"{method}, {source}": policy}))
    return tables, pd.concat([*work, work_done({reference.name: reference})], ignore_index=True)


def first_candidates(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first n candidates of each prompt: just those that would have been sampled with this n."""
    return table[table["candidate_id"] < n].reset_index(drop=True)


def tuned_picks(tables: Tables, lm: str, source: str) -> dict[str, pd.DataFrame]:
    """The response of each method of Table 4 for one model and source, and of those beside it: one row a prompt.

    A policy answers with one of its candidates at random, whose reward is their mean, and "+ S" with the one that S chooses.
    """
    beside = picks(tables, lm, source)
    found = {name: beside[name] for name in ("Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR")}
    for method in LEARNING_RATES:
        if (table := tables.get((lm, source, method))) is not None:
            found |= {method: one_at_random(table), f"{method} + S": select(table, "S")}
    return found


def reward_by_n(tables: Tables, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Total reward of each policy with S for n = 1, 2, …: `method_means` with a column n. With n = 1 nothing is chosen."""
    parts = []
    for (lm, source, method), table in tables.items():
        for n in range(1, int(table["candidate_id"].max()) + 2):
            chosen = per_prompt({method: select(first_candidates(table, n), "S")}, lm, source)
            parts.append(totals_of(method_means(chosen, totals=totals, seed=seed)).assign(n_candidates=n))
    return pd.concat(parts, ignore_index=True)


# ---------------------------------------------------------------- training


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

    on_cpu = model.device.type == "cpu"
    steps = math.ceil(len(rows) / recipe.batch) * (2 if recipe.method == "KTO" else 1)
    config = {
        "output_dir": str(folder), "per_device_train_batch_size": recipe.batch, "num_train_epochs": 1, "seed": recipe.seed,
        "learning_rate": recipe.rate, "lr_scheduler_type": "cosine", "warmup_steps": min(5, steps // 10),
        "use_cpu": on_cpu, "bf16": not on_cpu, "gradient_checkpointing": not on_cpu, "report_to": [],
        "logging_steps": 1, "logging_nan_inf_filter": False, "max_length": model.config.max_position_embeddings,
        "save_strategy": "steps", "save_steps": math.ceil(steps / CHECKPOINTS), "save_total_limit": 1,
        "disable_tqdm": bool(os.environ.get("TQDM_DISABLE")),
    }  # fmt: skip
    lora = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    given = {"processing_class": tokenizer, "peft_config": lora}
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
