"""Sampling: one token from logits, and a pool of contexts whose responses are decoded together.

The pool holds a row per context, its unfinished responses that row's queries (see `attention.py` for owners and positions).
What has ended is decoded no further, and contexts that wait take the room of those that are done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .attention import CONTEXT, PADDING
from .packing import right_pad


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
    """A context in the pool: its number, its tokens, what was sampled from it, and which of that is unfinished."""

    index: int
    length: int
    sampled: list[Sampled]
    live: list[int]


class Pool:
    """Contexts whose n responses, of at most `steps` tokens, are being decoded with an `engine`."""

    def __init__(self, engine, prefix, n: int, steps: int):
        self.engine, self.prefix, self.n, self.steps = engine, prefix, n, steps
        self.rows: list[Row] = []
        self.owner = self.pos = self.cache = self.logits = None  # logits: (unfinished responses, vocab), row by row

    def places(self) -> tuple[np.ndarray, ...]:
        """For each unfinished response: the number of its context, its own, and how many tokens it has."""
        found = [(row.index, j, len(row.sampled[j].ids)) for row in self.rows for j in row.live]
        return tuple(np.array(found).T)

    def admit(self, waiting: list[int], contexts: Sequence[Sequence[int]]) -> bool:
        """Move contexts from the end of `waiting` into the pool, one pass's worth, if enough room is free; whether it did.

        Room is reserved for every token that a response may still have. A quarter must be free, or joining would cost more
        than it saves.
        """
        held = sum(row.length + len(row.live) * self.steps for row in self.rows if row.live)
        if not waiting or held > 0.75 * self.engine.cache_tokens:
            return False
        new: list[Row] = []
        longest = len(contexts[waiting[-1]])  # they are sorted by length
        while waiting:
            held += len(contexts[waiting[-1]]) + self.n * self.steps
            full = held > self.engine.cache_tokens or longest * (len(new) + 1) > self.engine.batch_tokens
            if full and (new or self.rows):
                break
            i = waiting.pop()
            new.append(Row(i, len(contexts[i]), [Sampled() for _ in range(self.n)], list(range(self.n))))
        if new:
            old, self.rows = self.rows, self.rows + new
            self._join(old, new, contexts)
        return bool(new)

    def _join(self, old: list[Row], new: list[Row], contexts: Sequence[Sequence[int]]) -> None:
        """Compute the new rows' contexts and put their keys and logits below those of the old rows."""
        engine, prefix = self.engine, self.prefix
        rest = [contexts[row.index][len(prefix.ids) :] for row in new]
        engine.work["prefill"] += sum(map(len, rest))
        owner, pos = engine.context_keys(prefix, rest)
        cache = prefix.fan_out(len(new), room=self.n * min(self.steps, 32))
        nobody = owner[:, :0], pos[:, :0]
        hidden = engine.forward(right_pad(rest, 0, engine.device), pos[:, len(prefix.ids) :], nobody, (owner, pos), cache)
        last = torch.tensor([len(r) - 1 for r in rest], device=engine.device)
        logits = engine.logits(hidden[torch.arange(len(rest), device=engine.device), last]).repeat_interleave(self.n, 0)
        if any(row.live for row in old):
            self._compact(old)
            cache = self.cache.joined(cache)
            owner, pos, logits = _below(self.owner, owner, PADDING), _below(self.pos, pos, 0), torch.cat([self.logits, logits])
            self.rows = [*(row for row in old if row.live), *new]
        else:
            self.rows = new
        self.owner, self.pos, self.cache, self.logits = owner, pos, cache, logits

    def _compact(self, rows: list[Row]) -> None:
        """Drop the keys of finished rows and of finished responses, and move the others together."""
        alive = [k for k, row in enumerate(rows) if row.live]
        wanted = torch.zeros(len(alive), self.n + 2, dtype=torch.bool, device=self.engine.device)  # the last is padding's
        wanted[:, CONTEXT] = True
        for k, row in enumerate(rows[i] for i in alive):
            wanted[k, [j + 1 for j in row.live]] = True
        owner, pos = self.owner[alive], self.pos[alive]
        keep = wanted.gather(1, owner % (self.n + 2))
        columns = torch.argsort((~keep).int(), dim=1, stable=True)[:, : int(keep.sum(1).max())]
        self.owner = owner.gather(1, columns).masked_fill(~keep.gather(1, columns), PADDING)
        self.pos = pos.gather(1, columns)
        self.cache.take(torch.tensor(alive, device=self.engine.device), columns)

    def advance(
        self, tokens: list[int], logps: list[float], ended: Callable[[list[int]], str | None], done: Callable[[Row], None]
    ) -> None:
        """Append one token to every unfinished response, hand over rows that are `done`, and compute the next logits."""
        drawn, fed = iter(zip(tokens, logps, strict=True)), []
        for row in self.rows:
            going = []
            for j in row.live:
                sampled, (token, logp) = row.sampled[j], next(drawn)
                sampled.ids.append(token)
                sampled.logps.append(logp)
                sampled.finish = ended(sampled.ids) or "length"
                if sampled.finish == "length" and len(sampled.ids) < self.steps:
                    going.append(j)
                    fed.append(token)
            if row.live and not going:
                done(row)
            row.live = going
        if not fed:
            self.rows = []
            return
        if sum(not row.live for row in self.rows) > len(self.rows) / 4:  # less often, as dropping copies the cache
            self._compact(self.rows)
            self.rows = [row for row in self.rows if row.live]
        self._forward(fed)

    def _forward(self, tokens: list[int]) -> None:
        device, drawn = self.engine.device, iter(tokens)
        self.engine.work["decode"] += len(tokens)
        ids = right_pad([[next(drawn) for _ in row.live] for row in self.rows], 0, device)
        owner = right_pad([[j + 1 for j in row.live] for row in self.rows], PADDING, device)
        pos = right_pad([[row.length + len(row.sampled[j].ids) - 1 for j in row.live] for row in self.rows], 0, device)
        self.owner, self.pos = torch.cat([self.owner, owner], 1), torch.cat([self.pos, pos], 1)
        hidden = self.engine.forward(ids, pos, (owner, pos), (self.owner, self.pos), self.cache)
        self.logits = self.engine.logits(hidden[owner != PADDING])


def _below(upper: torch.Tensor, lower: torch.Tensor, fill: int) -> torch.Tensor:
    """Two matrices as one, the narrower padded on the right."""
    width = max(upper.shape[1], lower.shape[1])
    return torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1]), value=fill) for x in (upper, lower)])
