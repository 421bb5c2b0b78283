"""Attention for rows in which n responses share one context: the mask, the attention itself, and caches written in place.

A row of a batch holds a context and, after it, the tokens of its n responses. Each token carries an owner (0 the context, j
the j-th response, -1 padding) and a position, and attends to the context and to its own response. So a context is computed
once, whatever n is, and every token sees exactly what it would see alone.
"""

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PADDING, CONTEXT = -1, 0  # owners; response j of a row has owner j + 1
QUERIES_AT_A_TIME = 256  # context queries at a time: later ones need more keys, and no query computes what it may not see


def attention_mask(
    q_owner: torch.Tensor,
    q_pos: torch.Tensor,
    k_owner: torch.Tensor,
    k_pos: torch.Tensor,
    dtype: torch.dtype,
    window: int | None,
) -> torch.Tensor:
    """Additive mask, shape (batch, 1, q, k): 0 where a query may look, -inf elsewhere.

    Owners and positions: int64, shapes (batch, q) and (batch, k). A query looks at the context and at its own response, not
    past its own position and, with a sliding `window`, not further back than that many positions.
    """
    owner, pos = q_owner[:, :, None], q_pos[:, :, None]
    seen = ((k_owner[:, None] == CONTEXT) | (k_owner[:, None] == owner)) & (k_pos[:, None] <= pos)
    if window:
        seen &= (pos - k_pos[:, None] < window) | (owner == PADDING)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))[:, None]


def grouped_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, softcap=None, **kwargs
):
    """Scaled dot-product attention that skips what the mask forbids by its shape, and never copies grouped keys and values.

    query (batch, heads, q, dim); key, value (batch, kv_heads, k, dim), the queries' own keys last. `attention_mask`, of shape
    (batch, 1, r, k), is for the last r queries, which belong to responses; those before them belong to contexts, which start
    at the first key in every row, so each sees the keys up to its own. Returns (batch, q, heads, dim) and None.
    """
    if attention_mask is None and softcap:
        attention_mask = query.new_zeros(len(query), 1, 0, key.shape[2])
    if attention_mask is None:  # not one of our packed passes: somebody uses the model by itself
        return sdpa_attention_forward(module, query, key, value, None, dropout=dropout, scaling=scaling, **kwargs)
    lead, offset = query.shape[2] - attention_mask.shape[2], key.shape[2] - query.shape[2]
    parts = []
    for start in range(0, lead, QUERIES_AT_A_TIME):
        end = min(start + QUERIES_AT_A_TIME, lead)
        stop, first = offset + end, max(0, offset + start - sliding_window + 1) if sliding_window else 0
        mask = _causal_mask(offset + start, stop, first, sliding_window, query)
        parts.append(_attend(query[:, :, start:end], key[:, :, first:stop], value[:, :, first:stop], mask, scaling, softcap))
    if lead < query.shape[2]:
        parts.append(_attend(query[:, :, lead:], key, value, attention_mask, scaling, softcap))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)), None


def _causal_mask(start: int, stop: int, first: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Additive mask (1, 1, stop - start, stop - first) of the context's positions from start to stop."""
    q_pos, k_pos = (torch.arange(a, stop, device=like.device) for a in (start, first))
    hidden = k_pos[None] > q_pos[:, None]
    if window:
        hidden |= q_pos[:, None] - k_pos[None] >= window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))[None, None]


def _attend(query, key, value, mask, scaling, softcap) -> torch.Tensor:
    """The heads of a group stand behind one another as more queries of their shared key head; (batch, q, heads, dim).

    `softcap` bounds the attention's logits, as Gemma 2 does (arXiv:2408.00118).
    """
    batch, heads, q, dim = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    if groups > 1:
        mask = mask.repeat(1, 1, groups, 1)
    query = query.reshape(batch, kv_heads, groups * q, dim)
    if softcap:
        logits = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling or dim**-0.5) / softcap)
        out = torch.softmax((logits + mask).float(), -1).to(value.dtype) @ value
    else:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, heads, q, out.shape[-1]).transpose(1, 2)


AttentionInterface.register("icdpo_grouped", grouped_attention)
AttentionMaskInterface.register("icdpo_grouped", sdpa_mask)


class _PassLayer(DynamicLayer):
    """Keys and values that a pass's rows had before it, put before those it computes; kept together with them or forgotten."""

    def __init__(self, keep: bool, keys: torch.Tensor | None = None, values: torch.Tensor | None = None):
        super().__init__()
        self.keep, self.keys, self.values, self.is_initialized = keep, keys, values, keys is not None

    def update(self, key_states, value_states, *args, **kwargs):
        if self.is_initialized:
            key_states, value_states = torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)
        if self.keep:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


class PassCache(Cache):
    """The cache of one pass over contexts: their shared prefix, if any, and with `keep` what the pass computes."""

    def __init__(self, n_layers: int, keep: bool):
        super().__init__(layers=[_PassLayer(keep) for _ in range(n_layers)])

    def fan_out(self, rows: int, keep: bool) -> "PassCache":
        """A cache for `rows` rows that all begin with what this one holds (at most one row)."""
        new = PassCache(len(self.layers), keep)
        for layer, mine in zip(new.layers, self.layers, strict=True):
            if mine.is_initialized:
                layer.__init__(keep, mine.keys.expand(rows, -1, -1, -1), mine.values.expand(rows, -1, -1, -1))
        return new


class _SlotLayer(DynamicLayer):
    """Keys and values in slots of the same width; see `SlotCache`."""

    def update(self, key_states, value_states, *args, **kwargs):
        rows = torch.arange(len(self.columns), device=self.columns.device)[:, None]
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            held[rows, :, self.columns] = new.transpose(1, 2)
        return self.keys[: len(rows), :, : self.used], self.values[: len(rows), :, : self.used]


class SlotCache(Cache):
    """A slot for each row of a pool, `width` columns wide, in which tokens are written in place wherever their row has come to.

    The last column is for the padding of a pass: it is written and never read. Zeros stand where nothing was written: a mask
    hides keys by their weight of 0, and 0 times a NaN that lay in the memory would be NaN.
    """

    def __init__(self, n_layers: int, slots: int, width: int):
        super().__init__(layers=[_SlotLayer() for _ in range(n_layers)])
        self.slots, self.width = slots, width

    def put(self, first: int, rows: PassCache) -> None:
        """Write the rows of a pass into the slots from `first` on."""
        for layer, new in zip(self.layers, rows.layers, strict=True):
            n, heads, length, dim = new.keys.shape
            if not layer.is_initialized:
                shape = (self.slots, heads, self.width, dim)
                layer.keys, layer.values, layer.is_initialized = new.keys.new_zeros(shape), new.values.new_zeros(shape), True
            layer.keys[first : first + n, :, :length] = new.keys
            layer.values[first : first + n, :, :length] = new.values

    def aim(self, columns: torch.Tensor, used: int) -> None:
        """The next pass writes token k of row i at `columns[i, k]` and reads the first `used` columns."""
        for layer in self.layers:
            layer.columns, layer.used = columns, used

    def move(self, source: int, target: int) -> None:
        """Copy what stands in one slot into another."""
        for layer in self.layers:
            layer.keys[target], layer.values[target] = layer.keys[source], layer.values[source]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)
