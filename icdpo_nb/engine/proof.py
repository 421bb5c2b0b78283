"""A check before the first pass that the engine reproduces the model's own, unmodified attention.

Architectures differ in ways that the configuration does not reveal: biases by position, extra tensors in attention, logits
that change after the output layer. The check therefore compares the log-probabilities of a few tokens. The
reference is the model as transformers runs it, one sequence at a time. The engine uses every kind of pass: a shared
prefix, contexts of different lengths, a decoding step, and packed responses. The model is reduced for it (`reduction.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import AttentionInterface

from ..common.errors import InputError, first_line
from .attention import grouped_attention
from .base import is_spread, varies, vocabulary
from .decoding import Pool
from .linear import round_alike
from .memory import is_out_of_memory
from .packing import pack, right_pad, split
from .prefix import Prefix
from .reduction import Reduction

PREFIX, CONTEXTS, RESPONSES = 6, (8, 12), (3, 2)  # numbers of tokens; every context has all responses
COMPANY = (290, 400, 530, 530, 290)  # lengths of contexts that are computed together, with a shared prefix, and alone
SHARED = 277  # tokens of their prefix
SIDE_BY_SIDE = 5  # responses to each; to the shortest contexts all but one end early, so that a row has fewer queries alone
# The tolerance for the root mean square difference, relative to the standard deviation of the tokens' log-probabilities.
# Rounding causes at most 2e-6 (float32), 0.002 (float16) and 0.02 (bfloat16) with SmolLM2-135M and the sandbox models,
# which are checked with one layer. The margin is for models that are checked with several layers.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.08}


class UnservedError(InputError):
    """The engine would not reproduce a model's own results; `why` is the reason in a few words."""

    def __init__(self, model, why: str):
        super().__init__(f"models of the class {type(model).__name__} cannot share contexts: {why}")
        self.why = why


def evident(model) -> str | None:
    """Why a model is not served, as far as its class and configuration tell, or None.

    The check below is shorter than a chunk of attention, or than the number of tokens that indexed attention selects.
    """
    config = model.config.get_text_config()
    if getattr(config, "alibi", False) or any("alibi" in name for kind in {*map(type, model.modules())} for name in dir(kind)):
        return "ALiBi positions"
    if kinds := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        return f"{' and '.join(sorted(kinds))} layers"
    if varies(config, "sliding_window"):
        return "windows that differ between layers"
    if is_spread(model):
        return "layers in several places"
    return None if model._supports_attention_backend else "attention that cannot be replaced"


