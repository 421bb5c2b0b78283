"""Batch invariance: on a CPU, in float32, a row's results have the same bits whatever other rows are computed beside it.

Kernels round differently for some shapes: products of few rows, queries that do not fill a block, and sums over keys that
are split elsewhere. So the engine pads rows, queries and keys to numbers for which kernels round alike, and the place of a
token in its row does not depend on other rows. `Proof.invariant` finds out whether that is enough for a model.
"""

from functools import lru_cache

import torch
from torch.nn.functional import scaled_dot_product_attention

ROWS = 16  # of a product: with fewer, MKL takes other kernels
QUERIES = (4, 8, 16, 32)  # the queries that attend to the same keys are a multiple of one of these, for the same reason
KEYS = 512  # keys that PyTorch's attention takes at a time on a CPU
HEADS = (32, 64)  # sizes of the heads for which sums over keys are compared


def up(n: int, multiple: int) -> int:
    """The next multiple of a number.

    >>> [up(n, 16) for n in (0, 1, 16, 17)]
    [0, 16, 16, 32]
    """
    return -(-n // multiple) * multiple


def key_width(n: int, device: torch.device) -> int:
    """The least number of keys, n or more, for which attention on a CPU rounds as with further, masked keys."""
    whole, part = divmod(n, KEYS)
    if not part or device.type != "cpu":
        return n
    return whole * KEYS + next(width for width in _widths() if width >= part)


@lru_cache
def block_end(start: int, most: int, device: torch.device) -> int:
    """Where a block of queries from `start` ends, of `most` if possible: at a place where `key_width` adds no keys."""
    ends = [end for end in range(up(start + 1, ROWS), start + most + KEYS, ROWS) if key_width(end, device) == end]
    return max((end for end in ends if end <= start + most), default=ends[0])


def block_of(position: int, most: int, device: torch.device) -> tuple[int, int]:
    """Start and end of the block of queries that holds a position. Blocks are the same wherever a pass begins."""
    start = end = 0
    while end <= position:
        start, end = end, block_end(end, most, device)
    return start, end


@lru_cache
@torch.inference_mode()
def query_multiple(dim: int) -> int:
    """The multiple to which queries are padded on a CPU, so that attention with heads of this size rounds alike for any number.

    With AVX-512, MKL takes other kernels for 2 queries of 64 numbers and fewer, for 5 of 128, and for 10 of 256; PyTorch's
    attention takes up to 32 queries at a time.
    """
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 1, n, dim, generator=draw) for n in (3 * QUERIES[-1], ROWS, ROWS))

    def attention(n: int) -> torch.Tensor:
        return scaled_dot_product_attention(query[:, :, :n], key, value, attn_mask=torch.zeros(1, 1, n, ROWS))

    whole = attention(query.shape[2])

    def rounds_alike(multiple: int) -> bool:
        return all(torch.equal(attention(n), whole[:, :, :n]) for n in range(multiple, whole.shape[2], multiple))

    return next((multiple for multiple in QUERIES if rounds_alike(multiple)), QUERIES[-1])


@lru_cache
@torch.inference_mode()
def _widths() -> list[int]:
    """The numbers of keys, up to `KEYS`, for which attention rounds as with masked keys up to `KEYS`, whatever the queries.

    Of some numbers MKL splits the sums elsewhere.
    """
    draw = torch.Generator().manual_seed(0)
    tensors = [[torch.randn(1, 1, n, size, generator=draw) for n in (64, KEYS, KEYS)] for size in HEADS]

    def attention(query, key, value, queries: int, width: int, seen: int) -> torch.Tensor:
        mask = torch.zeros(1, 1, queries, width)
        mask[..., seen:] = float("-inf")
        args = query[:, :, :queries], key[:, :, :width], value[:, :, :width]
        return scaled_dot_product_attention(*args, attn_mask=mask)[:, :, : QUERIES[0]]

    def rounds_alike(width: int) -> bool:
        shapes = (64, KEYS), *((queries, width) for queries in (QUERIES[0], 5 * QUERIES[0], 64))
        return all(len({attention(*each, *shape, width).numpy().tobytes() for shape in shapes}) == 1 for each in tensors)

    return [*filter(rounds_alike, range(ROWS, KEYS, ROWS)), KEYS]
