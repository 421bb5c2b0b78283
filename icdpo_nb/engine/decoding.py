"""Sampling: one token from logits, and a pool of contexts whose responses are decoded together.

See `attention.py` for owners and positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from .attention import PADDING, SlotCache
from .graphs import Graphs, rounded
from .packing import on_device, right_pad
from .prefix import Prefix


def nucleus_sample(
    logits: torch.Tensor, uniform: np.ndarray, top_p: float, top_k: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row by nucleus (top-p) sampling, using the given uniform random numbers.

    `logits` are float32, shape (rows, vocab); `uniform` are float64 in [0, 1), shape (rows,). The nucleus is the smallest
    set of most probable tokens whose mass reaches `top_p`, as in transformers' TopPLogitsWarper. Temperature is applied
    first, then top-k, then top-p. Only the part of the vocabulary that the nucleus needs is sorted. Returns token ids and
    their log-probabilities under the unmodified policy (temperature 1, whole vocabulary) in nats, both of shape (rows,), on
    the CPU: the one wait for a GPU in a decoding step.
    """
    if logits.device.type == "mps":  # has no float64
        logits = logits.cpu()
    uniform = on_device(torch.as_tensor(uniform), logits.device)
    logp = torch.log_softmax(logits, -1)
    tempered = logp if temperature == 1 else torch.log_softmax(logits / temperature, -1)
    vocab = logits.shape[-1]
    n_sorted = top_k or min(64, vocab)
    while True:
        best, ids = tempered.topk(min(n_sorted, vocab), -1)
        probs = best.double().exp()
        if top_k:
            probs = probs / probs.sum(-1, keepdim=True)
        enough = probs.sum(-1) >= top_p
        token = ids.gather(-1, _pick(probs, uniform, top_p))
        drawn = torch.stack([token[:, 0].double(), logp.gather(-1, token)[:, 0].double(), enough.double()]).cpu()
        if top_k or n_sorted >= vocab or bool(drawn[2].all()):
            return drawn[0].long(), drawn[1].float()
        n_sorted *= 8


