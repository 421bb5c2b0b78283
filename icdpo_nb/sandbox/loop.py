"""What all trainings of the sandbox share: how far a run is, its learning rates, one step, the curve and what is saved."""

import hashlib
import json
import platform
import time
from pathlib import Path

import torch

from . import world
from .optim import set_rate


def schedule(progress: float) -> float:
    """Factor on the learning rates at a share of the run: a short rise, a plateau, a fall to 0 over the last half."""
    return min(1.0, progress / 0.01 + 0.05, max(0.0, (1 - progress) / 0.5))


class Clock:
    """How far a run is, in [0, 1]: by tokens, or by minutes where those run out first."""

    def __init__(self, tokens: int, minutes: float | None):
        self.tokens, self.minutes, self.seen, self.start = tokens, minutes, 0, time.monotonic()

    def progress(self) -> float:
        """Share of the run that is done."""
        by_time = (time.monotonic() - self.start) / 60 / self.minutes if self.minutes else 0.0
        return min(1.0, max(self.seen / self.tokens, by_time))


def update(model, optimizers, loss: torch.Tensor, factor: float) -> None:
    """One step of gradient descent."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    set_rate(optimizers, factor)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)


def thin(curve: list[dict], n: int = 40) -> list[dict]:
    """About n points of a curve, first and last kept."""
    step = max(1, len(curve) // n)
    return curve[::step] + ([curve[-1]] if (len(curve) - 1) % step else [])


def save(model, tokenizer, folder: Path, manifest: dict) -> None:
    """Write a Hugging Face folder with float16 weights, and the manifest beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to("cpu", torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manifest["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    manifest["parameters"] = sum(p.numel() for p in model.parameters())
    manifest |= {"torch": torch.__version__, "machine": platform.machine()}
    manifest |= {"world_seed": world.SEED, "preferences": world.digests(), "dtype": "float16"}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
