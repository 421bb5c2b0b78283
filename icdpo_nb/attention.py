"""Attention for rows in which n responses share one context: the mask, the attention itself, and a cache that grows in place.

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
CHUNK = 256  # context queries at a time: later ones need more keys, and no query computes what it may not see


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
    for start in range(0, lead, CHUNK):
        end = min(start + CHUNK, lead)
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


class _Layer(DynamicLayer):
    """Keys and values with room to grow, so that a decoding step writes its tokens in place instead of copying the cache.

    Without room nothing is kept: the layer puts what it holds before the keys it is given, and forgets those.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room, self.length = room, 0

    def update(self, key_states, value_states, *args, **kwargs):
        start, new = self.length, key_states.shape[-2]
        self.dtype, self.device = key_states.dtype, key_states.device
        if not self.room and start:
            return tuple(torch.cat(pair, -2) for pair in ((self.keys, key_states), (self.values, value_states)))
        if not self.is_initialized or start + new > self._keys.shape[-2]:
            self._keys, self._values = self._grown("_keys", key_states), self._grown("_values", value_states)
            self.is_initialized = True
        self.length = start + new
        self._keys[:, :, start : self.length] = key_states
        self._values[:, :, start : self.length] = value_states
        self.keys, self.values = self._keys[:, :, : self.length], self._values[:, :, : self.length]
        return self.keys, self.values

    def _grown(self, name: str, states: torch.Tensor) -> torch.Tensor:
        batch, heads, n, dim = states.shape
        new = states.new_empty(batch, heads, self.length + n + self.room, dim)
        if self.is_initialized:
            new[:, :, : self.length] = getattr(self, name)[:, :, : self.length]
        return new


class GrowingCache(Cache):
    """A cache for `n_layers` layers of full or sliding attention that grows by `room` tokens at a time."""

    def __init__(self, n_layers: int, room: int):
        super().__init__(layers=[_Layer(room) for _ in range(n_layers)])

    def fan_out(self, rows: int, room: int) -> "GrowingCache":
        """A cache for `rows` rows that all begin with what this one holds (one row); with `room` 0 it keeps nothing more."""
        new = GrowingCache(0, 0)
        new.layers = [_Layer(room) for _ in self.layers]
        for layer, mine in zip(new.layers, self.layers, strict=True):
            layer._keys, layer._values = (x.expand(rows, -1, -1, -1) for x in (mine.keys, mine.values))
            layer.keys, layer.values, layer.length, layer.is_initialized = layer._keys, layer._values, mine.length, True
        return new

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def take(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Keep only these rows (int64, shape (b,)) of the batch, and of each the keys in `columns` (int64, shape (b, k))."""
        for layer in self.layers:
            index = columns[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer._keys, layer._values = (x[rows].gather(2, index) for x in (layer.keys, layer.values))
            layer.keys, layer.values, layer.length = layer._keys, layer._values, columns.shape[1]

    def joined(self, other: "GrowingCache") -> "GrowingCache":
        """A cache with the rows of this one above those of the other; the shorter rows are padded on the right with zeros."""
        new = GrowingCache(len(self.layers), self.layers[0].room)
        for layer, *both in zip(new.layers, self.layers, other.layers, strict=True):
            layer.length, layer.is_initialized = max(b.length for b in both), True
            layer._keys, layer._values = (_stacked([getattr(b, kind) for b in both], layer.room) for kind in ("keys", "values"))
            layer.keys, layer.values = (x[:, :, : layer.length] for x in (layer._keys, layer._values))
        return new


def _stacked(states: list[torch.Tensor], room: int) -> torch.Tensor:
    upper, lower = states
    width = max(upper.shape[2], lower.shape[2]) + room
    new = upper.new_zeros(upper.shape[0] + lower.shape[0], upper.shape[1], width, upper.shape[3])
    new[: len(upper), :, : upper.shape[2]] = upper
    new[len(upper) :, :, : lower.shape[2]] = lower
    return new
