"""Shared parts of the sandbox's training loops: progress, learning rate schedule, update, loss curve and saving."""

import hashlib
import json
import platform
import time
from pathlib import Path

import torch

from . import world
from .optim import set_rate


def schedule(progress: float) -> float:
    """Learning rate factor at a progress in [0, 1]: a short warm-up, a plateau, and a decay to 0 over the second half."""
    return min(1.0, progress / 0.01 + 0.05, max(0.0, (1 - progress) / 0.5))


class Clock:
    """The progress of a run, limited by tokens and by minutes, whichever run out first."""

    def __init__(self, tokens: int, minutes: float | None):
        self.tokens, self.minutes = tokens, minutes
        self.seen = 0
        self.start = time.monotonic()

    def progress(self) -> float:
        """The completed fraction of the run, in [0, 1]."""
        by_time = (time.monotonic() - self.start) / 60 / self.minutes if self.minutes else 0.0
        return min(1.0, max(self.seen / self.tokens, by_time))


def update(model, optimizers, loss: torch.Tensor, factor: float) -> None:
    """Take one optimizer step with gradient clipping."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    set_rate(optimizers, factor)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)


def thin(curve: list[dict], n: int = 40) -> list[dict]:
    """About n points of a curve, including the first and the last."""
    step = max(1, len(curve) // n)
    return curve[::step] + ([curve[-1]] if (len(curve) - 1) % step else [])


def save(model, tokenizer, folder: Path, manifest: dict) -> None:
    """Write a Hugging Face model folder with float16 weights, the tokenizer and the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to("cpu", torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manifest["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    manifest["parameters"] = sum(p.numel() for p in model.parameters())
    manifest |= {"torch": torch.__version__, "machine": platform.machine()}
    manifest |= {"world_seed": world.SEED, "preferences": world.digests(), "dtype": "float16"}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
