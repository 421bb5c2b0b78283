"""Shared prefixes: grouping of contexts that begin with the same tokens, and the prefix computed once per group."""

from collections.abc import Sequence
from os.path import commonprefix

import torch

from .attention import CONTEXT, PADDING
from .caches import PassCache
from .invariance import up
from .packing import right_pad

MIN_SHARED_TOKENS = 16  # shorter prefixes are not worth a separate pass
# The fixed cost of a pass in tokens. Measured on a CPU: 34 (135M parameters) and 78 (one million parameters).
PASS_COST_TOKENS = 32


def prefix_groups(
    contexts: Sequence[Sequence[int]], indices: Sequence[int], passes: int = 1
) -> list[tuple[Sequence[int], list[int]]]:
    """Group contexts that share at least their first `MIN_SHARED_TOKENS` tokens. Returns (prefix, indices) pairs.

    A separate group needs `passes` extra passes, so it is formed only if its prefix saves more than `PASS_COST_TOKENS` for
    each of them. All remaining contexts form the last group, with a prefix if all of them share one. A prefix ends before
    the last token of its shortest context, because the hidden state of that token is needed.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in indices:
        groups.setdefault(tuple(contexts[i][:MIN_SHARED_TOKENS]), []).append(i)
    result, remaining = [], []
    for members in groups.values():
        prefix = _shared([contexts[i] for i in members])
        if len(prefix) * (len(members) - 1) > PASS_COST_TOKENS * passes:
            result.append((prefix, members))
        else:
            remaining += members
    if remaining:
        result.append((_shared([contexts[i] for i in remaining]), remaining))
    return result


def _shared(contexts: Sequence[Sequence[int]]) -> Sequence[int]:
    """The common prefix of the contexts, or () if it is too short for a separate pass or there is only one context."""
    prefix = commonprefix([list(c) for c in contexts])[: min(map(len, contexts)) - 1]
    return prefix if len(contexts) > 1 and len(prefix) >= MIN_SHARED_TOKENS else ()


class Prefix:
    """The shared first tokens of several contexts (possibly none), computed once with an `engine`."""

    def __init__(self, engine, ids: Sequence[int]):
        self.ids = list(ids)
        self.device = engine.device
        self.cache = PassCache(engine.n_layers, keep=True)
        if self.ids:
            engine.work["prefill"] += len(self.ids)
            row = right_pad([self.ids], 0, self.device)
            pos = torch.arange(len(self.ids), device=self.device)[None]
            owner, no_responses = torch.full_like(pos, CONTEXT), pos[:, :0]
            engine.forward(row, pos, (no_responses, no_responses), (owner, pos), self.cache)

    def keys(self, rest: Sequence[Sequence[int]], multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Owner and position of the keys of contexts that continue the prefix with `rest`, padded to a multiple of some number.

        Both are int64, shape (rows, tokens).
        """
        lengths = [len(self.ids) + len(r) for r in rest]
        owner = right_pad([[CONTEXT] * n for n in lengths], PADDING, self.device, up(max(lengths), multiple))
        return owner, torch.arange(owner.shape[1], device=self.device).expand(len(rest), -1)

    def fan_out(self, rows: int, keep: bool) -> PassCache:
        """A cache for a pass whose rows begin with this prefix; see `PassCache`."""
        return self.cache.fan_out(rows, keep)
