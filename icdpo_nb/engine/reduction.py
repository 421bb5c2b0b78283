"""Models reduced for a check: their first layers that include every kind of layer, with narrow sliding windows.

More layers would take time and add rounding errors. At the real width, only thousands of tokens would exceed a window.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .base import varies

WINDOW = 5  # sliding window in tokens during a check


class Reduction:
    """Call it for a context in which an engine and its model are reduced."""

    def __init__(self, engine):
        self.engine, self.model = engine, engine.model
        self.stack, self.n_kept = self._layers()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Reduce the model to its first layers that include every kind, and narrow the sliding windows."""
        engine, (parent, name, layers) = self.engine, self.stack
        n_layers, windows = engine.n_layers, engine.windows
        if layers:
            setattr(parent, name, layers[: self.n_kept])
        engine.n_layers = self.n_kept
        engine.windows = {kind: window and min(window, WINDOW) for kind, window in windows.items()}
        try:
            with narrow_windows(self.model):
                yield
        finally:
            engine.n_layers, engine.windows = n_layers, windows
            if layers:
                setattr(parent, name, layers)

    def _layers(self) -> tuple:
        """The decoder's list of layers, as (parent, name, layers), and how many of the first include every kind."""
        decoder, n = self.model.get_decoder(), self.engine.n_layers
        lists = {name: part for name, part in decoder.named_modules() if isinstance(part, torch.nn.ModuleList)}
        outer = (name for name, part in lists.items() if len(part) == n and not any(x.isdigit() for x in name.split(".")))
        path = next(outer, None)
        if path is None:
            return (None, "", ()), n
        parent, _, name = path.rpartition(".")
        types = getattr(self.model.config.get_text_config(), "layer_types", None) or [None] * n
        kinds = [(types[i], layer_kind(layer)) for i, layer in enumerate(lists[path])]
        return (decoder.get_submodule(parent), name, lists[path]), 1 + max(kinds.index(kind) for kind in kinds)


@contextmanager
def narrow_windows(model) -> Iterator[None]:
    """Limit sliding windows and chunks of attention to `WINDOW` tokens, in the configuration and layers of a model."""
    parts = {id(p): p for m in model.modules() for p in (m, getattr(m, "config", None))}.values()
    places = [(p, name) for p in parts for name in ("sliding_window", "attention_chunk_size") if not varies(p, name)]
    windowed = [(p, name, getattr(p, name)) for p, name in places if isinstance(getattr(p, name, None), int)]
    try:
        for part, name, window in windowed:
            setattr(part, name, min(window, WINDOW))
        yield
    finally:
        for part, name, window in windowed:
            setattr(part, name, window)


def layer_kind(layer: torch.nn.Module) -> tuple:
    """A key that is equal for layers with the same computation: submodules with their settings and shapes, not the index."""
    plain = bool | int | float | str | None
    return tuple(
        (
            path,
            type(part),
            tuple(sorted((k, repr(v)) for k, v in vars(part).items() if isinstance(v, plain) and not k.startswith("layer_i"))),
            tuple((name, p.shape) for name, p in part.named_parameters(recurse=False)),
        )
        for path, part in layer.named_modules()
    )