class Proof:
    """Test sequences with their reference log-probabilities. Create it before the engine modifies the model."""

    def __init__(self, engine):
        self.engine, self.model = engine, engine.model
        self.rng = np.random.default_rng(0)
        self.prefix = self._draw(PREFIX)
        self.contexts = [[*self.prefix, *self._draw(n - PREFIX)] for n in CONTEXTS]
        self.responses = [self._draw(n) for n in RESPONSES]
        self.small = Reduction(engine)
        self.rows = [(c, y) for c in self.contexts for y in self.responses]
        self.ids = right_pad([[*c, *y] for c, y in self.rows], 0, engine.device)  # causal: right padding has no effect
        with self._as_unserved("eager attention that fails"), self._own_attention():
            self.reference = self._values(self.model(input_ids=self.ids, use_cache=False).logits)

    def _draw(self, n: int) -> list[int]:
        """Token ids from the middle of the vocabulary, without special tokens."""
        vocab = vocabulary(self.model)
        return self.rng.integers(vocab // 4, vocab // 2, n).tolist()

    def check(self) -> None:
        """Compare the engine, which has modified the model by now, with the reference. Raises `UnservedError` if not equal."""
        with self._as_unserved("code that fails with responses side by side"), self.small():
            prefix = Prefix(self.engine, self.prefix)
            computed = {
                "after a context": self._decoded(prefix, self.contexts, self.responses),
                "of responses side by side": self._scored(prefix, self.contexts),
            }
        for where, values in computed.items():
            reference = np.concatenate([v[: len(x)] for v, x in zip(self.reference, values, strict=True)])
            finite = np.isfinite(reference)
            if not finite.any():  # nothing to compare; `CausalLM` rejects results that are not finite
                continue
            gap = np.sqrt(np.mean((np.concatenate(values) - reference)[finite] ** 2))
            if not gap <= TOLERANCE[self.engine.dtype] * reference[finite].std():
                with self._as_unserved("attention of another kind"):
                    cause = self._cause()
                raise UnservedError(self.model, f"{cause}, so that log-probabilities {where} would be wrong")

    def invariant(self) -> bool:
        """Whether results have the same bits alone as beside others, as they should on a CPU (see `invariance.py`).

        They do not in a mixture of experts, whose products have as many rows as tokens happen to need an expert, with kernels
        of attention that were not looked at, or where a processor rounds in ways that were not seen yet.
        """
        engine = self.engine
        if engine.device.type != "cpu" or engine.dtype != torch.float32:
            return False
        if any("expert" in name for name, _ in self.model.named_modules()):
            return False
        limit = (engine.max_length or max(COMPANY) + max(RESPONSES)) - max(RESPONSES)
        lengths = [min(n, limit) for n in COMPANY]
        shared = self._draw(min(SHARED, min(lengths) // 2))
        contexts = [[*shared, *self._draw(n - len(shared))] for n in lengths]
        responses = [self._draw(2) for _ in range(SIDE_BY_SIDE)]
        engine.batch_tokens = engine.cache_tokens = 4 * sum(COMPANY)
        with self._as_unserved("code that fails with contexts side by side"), self.small():
            if not round_alike(self.model):
                return False
            none, prefix = Prefix(engine, []), Prefix(engine, shared)
            together = [*self._decoded(prefix, contexts, responses), *self._scored(prefix, contexts[2:4])]
            alone = [v for c in contexts for v in self._decoded(none, [c], responses)]
            alone += [v for c in contexts[2:4] for v in self._scored(none, [c])]
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(together, alone, strict=True))

    # ------------------------------------------------------------ results of the engine

    def _decoded(self, prefix: Prefix, contexts: list[list[int]], responses: list[list[int]]) -> list[np.ndarray]:
        """Log-probabilities of the first two tokens of these responses, from a pool (prefill and a decoding step).

        After a context of the shortest length of `COMPANY`, all responses but the first end with their first token.
        """

        def given(logits: torch.Tensor, places: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = torch.tensor([responses[j][t] for _, j, t in zip(*places, strict=True)], device=logits.device)
            return tokens, torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]

        waiting = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
        pool = Pool(self.engine, prefix, contexts, waiting, len(responses), 2)

        def ended(i: int, j: int, ids: list[int]) -> str | None:
            return "eos" if j and len(contexts[i]) == min(COMPANY) else None

        rows = sorted(pool.run(given, ended), key=lambda row: row.index)
        return [np.float32(sampled.logps) for row in rows for sampled in row.sampled]

    def _scored(self, prefix: Prefix, contexts: list[list[int]]) -> list[np.ndarray]:
        """Log-probabilities of all tokens of every response, with all responses to a context packed into one row."""
        packed = [pack(len(c) - 1, c[-1], self.responses) for c in contexts]
        return split(self.engine.score(contexts, packed, prefix), self.responses * len(contexts))

    # ------------------------------------------------------------ results of the model's own attention

    def _values(self, logits: torch.Tensor) -> list[np.ndarray]:
        """Log-probabilities of the response tokens, one array for each of `rows`."""
        logp = torch.log_softmax(logits.float(), -1).cpu().numpy()
        return [v[np.arange(len(c) - 1, len(c) + len(y) - 1), y] for v, (c, y) in zip(logp, self.rows, strict=True)]

    @contextmanager
    def _own_attention(self, name: str = "eager") -> Iterator[None]:
        """Use the model's own eager attention, or the attention registered as `name`, on the reduced model."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(name)
        try:
            if self.model.config._attn_implementation != name:
                raise UnservedError(self.model, "attention that cannot be replaced")
            with self.small():
                yield
        finally:
            self.model.set_attn_implementation(before)

    # ------------------------------------------------------------ diagnosis

    @contextmanager
    def _as_unserved(self, what: str) -> Iterator[None]:
        """Turn exceptions in the block into `UnservedError`, because an unknown architecture may fail in any way."""
        try:
            yield
        except Exception as error:
            if isinstance(error, InputError) or is_out_of_memory(error):
                raise
            why = first_line(error)
            raise UnservedError(self.model, f"{what} ({why})") from None

    def _cause(self) -> str:
        """The likely reason why a model differs: its output head, or extra tensors that its attention receives."""
        with self._own_attention():
            hidden = self.engine.body(input_ids=self.ids, use_cache=False).last_hidden_state
            logits = self.engine.logits(hidden.flatten(0, 1)).unflatten(0, self.ids.shape)
            values = np.concatenate(self._values(logits))
        tolerance = TOLERANCE[self.engine.dtype]
        if not np.allclose(values, np.concatenate(self.reference), rtol=tolerance, atol=tolerance, equal_nan=True):
            return "logits that are not those of the output layer"
        extra: set[str] = set()

        def recorded(module, query, key, value, attention_mask, **arguments):
            extra.update(name for name, x in arguments.items() if torch.is_tensor(x) and name != "position_ids")
            return grouped_attention(module, query, key, value, attention_mask, **arguments)

        AttentionInterface.register("icdpo_recorded", recorded)
        with self._own_attention("icdpo_recorded"):
            self.model(input_ids=self.ids, use_cache=False)
        return "attention of another kind" + (f" (it takes {', '.join(sorted(extra))} as well)" if extra else "")
