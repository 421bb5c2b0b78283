"""How much memory there is, how much a computation takes, and whether it was enough: what the engine's batches are sized by."""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU_BUDGET = 512 * 2**20  # bytes for one batch (joining copies its cache, for a moment): larger ones are hardly faster on a CPU


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make while it is active, and takes off those that are freed."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in _storages((args, kwargs)):  # what was there before is not ours
            self.known.add(storage._cdata)
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            self._count(storage)
        return out

    def _count(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _storages(nested) -> list:
    """The storages of all tensors in a nested structure; weights in oneDNN's layout have none that can be seen."""
    tensors = [x for x in tree_leaves(nested) if isinstance(x, torch.Tensor)]
    return [x.untyped_storage() for x in tensors if x.layout is torch.strided]


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors made during `run()` hold at one time, on any device. Scratch space of kernels is not seen.

    >>> peak_bytes(lambda: (torch.zeros(1000) + 1).sum())  # zeros and their sum with 1: 2 x 1000 x 4 bytes
    8000
    """
    with _LiveBytes() as live:
        kept = run()
    del kept
    return live.peak


def budget_bytes(device: torch.device) -> int:
    """Half of the memory that is free now; on a processor at most `CPU_BUDGET`."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // 2
    return min(CPU_BUDGET, psutil.virtual_memory().available // 2)


def peak_so_far(device: torch.device) -> int:
    """The most bytes that this process has held on the device so far: tensors on a GPU, else all of its memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on a processor."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@dataclass
class Room:
    """Whether the memory was enough."""

    enough: bool = True


@contextmanager
def watch_memory() -> Iterator[Room]:
    """Says afterwards whether the memory was enough for what was done within."""
    room = Room()
    try:
        yield room
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        room.enough = False
