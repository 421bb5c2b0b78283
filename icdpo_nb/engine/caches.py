"""Key/value caches: of a pass over contexts, and of a pool in which responses grow. See `attention.py` for owners."""

from collections.abc import Iterator

import torch
from transformers.cache_utils import Cache, DynamicLayer


class _PassLayer(DynamicLayer):
    """Keys and values of a prefix, prepended to those of a pass. With `keep`, the new ones are stored as well."""

    def __init__(self, keep: bool, keys: torch.Tensor | None = None, values: torch.Tensor | None = None):
        super().__init__()
        self.keep = keep
        self.keys, self.values = keys, values
        self.is_initialized = keys is not None

    def update(self, key_states, value_states, *args, **kwargs):
        if self.is_initialized:
            key_states, value_states = torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)
        if self.keep:
            self.keys, self.values = key_states, value_states
            self.is_initialized = True
        return key_states, value_states


class PassCache(Cache):
    """The key/value cache of one pass over contexts: their shared prefix, if any, and with `keep` also the new tokens."""

    def __init__(self, n_layers: int, keep: bool):
        super().__init__(layers=[_PassLayer(keep) for _ in range(n_layers)])

    def fan_out(self, rows: int, keep: bool) -> "PassCache":
        """A cache for `rows` rows that all begin with the contents of this one (at most one row)."""
        new = PassCache(len(self.layers), keep)
        for new_layer, layer in zip(new.layers, self.layers, strict=True):
            if layer.is_initialized:
                new_layer.__init__(keep, layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
        return new


class _SlotLayer(DynamicLayer):
    """One layer of a `SlotCache`."""

    def update(self, key_states, value_states, *args, **kwargs):
        for cached, new in ((self.keys, key_states), (self.values, value_states)):
            cached[self.rows, :, self.columns] = new.transpose(1, 2)
        return self.keys[: self.n_rows, :, : self.used], self.values[: self.n_rows, :, : self.used]


class SlotCache(Cache):
    """A preallocated key/value cache with one slot of `width` columns for each row of a pool, written in place.

    The last column receives the padding of a pass and is never read. Unused columns are zero rather than uninitialised:
    masked keys have weight 0, but 0 times NaN is NaN.
    """

    def __init__(self, n_layers: int, slots: int, width: int):
        super().__init__(layers=[_SlotLayer() for _ in range(n_layers)])
        self.slots, self.width = slots, width

    def put(self, first: int, rows: PassCache) -> None:
        """Write the rows of a pass into consecutive slots, starting at `first`."""
        for layer, new in zip(self.layers, rows.layers, strict=True):
            if not new.is_initialized:  # a layer that attends to the keys and values of another one
                continue
            n, heads, length, _ = new.keys.shape
            if not layer.is_initialized:
                shape = (self.slots, heads, self.width)
                layer.keys, layer.values = (x.new_zeros(*shape, x.shape[-1]) for x in (new.keys, new.values))
                layer.is_initialized = True
            layer.keys[first : first + n, :, :length] = new.keys
            layer.values[first : first + n, :, :length] = new.values

    def aim(self, rows: torch.Tensor, columns: torch.Tensor, n_rows: int, used: int) -> None:
        """Make the next pass write its tokens to these rows and columns, and read the first ones, `n_rows` and `used`."""
        for layer in self.layers:
            layer.rows, layer.columns, layer.n_rows, layer.used = rows, columns, n_rows, used

    def move(self, source: int, target: int, used: int) -> None:
        """Copy the first `used` columns of one slot to another."""
        for layer in self._filled():
            for cached in (layer.keys, layer.values):
                cached[target, :, :used] = cached[source, :, :used]

    @property
    def nbytes(self) -> int:
        """The number of bytes of all slots."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._filled())

    def _filled(self) -> Iterator[_SlotLayer]:
        return (layer for layer in self.layers if layer.is_initialized)
