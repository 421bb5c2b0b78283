"""Attention for rows in which n responses share one context: the mask and the attention function.

A row of a batch holds a context followed by the tokens of its n responses. Each token has an owner (0 for the context, j
for the j-th response, -1 for padding) and a position, and attends to the context and to its own response. A context is
therefore computed once for any n, and every token attends to exactly what it would attend to in a separate sequence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .invariance import block_of, key_width, query_multiple

PADDING, CONTEXT = -1, 0  # owners; response j of a row has owner j + 1
QUERIES_AT_A_TIME = 256  # block size of context queries: each block skips the keys after its last query


def attention_mask(
    q_owner: torch.Tensor,
    q_pos: torch.Tensor,
    k_owner: torch.Tensor,
    k_pos: torch.Tensor,
    dtype: torch.dtype,
    window: int | None,
) -> torch.Tensor:
    """Additive mask, shape (batch, 1, q, k): 0 where a query may attend, -inf elsewhere.

    Owners and positions are int64, shapes (batch, q) and (batch, k). A query attends to the context and to its own
    response, up to its own position and, with a sliding `window`, over at most that many positions.
    """
    owner, pos = q_owner[:, :, None], q_pos[:, :, None]
    visible = ((k_owner[:, None] == CONTEXT) | (k_owner[:, None] == owner)) & (k_pos[:, None] <= pos)
    if window:
        visible &= (pos - k_pos[:, None] < window) | (owner == PADDING)
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))[:, None]


_cells: ContextVar[torch.Tensor | None] = ContextVar("cells", default=None)


@contextmanager
def in_one_line(cells: torch.Tensor | None) -> Iterator[None]:
    """Within the block, the tokens of all rows of a pass stand in one line, without padding, unless `cells` is None.

    Token t has cell `cells[t]` of the grid of the mask's rows and queries, counted row by row. It is no argument of
    `grouped_attention`, since some models pass none of theirs on.
    """
    token = _cells.set(cells)
    try:
        yield
    finally:
        _cells.reset(token)


def grouped_attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    dropout=0.0,
    sliding_window=None,
    softcap=None,
    s_aux=None,
    **kwargs,
):
    """Scaled dot-product attention that skips masked blocks of keys and does not copy grouped keys and values.

    query has shape (batch, heads, q, dim); key and value have shape (batch, kv_heads, k, dim), with the queries' own keys
    last. `attention_mask`, shape (batch, 1, r, k), applies to the last r queries, which belong to responses. The queries
    before them belong to contexts, which start at the first key of every row, so plain causal attention applies to them.
    `s_aux`, shape (heads,), are the attention sinks of gpt-oss: the logit of a key without a value that every query sees.
    Where tokens stand in one line (`in_one_line`), query has shape (1, heads, tokens, dim), and the output likewise.
    Returns the output, shape (batch, q, heads, dim), and None.
    """
    if (cells := _cells.get()) is not None:
        out = _attend(_in_rows(query, cells, attention_mask), key, value, attention_mask, scaling, softcap, s_aux)
        return out.flatten(0, 1)[cells][None], None
    if attention_mask is None and (softcap or s_aux is not None):
        attention_mask = query.new_zeros(len(query), 1, 0, key.shape[2])
    if attention_mask is None:  # a call of the model from outside the engine
        return sdpa_attention_forward(module, query, key, value, None, dropout=dropout, scaling=scaling, **kwargs)
    n_context, offset = query.shape[2] - attention_mask.shape[2], key.shape[2] - query.shape[2]
    parts, stop = [], offset + n_context
    if n_context:
        of_context = query[:, :, :n_context], key[:, :, :stop], value[:, :, :stop]
        parts += _attend_causally(*of_context, scaling, softcap, s_aux, sliding_window)
    if n_context < query.shape[2]:
        parts.append(_attend(query[:, :, n_context:], key, value, attention_mask, scaling, softcap, s_aux))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).contiguous(), None


def _in_rows(query: torch.Tensor, cells: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Queries in their cells, shape (rows, heads, q, dim), and zeros in the others."""
    _, heads, _, dim = query.shape
    rows, _, q, _ = mask.shape
    grid = query.new_zeros(rows * q, heads, dim)
    grid[cells] = query[0].transpose(0, 1)
    return grid.view(rows, q, heads, dim).transpose(1, 2)


def _attend_causally(query, key, value, scaling, softcap, sinks, window) -> list[torch.Tensor]:
    """As `_attend`, for queries that are the last of the keys' tokens: by a kernel that needs no mask, or block by block."""
    n, offset = query.shape[2], key.shape[2] - query.shape[2]
    narrow = window is not None and window < key.shape[2]
    if not (offset or narrow or softcap or sinks is not None) and _fits_flash(query, key, value):
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return [out.transpose(1, 2)]
    parts, end = [], 0
    while end < n:
        start = end
        block_start, block_end = block_of(offset + start, QUERIES_AT_A_TIME, query.device)
        end = min(block_end - offset, n)
        stop, first = offset + end, max(0, block_start - window + 1) if window else 0
        mask = _causal_mask(offset + start, stop, first, window, query)
        keys, values = key[:, :, first:stop], value[:, :, first:stop]
        if more := key_width(stop - first, query.device) - (stop - first):  # as in a row that goes on
            keys, values = (torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (keys, values))
            mask = torch.nn.functional.pad(mask, (0, more), value=float("-inf"))
        parts.append(_attend(query[:, :, start:end], keys, values, mask, scaling, softcap, sinks))
    return parts


def _fits_flash(query, key, value) -> bool:
    """Whether PyTorch's flash attention takes these: on a GPU, in 16 bits, with heads that are not too wide."""
    return query.is_cuda and can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, True, True))


def _causal_mask(start: int, stop: int, first: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Additive mask, shape (1, 1, stop - start, stop - first), for queries from `start` and keys from `first`."""
    q_pos = torch.arange(start, stop, device=like.device)
    k_pos = torch.arange(first, stop, device=like.device)
    hidden = k_pos[None] > q_pos[:, None]
    if window:
        hidden |= q_pos[:, None] - k_pos[None] >= window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))[None, None]


def _attend(query, key, value, mask, scaling, softcap, sinks) -> torch.Tensor:
    """Attention output, shape (batch, q, heads, dim). Grouped heads become further queries of their shared key head.

    `softcap` bounds the attention logits, as in Gemma 2 (arXiv:2408.00118).
    """
    batch, heads, q, dim = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    if groups > 1:
        mask = mask.repeat(1, 1, groups, 1)
    if sinks is not None:  # a further key of zeros, whose logits the mask holds and whose value is zero
        column = sinks.to(mask.dtype).repeat_interleave(q).view(1, kv_heads, -1, 1).expand(len(mask), -1, -1, -1)
        mask = torch.cat([mask.expand(-1, kv_heads, -1, -1), column], -1)
        key, value = (torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in (key, value))
    query = query.reshape(batch, kv_heads, groups * q, dim)
    if more := -groups * q % query_multiple(max(dim, value.shape[-1])) if query.device.type == "cpu" else 0:
        query, mask = (torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (query, mask))
    if softcap:
        logits = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling or dim**-0.5) / softcap)
        out = torch.softmax((logits + mask).float(), -1).to(value.dtype) @ value
    else:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out[:, :, : groups * q].reshape(batch, heads, q, out.shape[-1]).transpose(1, 2)


AttentionInterface.register("icdpo_grouped", grouped_attention)
AttentionMaskInterface.register("icdpo_grouped", sdpa_mask)
