"""Activation functions that give a number the same bits wherever it stands in a tensor, on a CPU.

PyTorch computes such a function for whole vectors of numbers at a time, and for those that are left at the end of a thread's
share in another way, with other last digits. Where a token's numbers fill no whole vectors for every thread, the results for
some tokens would depend on how many there are.
"""

from math import lcm

import torch
from transformers.activations import ACT2CLS

from .invariance import up
from .linear import replace_layers

KINDS = (torch.nn.GELU, *{kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()})
LANES = 32  # numbers that a CPU with AVX-512 takes at a time: two vectors; 16 with AVX2
GRAIN = 2**15  # numbers for each thread that takes part


class EvenActivation(torch.nn.Module):
    """The same function, computed with as many further zeros as give whole vectors to every thread."""

    def __init__(self, activation: torch.nn.Module):
        super().__init__()
        self.function = activation.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the shape of x."""
        size = even_size(x.numel(), torch.get_num_threads())
        if size == x.numel():
            return self.function(x.contiguous())  # GELU rounds in another way where it is not
        flat = torch.nn.functional.pad(x.reshape(-1), (0, size - x.numel()))
        return self.function(flat)[: x.numel()].view(x.shape)


def even_size(n: int, threads: int) -> int:
    """A size, n or more, of which every thread has whole vectors, whether all threads take part or one for each `GRAIN`.

    >>> [even_size(n, threads=1) for n in (0, 1, 32, 33)]
    [0, 32, 32, 64]
    >>> [even_size(n, threads=2) for n in (33, 2**15, 2**15 + 1)]  # in the last one both threads take part
    [64, 32768, 32832]
    """
    size, at_work = n, 0
    while at_work < (at_work := min(threads, max(1, -(-size // GRAIN)))):
        size = up(size, LANES * lcm(threads, at_work))  # one more may take part in that
    return size


def even_activations(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """Replace the activation functions of a model, in place, but for those with parameters.

    Returns them with their parents and names.
    """

    def even(layer: torch.nn.Module) -> torch.nn.Module | None:
        return EvenActivation(layer) if type(layer) in KINDS and not [*layer.parameters()] else None

    return replace_layers(model, even)
