"""Packing of token ids: all responses to a context into one row, and rows into batches of limited size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch

from .invariance import up

BAND = 32  # the rows of a batch are padded to the same multiples of this


@dataclass
class Packed:
    """All responses to one context, as the last part of a row, with one query and one target for each response token.

    The last token of the context, at position p, predicts the first token of every response and is repeated for each one:
    the queries of a response are [c(p), y1 … y(T-1)], its targets [y1 … yT].
    """

    ids: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    pos: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)


def pack(p: int, last: int, responses: Sequence[Sequence[int]]) -> Packed:
    """Pack the responses to a context with last token `last` at position `p`. Responses without tokens are skipped."""
    row = Packed()
    for j, y in enumerate(responses):
        if len(y):
            row.ids += [last, *y[:-1]]
            row.owner += [j + 1] * len(y)
            row.pos += range(p, p + len(y))
            row.target += y
    return row


def equal_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Batches of indices, longest first, each at most `batch_tokens` with padding (or one item).

    All rows of a batch are padded to the same multiple of `BAND`, as each would be alone.
    """
    batches: list[list[int]] = []
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for width, members in groupby(longest_first, key=lambda i: up(lengths[i], BAND)):
        same, n = [*members], max(1, batch_tokens // width)
        batches += [same[k : k + n] for k in range(0, len(same), n)]
    return batches


def padded(row: tuple[int, int]) -> tuple[int, int]:
    """The lengths to which a row of (context, packed responses) is padded."""
    context, responses = row
    return up(context, BAND), up(responses, BAND)


def fitting(rows: Sequence[tuple[int, int]], batch_tokens: int) -> int:
    """How many of the first rows of (context, packed responses) make a batch of `batch_tokens` with padding; at least one.

    All rows of a batch have the same padded lengths, so that each is computed as it would be alone.
    """
    lengths = padded(rows[0])
    most = min(len(rows), max(1, batch_tokens // sum(lengths)))
    return next((n for n, row in enumerate(rows[:most]) if padded(row) != lengths), most)


def right_pad(rows: Sequence[Sequence[int]], fill: int, device, width: int = 0) -> torch.Tensor:
    """Pad the rows on the right with `fill`: int64, shape (rows, longest row), or of `width` if that is more."""
    width = max(width, *map(len, rows))
    return on_device(torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64), device)


def on_device(values: torch.Tensor, device) -> torch.Tensor:
    """Values on a device. Nothing waits for what a GPU still computes: the copy to it stands in line behind that."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def split(values: np.ndarray, like: Sequence[Sequence]) -> list[np.ndarray]:
    """Split `values` into consecutive pieces with the lengths of the members of `like`."""
    return np.split(values, np.cumsum([len(x) for x in like])[:-1]) if len(like) else []
