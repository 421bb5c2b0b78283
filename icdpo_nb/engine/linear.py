"""The products of float32 linear layers on a CPU: PyTorch's own or oneDNN's with prepacked weights, whichever is faster.

Neither is faster everywhere. On an Intel processor with AVX-512 (two cores), PyTorch's product is 2.5 times as fast for 12 rows
and 80 x 224 weights, and oneDNN's is 2.5 times as fast for 12 rows and 576 x 49152 weights; on other processors the order
differs. So both are measured, once for each shape, and the choice is kept in the cache folder. They agree up to float32
rounding.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import torch

from ..common.files import cache_folder, digest
from ..common.machine import processor
from .invariance import ROWS

TORCH, ONEDNN = "torch", "oneDNN"
LAYOUT_ROWS = 512  # the batch size for which oneDNN chooses the layout; other sizes work, too
PREFILL, STEP = 512, 32  # rows of the passes that are measured
STEPS = 4  # decoding steps for each pass of prefill: a fourth of its tokens
CACHE = 2**25  # bytes of weights that a step goes through, as in a model: they come from memory, not from the cache
LARGEST = 10**9  # multiplications of a measured pass: fewer rows for the output layer, whose time they tell as well
COPIES = 24  # at most: smaller layers stay in the cache in a model, too
REPEATS = 4  # of which the fastest counts, since other processes can only slow it down
TRIED = (1, 2, 3, 6, 11, ROWS, 20, 28, 48, 96, 264, 700)  # numbers of rows for which rounding is compared


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


def choose_products(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """Give the linear layers of a float32 model on a CPU the faster product, in place, if PyTorch was built with oneDNN.

    The model can no longer be trained or saved. Its other weights are copied, so that the memory-mapped checkpoint can be
    closed. Returns the replaced layers with their parents and names.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return []

    def packed(layer: torch.nn.Module) -> torch.nn.Module | None:
        return PackedLinear(layer) if _has_choice(layer) and faster_product(layer) == ONEDNN else None

    replaced = replace_layers(model, packed)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return replaced


def count_products(model: torch.nn.Module) -> Counter:
    """The number of linear layers with each product, where there is a choice."""
    kinds = (ONEDNN if isinstance(m, PackedLinear) else TORCH if _has_choice(m) else "" for m in model.modules())
    return Counter(kind for kind in kinds if kind)


def _has_choice(layer: torch.nn.Module) -> bool:
    if type(layer) is not torch.nn.Linear:
        return False
    return layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def faster_product(layer: torch.nn.Linear) -> str:
    """The faster product for a layer of this shape on this machine, from the cache folder if it was measured before.

    The processes of a machine share the first choice, so that they round alike.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    key = [processor(), capability, torch.__version__, torch.get_num_threads(), STEP, *layer.weight.shape]
    path = cache_folder() / "products" / digest(key)[:24]
    if product := _kept(path):
        return product
    product = measured_product(layer)
    _keep(path, product)
    return _kept(path) or product


def least_rows(model: torch.nn.Module) -> int:
    """The number of rows with which products round as with any more: `ROWS`, or 1 where all of them are oneDNN's."""
    others = (m for m in model.modules() if not isinstance(m, (PackedLinear, torch.nn.Embedding)))
    return ROWS if any(p.ndim > 1 for m in others for p in m.parameters(recurse=False)) else 1


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


def kept_choices() -> dict[str, str]:
    """The choices in the cache folder by the names of their files, for another machine to `keep_choices`."""
    choices = {path.name: _kept(path) for path in sorted((cache_folder() / "products").glob("*"))}
    return {name: product for name, product in choices.items() if product}


def keep_choices(choices: Mapping[str, str]) -> None:
    """Keep the choices of another machine where this one has made none. They count on a processor of the same kind only."""
    for name, product in choices.items():
        _keep(cache_folder() / "products" / name, product)


def _keep(path: Path, product: str) -> None:
    """Write a choice, unless another process was first."""
    with suppress(OSError):  # a cache that cannot be written
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "x") as file:
            file.write(product)


def _kept(path: Path) -> str | None:
    """The choice in a file, or None if there is none."""
    with suppress(OSError):
        product = path.read_text()
        return product if product in (TORCH, ONEDNN) else None
    return None


@torch.inference_mode()
def measured_product(layer: torch.nn.Linear) -> str:
    """The product that takes less time for a pass of prefill and `STEPS` decoding steps."""
    layers = [layer, *(deepcopy(layer) for _ in range(min(COPIES, CACHE // layer.weight.nbytes)))]
    products = {TORCH: layers, ONEDNN: [PackedLinear(each) for each in layers]}
    took = dict.fromkeys(products, 0.0)
    for rows, passes, n in ((PREFILL, 1, 1), (STEP, STEPS, len(layers))):
        x = torch.zeros(max(1, min(rows, LARGEST // layer.weight.numel())), layer.in_features)
        times = [{name: _seconds(each[:n], x) / n for name, each in products.items()} for _ in range(REPEATS)]
        for name in products:
            took[name] += passes * min(t[name] for t in times)
    return min(took, key=took.get)


def _seconds(layers: Sequence[torch.nn.Module], x: torch.Tensor) -> float:
    start = time.perf_counter()
    for layer in layers:
        layer(x)
    return time.perf_counter() - start
