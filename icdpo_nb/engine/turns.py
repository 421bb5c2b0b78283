"""Models that share a GPU take turns: where they do not fit side by side, all but the one at work wait in main memory.

So one card carries base model, teacher and reward model one after another, each over all prompts. Weights move between main
memory and the card in about a second for each ten gigabytes, a few times in a run.
"""

from threading import RLock
from weakref import WeakSet

import torch

SHARE = 0.5  # of a device's memory that weights may take before models take turns; the rest is for contexts and passes


class Turns:
    """The models of one device with `memory` bytes."""

    def __init__(self, device: torch.device, memory: int):
        self.device, self.memory = device, memory
        self.models: WeakSet = WeakSet()
        self.lock = RLock()

    @property
    def taken(self) -> bool:
        """Whether models take turns: side by side their weights would take too much of the memory."""
        return sum(map(weight_bytes, self.models)) > SHARE * self.memory

    def enter(self, model: torch.nn.Module) -> None:
        """Have a model on the device; where models take turns, the others step aside first."""
        with self.lock:
            self.models.add(model)
            if self.taken:
                self._step_aside(self.models - {model})
            if movable(model) and is_aside(model):
                model.to(self.device)

    def make_room(self, size: int) -> None:
        """Before a model with weights of `size` bytes is loaded: the others step aside if they would take turns with it."""
        with self.lock:
            if size + sum(map(weight_bytes, self.models)) > SHARE * self.memory:
                self._step_aside(self.models)

    def _step_aside(self, others) -> None:
        moved = [model for model in others if movable(model) and not is_aside(model)]
        for model in moved:
            model.to("cpu")
        if moved and self.device.type == "cuda":
            torch.cuda.empty_cache()


_turns: dict[torch.device, Turns] = {}


def turns_on(device: torch.device | str) -> Turns | None:
    """The models of a GPU; None for any other device, on which models stay where they are."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    device = torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
    if device not in _turns:
        _turns[device] = Turns(device, torch.cuda.get_device_properties(device).total_memory)
    return _turns[device]


def enter(model: torch.nn.Module, device: torch.device | str) -> None:
    """Have a model on its device before a pass."""
    turns = turns_on(device)
    if turns is not None:
        turns.enter(model)


def make_room(device: torch.device | str, size: int) -> None:
    """Let other models step aside before weights of `size` bytes are loaded onto a device."""
    turns = turns_on(device)
    if turns is not None:
        turns.make_room(size)


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's weights, tied ones once."""
    return sum(p.nbytes for p in model.parameters())


def is_aside(model: torch.nn.Module) -> bool:
    """Whether a model waits in main memory."""
    return next(model.parameters()).device.type == "cpu"


def movable(model: torch.nn.Module) -> bool:
    """Whether a model can leave its device: not if its layers lie in several places, nor in 8 bits before bitsandbytes 0.48."""
    from transformers.utils import is_bitsandbytes_available

    spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
    return not spread and (not getattr(model, "is_loaded_in_8bit", False) or is_bitsandbytes_available("0.48"))
