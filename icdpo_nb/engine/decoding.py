"""Sampling: one token from logits, and a pool of contexts whose responses are decoded together.

See `attention.py` for owners and positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .attention import PADDING, SlotCache
from .packing import right_pad
from .prefix import Prefix


def nucleus_sample(
    logits: torch.Tensor, uniform: torch.Tensor, top_p: float, top_k: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row by nucleus (top-p) sampling, from given uniform numbers.

    `logits`: float32 (rows, vocab); `uniform`: float64 (rows,) in [0, 1). The nucleus is the smallest set of most probable
    tokens whose mass reaches `top_p`, as in transformers' TopPLogitsWarper; temperature acts first, then top-k, then top-p.
    The vocabulary is sorted only as far as the nucleus reaches. Returns token ids (rows,) and their log-probabilities under
    the unmodified policy (temperature 1, whole vocabulary), in nats (rows,).
    """
    logp = torch.log_softmax(logits, -1)
    tempered = logp if temperature == 1 else torch.log_softmax(logits / temperature, -1)
    vocab, reach = logits.shape[-1], top_k or min(64, logits.shape[-1])
    while True:
        best, ids = tempered.topk(min(reach, vocab), -1)
        probs = best.double().exp()
        if top_k:
            probs = probs / probs.sum(-1, keepdim=True)
        if top_k or reach >= vocab or bool((probs.sum(-1) >= top_p).all()):
            break
        reach *= 8
    mass_before = probs.cumsum(-1) - probs
    probs = probs.masked_fill(mass_before >= top_p, 0.0)
    cumulative = probs.cumsum(-1)
    pick = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(-1, keepdim=True).clamp_(max=probs.shape[-1] - 1)
    token = ids.gather(-1, pick)
    return token[:, 0], logp.gather(-1, token)[:, 0]


@dataclass
class Sampled:
    """One sampled sequence: token ids, their log-probabilities under the policy, and how it ended."""

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finish: str = "length"


@dataclass
class Row:
    """A context in the pool: its number, how many tokens it has, and what is sampled from it."""

    index: int
    length: int
    sampled: list[Sampled]

    def __post_init__(self):
        self.live, self.used = [*range(len(self.sampled))], self.length  # unfinished responses; columns of the slot in use


