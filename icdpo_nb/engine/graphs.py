"""Decoding steps as CUDA graphs: the operations of a step are recorded once for its shape, and then started all at once.

A step of a model of seven billion parameters has some 1,500 small operations, which Python takes longer to start than a GPU
to finish.
"""

from collections.abc import Callable

import torch

from .packing import on_device


def rounded(size: int, most: int) -> int:
    """The next power of two, at most `most`: steps of such shapes are few, so that most of them come again.

    >>> [rounded(size, 12) for size in (1, 3, 8, 9, 12)]
    [1, 4, 8, 12, 12]
    """
    return min(1 << (size - 1).bit_length(), most)


def cuda_graph(run: Callable[[], torch.Tensor], memory) -> tuple[Callable[[], None], torch.Tensor]:
    """What starts the recorded operations of `run()`, and the tensor that then receives their result."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
        result = run()
    return graph.replay, result


class Graphs:
    """Runs the decoding steps of one pool, and records those of a shape that comes a second time.

    Recording computes nothing, and needs a first run for what kernels set up. A model whose operations depend on values, as
    in a mixture of experts, cannot be recorded: its steps run as they are, and `engine.records` becomes false.
    """

    def __init__(self, engine, record: Callable = cuda_graph):
        self.engine, self.record = engine, record
        self.memory = None  # shared by the graphs: one runs at a time, and its result is used before the next one runs
        self.seen: set[tuple[int, ...]] = set()
        self.recorded: dict[tuple[int, ...], tuple] = {}

    def __call__(self, run: Callable[[torch.Tensor, int], torch.Tensor], step: torch.Tensor, used: int) -> torch.Tensor:
        """`run(step, used)` with the step, int64, on the device. The result is valid until the next call."""
        key = (*step.shape, used)
        given = on_device(step, self.engine.device)
        if key in self.seen and key not in self.recorded and self.engine.records:
            self._record(run, key, given)
        self.seen.add(key)
        if key not in self.recorded:
            return run(given, used)
        place, replay, result = self.recorded[key]
        place.copy_(given)
        replay()
        return result

    def _record(self, run: Callable[[torch.Tensor, int], torch.Tensor], key: tuple[int, ...], place: torch.Tensor) -> None:
        """Keep the graph of a step of this shape, which reads its values from `place`."""
        try:
            self.memory = self.memory or torch.cuda.graph_pool_handle()
            self.recorded[key] = (place, *self.record(lambda: run(place, key[-1]), self.memory))
        except Exception:  # of any kind, from any operation; without graphs the result is the same
            self.engine.records = False
