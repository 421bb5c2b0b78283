"""Memory measurements that determine the engine's batch sizes, and detection of out-of-memory errors."""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU_BUDGET = 2**31  # bytes for a cache and a pass: 16 contexts of SmolLM2 at a time take a fifth less than 7 do
CPU_PASS = 2**25  # of these, for a pass: the tensors of larger ones come from memory, which takes a quarter longer


class _LiveBytes(TorchDispatchMode):
    """Tracks the bytes of the live storages that operations create while it is active."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in _storages((args, kwargs)):  # existing storages do not count
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
    """The storages of all tensors in a nested structure, except tensors in oneDNN's layout, which expose none."""
    tensors = [x for x in tree_leaves(nested) if isinstance(x, torch.Tensor)]
    return [x.untyped_storage() for x in tensors if x.layout is torch.strided]


def peak_bytes(run: Callable[[], object]) -> int:
    """The peak bytes of the tensors created by `run()`, on any device, without the workspaces of kernels.

    >>> peak_bytes(lambda: (torch.zeros(1000) + 1).sum())  # zeros and their sum with 1: 2 x 1000 x 4 bytes
    8000
    """
    with _LiveBytes() as live:
        result = run()
    del result
    return live.peak


def budget_bytes(device: torch.device, most: int = CPU_BUDGET) -> int:
    """Half of the currently free memory of a GPU; on a CPU up to an eighth of what is available, and at most `most`.

    On a CPU it is a power of two, so that runs have the same batches, and so the same rounding, whatever else is open.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // 2
    return min(most, 2 ** ((psutil.virtual_memory().available // 8).bit_length() - 1))


def pass_bytes(device: torch.device, budget: int) -> int:
    """Of a budget, the bytes for the tensors of a pass: a quarter, and at most `CPU_PASS` on a CPU."""
    return min(budget // 4, CPU_PASS) if device.type == "cpu" else budget // 4


def peak_so_far(device: torch.device) -> int:
    """The peak memory of this process so far in bytes: allocated tensors on a GPU, resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception reports that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@dataclass
class Room:
    """Whether the memory was sufficient; set by `watch_memory`."""

    enough: bool = True


@contextmanager
def watch_memory() -> Iterator[Room]:
    """Suppress out-of-memory errors in the block, and report them as `enough=False`."""
    room = Room()
    try:
        yield room
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        room.enough = False
