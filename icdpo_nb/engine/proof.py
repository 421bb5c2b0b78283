"""The engine's proof: before its first pass it must give what the model's own, unmodified attention gives.

Architectures differ in ways that no configuration tells: sinks in the softmax, values of another width than keys, logits that
are scaled after the output layer. So a few tokens go through the model as transformers runs it, each sequence by itself, and
through every kind of pass of the engine: a shared prefix, contexts of different lengths, a step of decoding, responses side by
side. Every kind of layer takes part, but not all of its layers: they repeat one another, cost time and add rounding. Sliding
windows are narrowed meanwhile, in the model's masks and in ours, so that these few tokens are more than a window holds; at its
real width thousands would be needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import AttentionInterface

from ..common.errors import InputError
from .attention import grouped_attention
from .decoding import Pool
from .memory import is_out_of_memory
from .packing import pack, right_pad, split
from .prefix import Prefix

WINDOW = 5  # tokens of a sliding window meanwhile
PREFIX, CONTEXTS, RESPONSES = 6, (8, 12), (3, 2)  # tokens; every context has all responses
# Root mean square of the differences, as a share of the spread (standard deviation) of the tokens' log-probabilities. Rounding
# alone makes at most 2e-6, 0.002 and 0.02 with SmolLM2-135M and the sandbox's models, of which one layer takes part; the rest
# is left to those of which several do.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.08}


class Proof:
    """Given tokens, and what the model's own attention makes of them; made before the engine takes the model apart."""

    def __init__(self, engine):
        self.engine, self.model = engine, engine.model
        vocab, rng = self.model.get_input_embeddings().num_embeddings, np.random.default_rng(0)
        draw = lambda n: rng.integers(vocab // 4, vocab // 2, n).tolist()  # noqa: E731  (special tokens stand at either end)
        self.prefix = draw(PREFIX)
        self.contexts = [[*self.prefix, *draw(n - PREFIX)] for n in CONTEXTS]
        self.responses = [draw(n) for n in RESPONSES]
        self.rows = [(c, y) for c in self.contexts for y in self.responses]
        self.ids = right_pad([[*c, *y] for c, y in self.rows], 0, engine.device)  # nothing sees the padding, which comes last
        with self._in_one_sentence("their own attention fails"), self._as_it_is():
            self.own = self._values(self.model(input_ids=self.ids, use_cache=False).logits)

    def check(self) -> None:
        """Hold the engine, which has taken the model by now, against it. Raises `InputError` that names what differs."""
        with self._in_one_sentence("they fail with responses side by side"), self._small():
            prefix = Prefix(self.engine, self.prefix)
            self._check_widths(prefix.cache.layers)
            found = {"after a context": self._decoded(prefix), "of responses side by side": self._scored(prefix)}
        for where, values in found.items():
            own = np.concatenate([v[: len(x)] for v, x in zip(self.own, values, strict=True)])
            finite = np.isfinite(own)
            if not finite.any():  # there is nothing to hold it against, and `CausalLM` refuses what is not finite
                continue
            gap = np.sqrt(np.mean((np.concatenate(values) - own)[finite] ** 2))
            if not gap <= TOLERANCE[self.engine.dtype] * own[finite].std():
                with self._in_one_sentence("their attention is of another kind"):
                    cause = self._cause()
                raise self._unsupported(f"{cause}, and log-probabilities {where} are off by {gap:.2g} nats")

    # ------------------------------------------------------------ what the engine gives

    def _decoded(self, prefix: Prefix) -> list[np.ndarray]:
        """The first two tokens of every response, by a pool: contexts of different lengths, and a step of decoding."""

        def given(logits: torch.Tensor, places: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = torch.tensor([self.responses[j][t] for _, j, t in zip(*places, strict=True)], device=logits.device)
            return tokens, torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]

        pool = Pool(self.engine, prefix, self.contexts, [*range(len(self.contexts))], len(self.responses), 2)
        rows = sorted(pool.run(given, lambda i, ids: None), key=lambda row: row.index)
        return [np.float32(sampled.logps) for row in rows for sampled in row.sampled]

    def _scored(self, prefix: Prefix) -> list[np.ndarray]:
        """All tokens of every response, side by side in a row a context."""
        packed = [pack(len(c) - 1, c[-1], self.responses) for c in self.contexts]
        return split(self.engine.score(self.contexts, packed, prefix), [y for _, y in self.rows])

    # ------------------------------------------------------------ what the model's own attention gives

    def _values(self, logits: torch.Tensor) -> list[np.ndarray]:
        """The log-probabilities of all responses' tokens, one array for each of `rows`."""
        logp = torch.log_softmax(logits.float(), -1).cpu().numpy()
        return [v[np.arange(len(c) - 1, len(c) + len(y) - 1), y] for v, (c, y) in zip(logp, self.rows, strict=True)]

    @contextmanager
    def _as_it_is(self, name: str = "eager") -> Iterator[None]:
        """The model with its own attention, eager as its authors wrote it, or with that of another `name`."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(name)
        try:
            if self.model.config._attn_implementation != name:
                raise self._unsupported("their attention cannot be exchanged")
            with self._small():
                yield
        finally:
            self.model.set_attn_implementation(before)

    @contextmanager
    def _small(self) -> Iterator[None]:
        """The model with as few layers as hold every kind, and with narrow windows."""
        every, n = self.engine.n_layers, self.engine.n_layers
        parents = ((m, name, c) for m in self.model.modules() for name, c in m.named_children())
        found = next(((m, name, c) for m, name, c in parents if isinstance(c, torch.nn.ModuleList) and len(c) == every), None)
        if found:
            parent, name, layers = found
            named = getattr(self.model.config.get_text_config(), "layer_types", None) or [None] * every
            kinds = [(named[i], layer_kind(layer)) for i, layer in enumerate(layers)]
            n = 1 + max(kinds.index(kind) for kind in kinds)
            setattr(parent, name, layers[:n])
        self.engine.n_layers = n
        try:
            with self._narrow_windows():
                yield
        finally:
            self.engine.n_layers = every
            if found:
                setattr(parent, name, layers)

    @contextmanager
    def _narrow_windows(self) -> Iterator[None]:
        """Sliding windows of at most `WINDOW` tokens: in the model's configuration and layers, and in the engine's masks."""
        parts = {id(p): p for m in self.model.modules() for p in (m, getattr(m, "config", None))}.values()
        wide = [(p, p.sliding_window) for p in parts if isinstance(getattr(p, "sliding_window", None), int)]
        ours = self.engine.windows
        try:
            for part, window in wide:
                part.sliding_window = min(window, WINDOW)
            self.engine.windows = {kind: window and min(window, WINDOW) for kind, window in ours.items()}
            yield
        finally:
            self.engine.windows = ours
            for part, window in wide:
                part.sliding_window = window

    # ------------------------------------------------------------ what differs

    def _unsupported(self, what: str) -> InputError:
        return InputError(
            f"models of the class {type(self.model).__name__} are not supported: {what}; take one of the Llama kind"
        )

    @contextmanager
    def _in_one_sentence(self, what: str) -> Iterator[None]:
        """An `InputError` of whatever fails within: an architecture that the engine does not know may fail in any way."""
        try:
            yield
        except Exception as error:
            if isinstance(error, InputError) or is_out_of_memory(error):
                raise
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise self._unsupported(f"{what} ({why})") from None

    def _check_widths(self, layers) -> None:
        for layer in layers:
            keys, values = layer.keys.shape[-1], layer.values.shape[-1]
            if keys != values:
                raise self._unsupported(f"their values have another width than their keys ({values} and {keys})")

    def _cause(self) -> str:
        """Why a model differs, so far as can be seen: in its head, or in what its attention takes."""
        with self._as_it_is():
            hidden = self.engine.body(input_ids=self.ids, use_cache=False).last_hidden_state
            values = self._values(self.engine.logits(hidden))
        tolerance = TOLERANCE[self.engine.dtype]
        if not np.allclose(np.concatenate(values), np.concatenate(self.own), rtol=tolerance, atol=tolerance, equal_nan=True):
            return "they change their logits after the output layer"
        more: set[str] = set()

        def recorded(module, query, key, value, attention_mask, **terms):
            more.update(name for name, term in terms.items() if torch.is_tensor(term) and name != "position_ids")
            return grouped_attention(module, query, key, value, attention_mask, **terms)

        AttentionInterface.register("icdpo_recorded", recorded)
        with self._as_it_is("icdpo_recorded"):
            self.model(input_ids=self.ids, use_cache=False)
        return "their attention is of another kind" + (f" (it takes {', '.join(sorted(more))} as well)" if more else "")


def layer_kind(layer: torch.nn.Module) -> tuple:
    """What tells one layer's computation from another's: its parts with their settings and shapes, but not its number."""
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
