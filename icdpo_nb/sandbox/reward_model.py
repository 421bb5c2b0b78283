"""The learned reward model, which takes the role of the paper's third-party RM_test.

A small base model with a value head, trained with the Bradley-Terry loss on pairs of the train split: teacher over raw,
and chosen over rejected. The labels come from the columns of the data, never from the true reward.
"""

import random
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from . import world
from .loop import Clock, save, schedule, thin, update
from .optim import make_optimizers
from .topics import DOMAINS

# (better, worse) columns; the two teachers are not compared
PAIRS = [("chosen", "rejected")] + [(t, raw) for t in ("teacher_a", "teacher_b") for raw in ("chosen", "rejected")]


def pair_texts(split: str, pairs=PAIRS) -> list[tuple[str, str]]:
    """(better, worse) texts of a split, each `prompt + "\\n\\nAssistant: " + response`."""
    rows = [r for d in DOMAINS for r in world.preferences(d) if r["split"] == split]
    return [tuple(f"{r['prompt']}\n\nAssistant: {r[column]}" for column in pair) for r in rows for pair in pairs]


def score(model, tokenizer, texts: list[str]) -> torch.Tensor:
    """The rewards of texts, shape (n,)."""
    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=1024)
    batch = {k: batch[k].to(model.device) for k in ("input_ids", "attention_mask")}
    return model(**batch, use_cache=False).logits[:, 0].float()


@torch.no_grad()
def pair_accuracy(model, tokenizer, pairs: list[tuple[str, str]], batch: int = 50) -> float:
    """The fraction of pairs whose better text has the higher reward."""
    model.eval()
    wins = 0
    for i in range(0, len(pairs), batch):
        better, worse = (score(model, tokenizer, list(side)) for side in zip(*pairs[i : i + batch], strict=True))
        wins += (better > worse).sum().item()
    return wins / len(pairs)


def start_from(folder: Path, device: str) -> LlamaForSequenceClassification:
    """The body of a base model with a new value head, initialised to zero."""
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    base.config.num_labels = 1
    model = LlamaForSequenceClassification(base.config)
    model.model.load_state_dict(base.model.state_dict())
    torch.nn.init.zeros_(model.score.weight)
    return model.to(device)


def train_reward(base: Path, tokenizer, *, seed: int, n_pairs: int, minutes: float | None, out: Path) -> dict:
    """Train on `n_pairs` pairs (one epoch has 22,500) and save the model in `out`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    rng, start = random.Random(seed), time.monotonic()
    model = start_from(base, device)
    pairs = pair_texts("train")
    clock = Clock(n_pairs, minutes)
    curve, recent = [], []
    optimizers = make_optimizers(model, matrix_lr=0.005, other_lr=1e-3)
    while clock.progress() < 1:
        batch = rng.sample(pairs, 32)
        rewards = score(model, tokenizer, [better for better, _ in batch] + [worse for _, worse in batch])
        loss = -functional.logsigmoid(rewards[:32] - rewards[32:]).mean()
        update(model, optimizers, loss, schedule(clock.progress()))
        clock.seen += 32
        recent.append(loss.item())
        if len(recent) == 20:
            curve.append({"pairs": clock.seen, "loss": round(sum(recent) / 20, 4)})
            print(curve[-1], flush=True)
            recent = []
    accuracy = {
        f"{split}_{name}": round(pair_accuracy(model, tokenizer, pair_texts(split, columns)[::step]), 4)
        for split in ("dev", "test")
        for name, columns, step in (("chosen_over_rejected", PAIRS[:1], 1), ("teacher_over_raw", PAIRS[1:], 4))
    }
    manifest = {"name": "reward", "seed": seed, "device": device, "wall_seconds": round(time.monotonic() - start)}
    manifest |= {"pairs_seen": clock.seen, "curves": {"pairs": thin(curve)}, "pair_accuracy": accuracy}
    save(model, tokenizer, out, manifest)
    return manifest
