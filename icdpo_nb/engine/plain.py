"""The general path: a model's own forward pass, for the architectures that the engine does not serve.

A row is a context followed by one response. Nothing is shared between rows, apart from a context that is computed once
for the samples that follow it, where the model's own cache allows it. Conventions and random numbers are those of
`engine.py`, so that both engines give the same results.
"""

import inspect
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from ..common.errors import InputError, first_line
from .base import BaseEngine, vocabulary
from .memory import budget_bytes, is_out_of_memory, peak_bytes, watch_memory
from .packing import right_pad
from .proof import TOLERANCE
from .reduction import narrow_windows
from .sampling import Sampled, nucleus_sample
from .turns import enter

CHECKED = (40, 25)  # lengths of the two rows of the check, in tokens
DECODED = 4  # tokens of the check that are decoded with the cache
CPU_BATCH = 2**29  # bytes for a batch on a CPU, whose rows share nothing


class PlainEngine(BaseEngine):
    """Samples and scores token ids with any causal transformers model, which it does not modify.

    Before its first pass it compares rows that are computed together with the same rows alone. `pads` tells whether the model
    gives the same results for rows with padding on the right; otherwise only rows of equal length are computed together.
    `caches` tells whether its own cache does; otherwise each step of sampling computes whole rows.
    """

    def __init__(self, model, batch_tokens: int | None = None):
        super().__init__(model, batch_tokens)
        parameters = inspect.signature(model.forward).parameters
        self.accepted = {*parameters, *(["use_cache"] if "kwargs" in parameters else [])}
        self.cache_name = "cache_params" if "cache_params" in self.accepted else "past_key_values"
        self.pads = self.caches = None

    # ------------------------------------------------------------ sampling and scoring

    @torch.inference_mode()
    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        uniform: np.ndarray,
        ended: Callable[[int, int, list[int]], str | None],
        top_p: float = 1.0,
        top_k: int = 0,
        temperature: float = 1.0,
        *,
        progress: Callable,
    ) -> list[list[Sampled]]:
        """Sample n sequences for each context; see `Engine.sample`."""
        self.begin()
        _, n, steps = uniform.shape
        out: list = [None] * len(contexts)
        start = time.perf_counter()

        def draw(logits: torch.Tensor, places: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            return nucleus_sample(logits, uniform[places], top_p, top_k, temperature)

        lengths = [n * (len(c) + steps) for c in contexts]
        waiting = sorted(range(len(contexts)), key=lambda i: -lengths[i])
        with progress(total=len(contexts)) as bar:
            while waiting:
                batch = self._batch(waiting, lengths, padded=self.pads and not self.caches)
                with watch_memory() as room:
                    for i, row in zip(batch, self._decode(contexts, batch, n, steps, draw, ended), strict=True):
                        out[i] = row
                if not room.enough:
                    self._shrink(len(batch), sum(lengths[i] for i in batch))
                    continue
                del waiting[: len(batch)]
                bar.update(len(batch))
        self._record("sampling", start)
        return out

    @torch.inference_mode()
    def logprobs(
        self, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], progress: Callable
    ) -> list[list[np.ndarray]]:
        """Token log-probabilities of `responses[i]` under `contexts[i]`; see `Engine.logprobs`."""
        self.begin()
        out = [[np.zeros(0, np.float32) for _ in ys] for ys in responses]
        places = [(i, j) for i, ys in enumerate(responses) for j, y in enumerate(ys) if len(y)]
        lengths = [len(contexts[i]) + len(responses[i][j]) for i, j in places]
        waiting = sorted(range(len(places)), key=lambda k: -lengths[k])
        start = time.perf_counter()
        with progress(total=len(places)) as bar:
            while waiting:
                batch = self._batch(waiting, lengths, padded=self.pads)
                with watch_memory() as room:
                    values = self._score([(contexts[i], responses[i][j]) for i, j in (places[k] for k in batch)])
                if not room.enough:
                    self._shrink(len(batch), sum(lengths[k] for k in batch))
                    continue
                for k, row in zip(batch, values, strict=True):
                    i, j = places[k]
                    out[i][j] = row
                del waiting[: len(batch)]
                bar.update(len(batch))
        self._record("scoring", start)
        return out

    def _batch(self, waiting: Sequence[int], lengths: Sequence[int], padded: bool) -> list[int]:
        """The first of the waiting items, longest first, that fit the budget together, all of one length unless `padded`."""
        longest = lengths[waiting[0]]
        most = max(1, self.batch_tokens // longest)
        return [i for i in waiting[:most] if padded or lengths[i] == longest]

    def _score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        """Log-probabilities of the responses of (context, response) pairs, each a row of its own."""
        rows = [[*context, *y[:-1]] for context, y in pairs]
        self.work["scored"] += sum(map(len, rows))
        first = min(len(context) for context, _ in pairs) - 1  # the first column whose logits are needed
        logits, _ = self._forward(rows, max(map(len, rows)) - first)
        values = []
        for part, (context, y) in zip(logits, pairs, strict=True):
            column = len(context) - 1 - first
            target = torch.tensor(y, device=self.device)[:, None]
            logp = torch.log_softmax(part[column : column + len(y)].float(), -1)
            values.append(logp.gather(-1, target)[:, 0].cpu().numpy())
        return values

    def planned_sampling(self, contexts: Sequence[Sequence[int]], steps: int) -> Counter:
        """The tokens that `sample` computes before it decodes; see `Engine.planned_sampling`."""
        return Counter(prefill=sum(map(len, contexts)))

    def planned_scoring(self, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]) -> Counter:
        """The tokens that `logprobs` computes; see `Engine.planned_scoring`."""
        rows = (len(c) + len(y) - 1 for c, ys in zip(contexts, responses, strict=True) for y in ys if len(y))
        return Counter(scored=sum(rows))

    # ------------------------------------------------------------ decoding

    def _decode(self, contexts, batch: Sequence[int], n: int, steps: int, choose, ended) -> list[list[Sampled]]:
        """n sampled sequences for each context of a batch. See `Pool.run` for `choose` and `ended`."""
        live = [(i, j) for i in batch for j in range(n)]
        sampled = {place: Sampled() for place in live}
        logits, cache = self._prefill([contexts[i] for i in batch], n)
        while True:
            places = tuple(np.array([(i, j, len(sampled[i, j].ids)) for i, j in live]).T)
            drawn = zip(live, *(x.tolist() for x in choose(logits, places)), strict=True)
            kept = [k for k, ((i, j), *new) in enumerate(drawn) if sampled[i, j].grows(*new, partial(ended, i, j), steps)]
            if not kept:
                return [[sampled[i, j] for j in range(n)] for i in batch]
            if cache is not None and len(kept) < len(live):
                cache.reorder_cache(torch.tensor(kept, device=self.device))
            live = [live[k] for k in kept]
            logits, cache = self._next([[*contexts[i], *sampled[i, j].ids] for i, j in live], cache)

    def _prefill(self, contexts: Sequence[Sequence[int]], n: int) -> tuple:
        """Logits of the next token in n rows for each context, and the rows' cache if the model's own serves."""
        self.work["prefill"] += sum(map(len, contexts))
        logits, cache = self._last(contexts, keep_cache=self.caches)
        index = torch.arange(len(contexts), device=self.device).repeat_interleave(n)
        if cache is not None:
            cache.reorder_cache(index)
        return logits[index], cache

    def _next(self, rows: Sequence[Sequence[int]], cache) -> tuple:
        """Logits of the next token of each row, which the cache holds up to its last token, and the cache."""
        if cache is None:
            self.work["decode"] += sum(map(len, rows))
            return self._last(rows)
        self.work["decode"] += len(rows)
        logits, cache = self._forward(rows, 1, cache)
        return logits[:, -1].float(), cache

    def _last(self, rows: Sequence[Sequence[int]], keep_cache: bool = False) -> tuple:
        """float32 logits after the last token of each row, shape (rows, vocab), and the cache."""
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        first = int(last.min())
        logits, cache = self._forward(rows, max(map(len, rows)) - first, keep_cache=keep_cache)
        return logits[torch.arange(len(rows), device=self.device), last - first].float(), cache

    # ------------------------------------------------------------ one pass

    def _forward(self, rows: Sequence[Sequence[int]], columns: int, cache=None, keep_cache: bool = False) -> tuple:
        """Logits of the last `columns` tokens of right-padded rows, shape (rows, columns, vocab), and the cache.

        A `cache` holds rows of equal length but for their last token. Raises `InputError` if the model fails.
        """
        arguments = {"use_cache": keep_cache or cache is not None, "logits_to_keep": columns, self.cache_name: cache}
        if cache is None:
            arguments["attention_mask"] = right_pad([[1] * len(row) for row in rows], 0, self.device)
        arguments = {name: value for name, value in arguments.items() if value is not None and name in self.accepted}
        try:
            ids = right_pad(rows if cache is None else [row[-1:] for row in rows], 0, self.device)
            out = self.model(input_ids=ids, **arguments)
        except Exception as error:  # an unknown architecture may fail in any way
            if is_out_of_memory(error):
                raise
            why = first_line(error)
            model, longest = type(self.model).__name__, max(map(len, rows))
            raise InputError(f"models of the class {model} fail on {longest} tokens ({why}); try dtype float32") from None
        return out.logits[:, -columns:], getattr(out, self.cache_name, None) if arguments.get("use_cache") else None

    # ------------------------------------------------------------ setup

    @torch.inference_mode()
    def begin(self) -> None:
        """Check the model and measure the budget before the first pass, once."""
        self.take()
        if self.batch_tokens is None:
            n = self.probe_tokens
            peak = peak_bytes(lambda: self._forward([[0] * n], n, keep_cache=self.caches))
            self.batch_tokens = self.cache_tokens = max(1, int(budget_bytes(self.device, CPU_BATCH) * n / max(peak, 1)))

    @torch.inference_mode()
    def take(self) -> None:
        """Have the model on its device, and find out which rows may be computed together, once.

        Raises `InputError` if the model is not causal.
        """
        enter(self.model, self.device)
        if self.pads is None:
            with narrow_windows(self.model), self.uncounted():
                self._check()

    def _check(self) -> None:
        vocab, rng = vocabulary(self.model), np.random.default_rng(0)
        long, short = (rng.integers(vocab // 4, vocab // 2, min(n, self.max_length or n)).tolist() for n in CHECKED)
        padding = getattr(self.model.config.get_text_config(), "pad_token_id", None)
        if isinstance(padding, int) and 0 <= padding < vocab:  # may be sampled, and some models take their positions from it
            long[len(short) // 2] = short[len(short) // 2] = padding
        alone = [self._values([row])[0] for row in (long, short)]
        cut = len(long) // 2
        if not self._agree([self._values([long[:cut]])[0]], [alone[0][: cut - 1]]):
            raise InputError(
                f"models of the class {type(self.model).__name__} are not causal: their predictions change with what "
                "follows; use a causal language model"
            )
        self.pads = self._holds(lambda: self._agree(self._values([long, short]), alone))
        ends = [alone[0][: len(short) - 1][-DECODED:], alone[1][-DECODED:]]
        self.caches = True
        self.caches = self._holds(lambda: self._agree(self._decoded([long[: len(short)], short]), ends))

    def _values(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities of all tokens of each row but the first."""
        return self._score([(row[:1], row[1:]) for row in rows])

    def _decoded(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities of the last tokens of two rows of equal length, decoded with the model's cache."""
        n = len(rows[0]) - DECODED
        logits, cache = self._prefill([row[:n] for row in rows], 2)
        kept = torch.tensor([0, 3], device=self.device)  # a copy of each row
        cache.reorder_cache(kept)
        logits, values = logits[kept], []
        for t in range(n, n + DECODED):
            target = torch.tensor([row[t] for row in rows], device=self.device)[:, None]
            values.append(torch.log_softmax(logits, -1).gather(-1, target)[:, 0].cpu().numpy())
            logits, cache = self._next([row[: t + 1] for row in rows], cache)
        return [*np.stack(values, 1)]

    def _agree(self, values: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> bool:
        """Whether values equal their reference up to rounding. Values that are not finite are not compared."""
        expected = np.concatenate(reference)
        finite = np.isfinite(expected)
        gap = (np.concatenate(values) - expected)[finite]
        return not len(gap) or bool(np.sqrt(np.mean(gap**2)) <= TOLERANCE[self.dtype] * max(expected[finite].std(), 1e-3))

    @staticmethod
    def _holds(check: Callable[[], bool]) -> bool:
        """The result of a check, and False if it fails in any way but for want of memory."""
        try:
            return check()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False