class Pool:
    """Decodes n responses, of at most `steps` tokens, to each of some contexts that begin with `prefix`.

    A row holds a context and its responses, the unfinished ones as the row's queries; row k stands in slot k of one cache.
    Every step gives each unfinished response a token: what has ended is decoded no further, a row without any is given away,
    and contexts that wait take the slots that are free. `engine` makes the passes and counts their tokens.

    `waiting`: numbers of the contexts, sorted by length; those that the pool takes are removed from its end. A slot has room
    for the longest and every token its responses may have; contexts that need less than half of that are left for another
    pool. When memory runs out, `rows` are those that were not finished.
    """

    def __init__(self, engine, prefix: Prefix, contexts: Sequence[Sequence[int]], waiting: list[int], n: int, steps: int):
        self.engine, self.prefix, self.contexts, self.waiting, self.n, self.steps = engine, prefix, contexts, waiting, n, steps
        self.width = self._need(waiting[-1])
        self.slots = max(1, min(engine.cache_tokens // self.width, len(waiting)))
        self.rows: list[Row] = []
        self.cache = SlotCache(engine.n_layers, self.slots, self.width + 1)
        self.owner = torch.full((self.slots, self.width + 1), PADDING, device=engine.device)
        self.pos = torch.zeros_like(self.owner)
        self.logits = None  # (unfinished responses, vocab), row by row

    def _need(self, index: int) -> int:
        return len(self.contexts[index]) + self.n * self.steps

    def run(
        self,
        choose: Callable[[torch.Tensor, tuple[np.ndarray, ...]], tuple[torch.Tensor, torch.Tensor]],
        ended: Callable[[int, list[int]], str | None],
    ) -> Iterator[Row]:
        """The rows, each as soon as all its responses have ended.

        `choose(logits, places)`: the next token of every unfinished response and its log-probability, two tensors of shape
        (responses,), from float32 logits (responses, vocab); `places` are three int arrays, shape (responses,): the number of
        its context, its own, and how many tokens it has. `ended(i, ids)`: how a response to context i has ended, or None.
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
        """Compute waiting contexts into free slots, if a quarter of the slots is free: a pass for every one would cost more."""
        if len(self.rows) > 0.75 * self.slots:
            return
        while self.waiting and len(self.rows) < self.slots:
            longest = len(self.contexts[self.waiting[-1]])
            most = min(self.slots - len(self.rows), max(1, self.engine.batch_tokens // longest))
            new: list[int] = []
            while self.waiting and len(new) < most and 2 * self._need(self.waiting[-1]) >= self.width:
                new.append(self.waiting.pop())
            if not new:
                return
            start = len(self.rows)
            self.rows += [Row(i, len(self.contexts[i]), [Sampled() for _ in range(self.n)]) for i in new]
            self._compute(start)

    def _compute(self, start: int) -> None:
        """Keys, values and logits of the rows from `start` on, which are new."""
        engine, prefix, end = self.engine, self.prefix, len(self.rows)
        rest = [self.contexts[row.index][len(prefix.ids) :] for row in self.rows[start:]]
        engine.work["prefill"] += sum(map(len, rest))
        owner, pos = prefix.keys(rest)
        nobody, cache = (owner[:, :0], pos[:, :0]), prefix.fan_out(len(rest), keep=True)
        hidden = engine.forward(right_pad(rest, 0, engine.device), pos[:, len(prefix.ids) :], nobody, (owner, pos), cache)
        self.cache.put(start, cache)
        self.owner[start:end], self.pos[start:end] = PADDING, 0
        self.owner[start:end, : owner.shape[1]], self.pos[start:end, : pos.shape[1]] = owner, pos
        last = torch.tensor([len(r) - 1 for r in rest], device=engine.device)
        logits = engine.logits(hidden[torch.arange(len(rest), device=engine.device), last]).repeat_interleave(self.n, 0)
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])

    def _places(self) -> tuple[np.ndarray, ...]:
        """For each unfinished response: the number of its context, its own, and how many tokens it has."""
        found = [(row.index, j, len(row.sampled[j].ids)) for row in self.rows for j in row.live]
        return tuple(np.array(found).T)

    def _append(self, tokens: list[int], logps: list[float], ended: Callable[[int, list[int]], str | None]) -> None:
        """Give every unfinished response its token, and see which of them have ended with it."""
        drawn = iter(zip(tokens, logps, strict=True))
        for row in self.rows:
            going = []
            for j in row.live:
                sampled, (token, logp) = row.sampled[j], next(drawn)
                sampled.ids.append(token)
                sampled.logps.append(logp)
                sampled.finish = ended(row.index, sampled.ids) or "length"
                if sampled.finish == "length" and len(sampled.ids) < self.steps:
                    going.append(j)
            row.live = going

    def _free(self, slot: int) -> None:
        """Give up a row; the last one moves into its slot."""
        last = len(self.rows) - 1
        if slot < last:
            self.cache.move(last, slot)
            self.rows[slot], self.owner[slot], self.pos[slot] = self.rows[last], self.owner[last], self.pos[last]
        self.rows.pop()

    def _next_logits(self) -> torch.Tensor:
        """One pass over the last token of every unfinished response."""
        rows, device = self.rows, self.engine.device
        ids = right_pad([[row.sampled[j].ids[-1] for j in row.live] for row in rows], 0, device)
        owner = right_pad([[j + 1 for j in row.live] for row in rows], PADDING, device)
        pos = right_pad([[row.length + len(row.sampled[j].ids) - 1 for j in row.live] for row in rows], 0, device)
        columns = right_pad([range(row.used, row.used + len(row.live)) for row in rows], self.width, device)
        for row in rows:
            row.used += len(row.live)
        self.engine.work["decode"] += sum(len(row.live) for row in rows)
        used = max(row.used for row in rows)
        self.owner[: len(rows)].scatter_(1, columns, owner)
        self.pos[: len(rows)].scatter_(1, columns, pos)
        self.cache.aim(columns, used)
        keys = self.owner[: len(rows), :used], self.pos[: len(rows), :used]
        hidden = self.engine.forward(ids, pos, (owner, pos), keys, self.cache)
        return self.engine.logits(hidden[owner != PADDING])
