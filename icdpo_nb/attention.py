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


def grouped_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Scaled dot-product attention that never copies keys and values for grouped query heads.

    query (batch, heads, q, dim); key, value (batch, kv_heads, k, dim). The heads of a group stand behind one another as more
    queries of their shared key head. Returns (batch, q, heads, dim) and None, as transformers expects.
    """
    if attention_mask is None:  # not one of our packed passes: somebody uses the model by itself
        return sdpa_attention_forward(module, query, key, value, None, dropout=dropout, scaling=scaling, **kwargs)
    batch, heads, q, dim = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    if groups > 1:
        attention_mask = attention_mask.repeat(1, 1, groups, 1)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, kv_heads, groups * q, dim), key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(batch, heads, q, out.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register("icdpo_grouped", grouped_attention)
AttentionMaskInterface.register("icdpo_grouped", sdpa_mask)


class _GrowingLayer(DynamicLayer):
    """Keys and values with room to grow, so that a decoding step writes its tokens in place instead of copying the cache."""

    def __init__(self, room: int):
        super().__init__()
        self.room, self.length = room, 0

    def update(self, key_states, value_states, *args, **kwargs):
        start, self.length = self.length, self.length + key_states.shape[-2]
        if not self.is_initialized or self.length > self._keys.shape[-2]:
            self._keys, self._values = self._grown("_keys", key_states), self._grown("_values", value_states)
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        self._keys[:, :, start : self.length] = key_states
        self._values[:, :, start : self.length] = value_states
        self.keys, self.values = self._keys[:, :, : self.length], self._values[:, :, : self.length]
        return self.keys, self.values

    def _grown(self, name: str, states: torch.Tensor) -> torch.Tensor:
        batch, heads, _, dim = states.shape
        new = states.new_empty(batch, heads, self.length + self.room, dim)
        if self.is_initialized:
            old = getattr(self, name)
            new[:, :, : old.shape[-2]] = old
        return new

    def select(self, rows: torch.Tensor) -> None:
        self._keys, self._values = self._keys[rows], self._values[rows]


class GrowingCache(Cache):
    """A cache for `n_layers` layers of full or sliding attention that grows by `room` tokens at a time."""

    def __init__(self, n_layers: int, room: int):
        super().__init__(layers=[_GrowingLayer(room) for _ in range(n_layers)])

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these rows of the batch (int64 indices)."""
        for layer in self.layers:
            layer.select(rows)
