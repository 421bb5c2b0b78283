"""Packing of token ids: all responses to a context into one row, and rows into batches of limited size."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

BAND = 32  # tokens by which contexts may differ and still be taken in the order of their responses


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


def token_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Batches of indices with similar lengths, longest first, each at most `batch_tokens` with padding (or one item)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def by_length(row: tuple[int, int]) -> tuple[int, int]:
    """The order in which rows of (context, packed responses) have little padding, each part padded to the longest of a batch.

    By context, the longest first, in bands of `BAND` tokens, and by responses within a band.
    """
    context, responses = row
    return -(context // BAND), -responses


def fitting(rows: Sequence[tuple[int, int]], batch_tokens: int) -> int:
    """How many of the first rows of (context, packed responses) make a batch of `batch_tokens` with padding; at least one."""
    context = responses = 0
    for n, row in enumerate(rows):
        context, responses = max(context, row[0]), max(responses, row[1])
        if n and (n + 1) * (context + responses) > batch_tokens:
            return n
    return len(rows)


def right_pad(rows: Sequence[Sequence[int]], fill: int, device) -> torch.Tensor:
    """Pad the rows on the right with `fill`: int64, shape (rows, longest row)."""
    width = max(map(len, rows))
    return on_device(torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64), device)


def on_device(values: torch.Tensor, device) -> torch.Tensor:
    """Values on a device. Nothing waits for what a GPU still computes: the copy to it stands in line behind that."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def split(values: np.ndarray, like: Sequence[Sequence]) -> list[np.ndarray]:
    """Split `values` into consecutive pieces with the lengths of the members of `like`."""
    return np.split(values, np.cumsum([len(x) for x in like])[:-1]) if len(like) else []
