"""Token ids in rows and batches: the responses of one context in a row, batches by tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class Packed:
    """The responses to one context as the last part of a row: a query for each response token, and that token as its target.

    The context's last token predicts the first token of every response, so it stands once before each of them:
    [c(p), y1 … y(T-1)] for every response, with the targets [y1 … yT].
    """

    ids: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    pos: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)


def pack(p: int, last: int, responses: Sequence[Sequence[int]]) -> Packed:
    """The responses to a context whose last token, `last`, stands at position `p`; those without tokens are left out."""
    row = Packed()
    for j, y in enumerate(responses):
        if len(y):
            row.ids += [last, *y[:-1]]
            row.owner += [j + 1] * len(y)
            row.pos += range(p, p + len(y))
            row.target += y
    return row


def token_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, each within `batch_tokens` when padded (or one item)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def right_pad(rows: Sequence[Sequence[int]], fill: int, device) -> torch.Tensor:
    """int64 (rows, longest row)."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64, device=device)


def split(values: np.ndarray, like: Sequence[Sequence]) -> list[np.ndarray]:
    """Consecutive pieces of `values`, as long as the members of `like`."""
    return np.split(values, np.cumsum([len(x) for x in like])[:-1]) if len(like) else []
