"""Contexts that begin alike: which of them do, and what they share, computed once for all of them."""

from collections.abc import Sequence
from os.path import commonprefix

import torch

from .attention import CONTEXT, PADDING, PassCache
from .packing import right_pad

MIN_SHARED_TOKENS = 16  # a shorter prefix is not worth a pass of its own
# Tokens that take as long as a pass over two: measured on a processor 34 (135M parameters) and 78 (one million).
PASS_COST_TOKENS = 32


def prefix_groups(
    contexts: Sequence[Sequence[int]], indices: Sequence[int], passes: int = 1
) -> list[tuple[Sequence[int], list[int]]]:
    """(prefix, indices) of contexts that share `MIN_SHARED_TOKENS` or more first tokens; all others together come last.

    A group goes through the model by itself, in some `passes` of its own, so it is one only if its prefix saves more than these
    cost, `PASS_COST_TOKENS` each. The others have a prefix where all of them share one. A prefix ends before the last token of
    its shortest context, whose hidden state is needed.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in indices:
        groups.setdefault(tuple(contexts[i][:MIN_SHARED_TOKENS]), []).append(i)
    found, others = [], []
    for members in groups.values():
        prefix = _shared([contexts[i] for i in members])
        if len(prefix) * (len(members) - 1) > PASS_COST_TOKENS * passes:
            found.append((prefix, members))
        else:
            others += members
    return [*found, *([(_shared([contexts[i] for i in others]), others)] if others else [])]


def _shared(contexts: Sequence[Sequence[int]]) -> Sequence[int]:
    """The first tokens that all contexts share, () where they are too few for a pass of their own, or there is one context."""
    prefix = commonprefix([list(c) for c in contexts])[: min(map(len, contexts)) - 1]
    return prefix if len(contexts) > 1 and len(prefix) >= MIN_SHARED_TOKENS else ()


class Prefix:
    """Tokens with which all contexts of some batches begin, computed once with an `engine`; there may be none."""

    def __init__(self, engine, ids: Sequence[int]):
        self.ids, self.device, self.cache = list(ids), engine.device, PassCache(engine.n_layers, keep=True)
        if self.ids:
            engine.work["prefill"] += len(self.ids)
            row, nobody = right_pad([self.ids], 0, self.device), torch.zeros(1, 0, dtype=torch.int64, device=self.device)
            pos = torch.arange(len(self.ids), device=self.device)[None]
            engine.forward(row, pos, (nobody, nobody), (torch.full_like(pos, CONTEXT), pos), self.cache)

    def keys(self, rest: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Owner and position, int64 (rows, tokens), of the keys of contexts that begin so and go on with `rest`, padded."""
        owner = right_pad([[CONTEXT] * (len(self.ids) + len(r)) for r in rest], PADDING, self.device)
        return owner, torch.arange(owner.shape[1], device=self.device).expand(len(rest), -1)

    def fan_out(self, rows: int, keep: bool) -> PassCache:
        """A cache for a pass whose rows begin with this prefix; with `keep` it holds what the pass computes as well."""
        return self.cache.fan_out(rows, keep)
