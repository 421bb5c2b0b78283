"""The products of float32 linear layers on a CPU: PyTorch's own or oneDNN's with prepacked weights, whichever is faster.

Neither is faster everywhere. On an Intel processor with AVX-512 (two cores), PyTorch's product is 2.5 times as fast for 12 rows
and 80 x 224 weights, and oneDNN's is 2.5 times as fast for 12 rows and 576 x 49152 weights; on other processors the order
differs. So both are measured, once for each shape, and the times are kept in the cache folder. They agree up to float32
rounding.

They also differ in how many rows they need to round as with any more (`invariance.py`): PyTorch's 16, oneDNN's two. A decoding
step of few tokens is computed with few rows only where all products are oneDNN's, so the choice is one for the whole model.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import torch

from ..common.files import cache_folder, digest
from ..common.machine import processor
from .invariance import ROWS

TORCH, ONEDNN = "torch", "oneDNN"
LAYOUT_ROWS = 512  # the batch size for which oneDNN chooses the layout; other sizes work, too
FEWEST = 2  # rows with which oneDNN's product rounds as with any more; a single row has a kernel of its own
PREFILL, STEP = 512, 6  # rows of the passes that are measured: a context, and the unfinished responses to a few prompts
STEPS = 8  # decoding steps for each pass of prefill, of few responses side by side
CACHE = 2**25  # bytes of weights that a step goes through, as in a model: they come from memory, not from the cache
LARGEST = 10**9  # multiplications of a measured pass: fewer rows for the output layer, whose time they tell as well
COPIES = 24  # at most: smaller layers stay in the cache in a model, too
REPEATS = 4  # of which the fastest counts, since other processes can only slow it down
TRIED = (FEWEST, 3, 6, 11, ROWS, 20, 28, 48, 96, 264, 700)  # numbers of rows for which rounding is compared

Times = dict[str, dict[str, float]]  # seconds of a pass by product and number of rows


class PackedLinear(torch.nn.Module):
    """A linear layer for inference, (..., in) -> (..., out), with its weights in oneDNN's layout."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), LAYOUT_ROWS)
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:
        """A copy of the weights in the usual layout, for models that look at them."""
        return self.packed.to_dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x W' + b."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def replace_layers(
    model: torch.nn.Module, better: Callable[[torch.nn.Module], torch.nn.Module | None]
) -> list[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """Put `better(layer)` in the place of each layer for which it is not None. Returns these with their parents and names."""
    replaced = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if (layer := better(child)) is not None:
                setattr(parent, name, layer)
                replaced.append((parent, name, child))
    return replaced


def choose_products(
    model: torch.nn.Module, products: Mapping[tuple[int, ...], str]
) -> list[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """Give the linear layers of a float32 model on a CPU their `products` by shape (`fastest_products`), in place.

    The model can no longer be trained or saved. Its other weights are copied, so that the memory-mapped checkpoint can be
    closed. Returns the replaced layers with their parents and names.
    """

    def packed(layer: torch.nn.Module) -> torch.nn.Module | None:
        return PackedLinear(layer) if _has_choice(layer) and products.get(layer.weight.shape) == ONEDNN else None

    replaced = replace_layers(model, packed)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return replaced


def fastest_products(model: torch.nn.Module, steps: int = STEPS) -> dict[tuple[int, ...], str]:
    """The product for each shape of the linear layers of a model with which its passes are fastest.

    That is the faster one for each shape, with steps of `ROWS` rows, or oneDNN's for all, with steps of fewer. `steps` is the
    number of decoding steps for each pass of prefill. Empty where there is no choice, or PyTorch was built without oneDNN.
    """
    layers = [m for m in model.modules() if _has_choice(m)]
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return {}
    times = {layer.weight.shape: product_times(layer) for layer in layers}

    def cost_of_one(shape: tuple[int, ...], product: str, rows: int) -> float:
        seconds = times[shape][product]
        return seconds[str(PREFILL)] + steps * seconds[str(rows)]

    def cost(products: Mapping[tuple[int, ...], str], rows: int) -> float:
        return sum(cost_of_one(layer.weight.shape, products[layer.weight.shape], rows) for layer in layers)

    faster = {shape: min(found, key=lambda product: cost_of_one(shape, product, ROWS)) for shape, found in times.items()}
    only = dict.fromkeys(times, ONEDNN)
    others = _has_matrices(m for m in model.modules() if not _has_choice(m))
    may_be_few = not others and all(ONEDNN in found for found in times.values())
    return only if may_be_few and cost(only, STEP) <= cost(faster, ROWS) else faster


def count_products(model: torch.nn.Module) -> Counter:
    """The number of linear layers with each product, where there is a choice."""
    kinds = (ONEDNN if isinstance(m, PackedLinear) else TORCH if _has_choice(m) else "" for m in model.modules())
    return Counter(kind for kind in kinds if kind)


def _has_choice(layer: torch.nn.Module) -> bool:
    if type(layer) is not torch.nn.Linear:
        return False
    return layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def product_times(layer: torch.nn.Linear) -> Times:
    """Seconds of a pass by product and number of rows, for a layer of this shape on this machine.

    They come from the cache folder if they were measured before. The processes of a machine share what the first one has
    measured, so that they choose, and round, alike.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    rows = [PREFILL, ROWS, STEP]
    key = [processor(), capability, torch.__version__, torch.get_num_threads(), rows, *layer.weight.shape]
    path = cache_folder() / "products" / digest(key)[:24]
    if times := _kept(path):
        return times
    times = measured_times(layer)
    _keep(path, times)
    return _kept(path) or times


def least_rows(model: torch.nn.Module) -> int:
    """The number of rows with which products round as with any more: `FEWEST` where all of them are oneDNN's, else `ROWS`."""
    return ROWS if _has_matrices(m for m in model.modules() if not isinstance(m, PackedLinear)) else FEWEST


def _has_matrices(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether any of them but embeddings may compute a product with parameters of its own."""
    parameters = (p for m in modules if not isinstance(m, torch.nn.Embedding) for p in m.parameters(recurse=False))
    return any(p.ndim > 1 for p in parameters)


@torch.inference_mode()
def round_alike(model: torch.nn.Module) -> bool:
    """Whether rows of the linear layers' products have the same bits among other numbers of rows, as far as `TRIED` tells."""
    kinds = (torch.nn.Linear, PackedLinear)
    layers = {(type(m), m.in_features, m.out_features): m for m in model.modules() if isinstance(m, kinds)}
    least = least_rows(model)
    return all(_rounds_alike(layer, [n for n in TRIED if n >= least]) for layer in layers.values())


def _rounds_alike(layer: torch.nn.Module, tried: Sequence[int]) -> bool:
    sizes = [n for n in tried if n <= ROWS or n * layer.in_features * layer.out_features < LARGEST]
    rows = torch.randn(sizes[-1], layer.in_features, generator=torch.Generator().manual_seed(0))
    whole = layer(rows)
    return all(torch.equal(layer(rows[:n]), whole[:n]) and torch.equal(layer(rows[-n:]), whole[-n:]) for n in sizes)


def kept_times() -> dict[str, Times]:
    """The times in the cache folder by the names of their files, for another machine to `keep_times`."""
    found = {path.name: _kept(path) for path in sorted((cache_folder() / "products").glob("*"))}
    return {name: times for name, times in found.items() if times}


def keep_times(found: Mapping[str, Times]) -> None:
    """Keep the times of another machine where this one has none. They count on a processor of the same kind only."""
    for name, times in found.items():
        _keep(cache_folder() / "products" / name, times)


def _keep(path: Path, times: Times) -> None:
    """Write what was measured, unless another process was first."""
    with suppress(OSError):  # a cache that cannot be written
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "x") as file:
            file.write(json.dumps(times))


def _kept(path: Path) -> Times | None:
    """The times in a file, or None if there are none."""
    with suppress(OSError, ValueError):
        times = json.loads(path.read_text())
        return times if isinstance(times, dict) else None
    return None


@torch.inference_mode()
def measured_times(layer: torch.nn.Linear) -> Times:
    """Seconds of a pass by product and number of rows. A product that rounds by its number of rows counts only if both do."""
    layers = [layer, *(deepcopy(layer) for _ in range(min(COPIES, CACHE // layer.weight.nbytes)))]
    products = {TORCH: layers, ONEDNN: [PackedLinear(each) for each in layers]}
    even = {name: each for name, each in products.items() if round_alike(each[0])} or products
    times: Times = {name: {} for name in even}
    for rows, n in ((PREFILL, 1), (ROWS, len(layers)), (STEP, len(layers))):
        x = torch.zeros(max(1, min(rows, LARGEST // layer.weight.numel())), layer.in_features)
        each = [{name: _seconds(some[:n], x) / n for name, some in even.items()} for _ in range(REPEATS)]
        for name in even:
            times[name][str(rows)] = min(found[name] for found in each)
    return times


def _seconds(layers: Sequence[torch.nn.Module], x: torch.Tensor) -> float:
    start = time.perf_counter()
    for layer in layers:
        layer(x)
    return time.perf_counter() - start