def _pick(probs: torch.Tensor, uniform: torch.Tensor, top_p: float) -> torch.Tensor:
    """The place, shape (rows, 1), that a uniform number picks in the nucleus of descending probabilities."""
    mass_before = probs.cumsum(-1) - probs
    cumulative = probs.masked_fill(mass_before >= top_p, 0.0).cumsum(-1)
    return (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(-1, keepdim=True).clamp_(max=probs.shape[-1] - 1)


@dataclass
class Sampled:
    """One sampled sequence: token ids, their log-probabilities under the policy, and how it ended."""

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finish: str = "length"

    def grows(self, token: int, logp: float, ended: Callable[[list[int]], str | None], steps: int) -> bool:
        """Append a token. Returns whether another one follows, up to `steps`; `ended(ids)` tells how a sequence has ended."""
        self.ids.append(token)
        self.logps.append(logp)
        self.finish = ended(self.ids) or "length"
        return self.finish == "length" and len(self.ids) < steps


@dataclass
class Row:
    """A context in the pool: its index, its number of tokens, and the responses sampled from it."""

    index: int
    length: int
    sampled: list[Sampled]

    def __post_init__(self):
        self.live = [*range(len(self.sampled))]  # unfinished responses
        self.used = self.length  # used columns of the slot


class Pool:
    """Decodes n responses of at most `steps` tokens to each of several contexts that begin with `prefix`.

    A row holds a context and its n responses; row k occupies slot k of the cache. Each step adds a token to every
    unfinished response. When all responses of a row have ended, its slot becomes free for a waiting context. `engine`
    runs the passes and counts their tokens.

    `waiting` holds context indices sorted by length; the pool takes contexts from its end. A slot has room for the longest
    context and `steps` tokens of each response. Contexts that need less than half of a slot are left for another pool.
    If memory runs out, `rows` holds the unfinished rows.
    """

    def __init__(self, engine, prefix: Prefix, contexts: Sequence[Sequence[int]], waiting: list[int], n: int, steps: int):
        self.engine = engine
        self.prefix = prefix
        self.contexts, self.waiting = contexts, waiting
        self.n, self.steps = n, steps
        self.width = self._need(waiting[-1])
        self.slots = max(1, min(engine.cache_tokens // self.width, len(waiting)))
        self.rows: list[Row] = []
        self.cache = SlotCache(engine.n_layers, self.slots, self.width + 1)
        self.owner = torch.full((self.slots, self.width + 1), PADDING, device=engine.device)
        self.pos = torch.zeros_like(self.owner)
        self.logits = None  # (unfinished responses, vocab), in row order
        self.graphs = Graphs(engine) if engine.records else None

    def _need(self, index: int) -> int:
        return len(self.contexts[index]) + self.n * self.steps

    def run(
        self,
        choose: Callable[[torch.Tensor, tuple[np.ndarray, ...]], tuple[torch.Tensor, torch.Tensor]],
        ended: Callable[[int, int, list[int]], str | None],
    ) -> Iterator[Row]:
        """Yield each row as soon as all its responses have ended.

        `choose(logits, places)` returns the next token of every unfinished response and its log-probability, both of shape
        (responses,), given float32 logits of shape (responses, vocab). `places` are three int arrays of shape (responses,):
        context index, response index and number of tokens so far. `ended(i, j, ids)` returns how response j to context i has
        ended, or None.
        """
        self.fill()
        while self.rows:
            tokens, logps = choose(self.logits, self._places())
            self._append(tokens.tolist(), logps.tolist(), ended)
            for slot in reversed([k for k, row in enumerate(self.rows) if not row.live]):
                yield self.rows[slot]
                self._free(slot)
            self.logits = self._next_logits() if self.rows else None
            self.fill()

    def fill(self) -> None:
        """Prefill waiting contexts into free slots once a quarter of the slots is free, to save passes."""
        if len(self.rows) > 0.75 * self.slots:
            return
        while self.waiting and len(self.rows) < self.slots:
            longest = len(self.contexts[self.waiting[-1]])
            limit = min(self.slots - len(self.rows), max(1, self.engine.batch_tokens // longest))
            new: list[int] = []
            while self.waiting and len(new) < limit and 2 * self._need(self.waiting[-1]) >= self.width:
                new.append(self.waiting.pop())
            if not new:
                return
            start = len(self.rows)
            self.rows += [Row(i, len(self.contexts[i]), [Sampled() for _ in range(self.n)]) for i in new]
            self._prefill(start)

    def _prefill(self, start: int) -> None:
        """Compute keys, values and logits of the new rows, which begin at `start`."""
        engine, prefix = self.engine, self.prefix
        end = len(self.rows)
        rest = [self.contexts[row.index][len(prefix.ids) :] for row in self.rows[start:]]
        engine.work["prefill"] += sum(map(len, rest))
        owner, pos = prefix.keys(rest)
        no_responses = (owner[:, :0], pos[:, :0])
        cache = prefix.fan_out(len(rest), keep=True)
        ids = right_pad(rest, 0, engine.device)
        hidden = engine.forward(ids, pos[:, len(prefix.ids) :], no_responses, (owner, pos), cache)
        self.cache.put(start, cache)
        self.owner[start:end], self.pos[start:end] = PADDING, 0
        self.owner[start:end, : owner.shape[1]], self.pos[start:end, : pos.shape[1]] = owner, pos
        last = torch.tensor([len(r) - 1 for r in rest], device=engine.device)
        logits = engine.logits(hidden[torch.arange(len(rest), device=engine.device), last]).repeat_interleave(self.n, 0)
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])

    def _places(self) -> tuple[np.ndarray, ...]:
        """Context index, response index and number of tokens of each unfinished response."""
        places = [(row.index, j, len(row.sampled[j].ids)) for row in self.rows for j in row.live]
        return tuple(np.array(places).T)

    def _append(self, tokens: list[int], logps: list[float], ended: Callable[[int, int, list[int]], str | None]) -> None:
        """Append a token to every unfinished response, and update which responses are unfinished."""
        drawn = iter(zip(tokens, logps, strict=True))
        for row in self.rows:
            row.live = [j for j in row.live if row.sampled[j].grows(*next(drawn), partial(ended, row.index, j), self.steps)]

    def _free(self, slot: int) -> None:
        """Remove a row and move the last row into its slot."""
        last = len(self.rows) - 1
        if slot < last:
            self.cache.move(last, slot)
            self.rows[slot] = self.rows[last]
            self.owner[slot] = self.owner[last]
            self.pos[slot] = self.pos[last]
        self.rows.pop()

    def _next_logits(self) -> torch.Tensor:
        """Logits from one pass over the last token of every unfinished response."""
        self.engine.work["decode"] += sum(len(row.live) for row in self.rows)
        step = self._step()
        used = max(row.used for row in self.rows)
        if self.graphs is None:
            hidden = self._pass(on_device(step, self.engine.device), used)
        else:
            hidden = self.graphs(self._pass, step, rounded(used, self.width))
        live = (step[1] != PADDING).flatten().nonzero()[:, 0]
        return self.engine.logits(hidden.flatten(0, 1)[on_device(live, self.engine.device)])

    def _step(self) -> torch.Tensor:
        """Token, owner, position and column, int64, shape (4, rows, tokens), of the last token of every unfinished response.

        The columns count as used from now on. Where steps are recorded, rows and tokens are rounded up, and the further ones
        are padding.
        """
        shape = len(self.rows), max(len(row.live) for row in self.rows)
        if self.graphs is not None:
            shape = tuple(map(rounded, shape, (self.slots, self.n)))
        step = np.zeros((4, *shape), np.int64)
        step[1], step[3] = PADDING, self.width
        k, t, *values = np.transpose([
            (k, t, (ids := row.sampled[j].ids)[-1], j + 1, row.length + len(ids) - 1, row.used + t)
            for k, row in enumerate(self.rows) for t, j in enumerate(row.live)
        ])  # fmt: skip
        step[:, k, t] = values
        for row in self.rows:
            row.used += len(row.live)
        return torch.from_numpy(step)

    def _pass(self, step: torch.Tensor, used: int) -> torch.Tensor:
        """Hidden states, shape (rows, tokens, hidden), of a step that reads the first `used` columns."""
        ids, owner, pos, columns = step
        n = len(ids)
        self.owner[:n].scatter_(1, columns, owner)
        self.pos[:n].scatter_(1, columns, pos)
        self.cache.aim(columns, used)
        return self.engine.forward(ids, pos, (owner, pos), (self.owner[:n, :used], self.pos[:n, :used]), self.cache)
