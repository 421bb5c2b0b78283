"""Decoding: a pool of contexts whose responses are sampled together.

See `attention.py` for owners and positions, `rows.py` for columns, `drafting.py` for drafts.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch

from .attention import PADDING
from .caches import SlotCache
from .drafting import DraftModel, best_drafts
from .graphs import Graphs, rounded
from .invariance import ROWS, key_width, up
from .packing import on_device, right_pad
from .prefix import Prefix
from .rows import Row
from .sampling import Sampled

LOGITS = 2**26  # logits of a step with drafts, in numbers: 256 MB


class Pool:
    """Decodes n responses of at most `steps` tokens to each of several contexts that begin with `prefix`.

    A row holds a context and its n responses; row k occupies slot k of the cache. Each step adds a token to every
    unfinished response, and one for each of its drafts that is right. When all responses of a row have ended, its slot
    becomes free for a waiting context. `engine` runs the passes and counts their tokens, without padding and wrong drafts.

    `waiting` holds context indices sorted by length; the pool takes contexts from its end. A slot has room for the longest
    context and `steps` tokens of each response. Contexts that need less than half of that are left for another pool.
    If memory runs out, `rows` holds the unfinished rows.
    """

    def __init__(
        self,
        engine,
        prefix: Prefix,
        contexts: Sequence[Sequence[int]],
        waiting: list[int],
        n: int,
        steps: int,
        draft_model: DraftModel | None = None,
    ):
        self.engine = engine
        self.prefix = prefix
        self.draft_model = draft_model  # without one, no drafts
        self.contexts, self.waiting = contexts, waiting
        self.n, self.steps = n, steps
        self.need = self._need(waiting[-1])
        self.width = key_width(up(self.need, ROWS), engine.device)
        self.slots = max(1, min(engine.cache_tokens // self.width, len(waiting)))
        self.rows: list[Row] = []
        self.cache = SlotCache(engine.n_layers, self.slots, self.width + 1)
        self.owner = torch.full((self.slots, self.width + 1), PADDING, device=engine.device)
        self.pos = torch.zeros_like(self.owner)
        self.logits = None  # (unfinished responses and their drafts, vocab), in row order
        self.graphs = Graphs(engine) if engine.records else None

    def _need(self, index: int) -> int:
        return len(self.contexts[index]) + self.n * self.steps

    def run(
        self,
        choose: Callable[[torch.Tensor, tuple[np.ndarray, ...]], tuple[torch.Tensor, torch.Tensor]],
        ended: Callable[[int, int, list[int]], str | None],
    ) -> Iterator[Row]:
        """Yield each row as soon as all its responses have ended.

        `choose(logits, places)` returns the next token after every unfinished response and after each of its drafts, and its
        log-probability, both of shape (tokens,), given float32 logits of shape (tokens, vocab). `places` are three int arrays
        of shape (tokens,): context index, response index and number of tokens before it. The choice may depend on nothing
        else. `ended(i, j, ids)` returns how response j to context i has ended, or None.
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
            while self.waiting and len(new) < limit and 2 * self._need(self.waiting[-1]) >= self.need:
                new.append(self.waiting.pop())
            if not new:
                return
            start = len(self.rows)
            self.rows += [Row(i, self.contexts[i], [Sampled() for _ in range(self.n)]) for i in new]
            for row in self.rows[start:] if self.draft_model else ():
                self.draft_model.read(row.context)
            self._prefill(start)

    def _prefill(self, start: int) -> None:
        """Compute keys, values and logits of the new rows, which begin at `start`."""
        engine, prefix = self.engine, self.prefix
        end = len(self.rows)
        rest = [self.contexts[row.index][len(prefix.ids) :] for row in self.rows[start:]]
        engine.work["prefill"] += sum(map(len, rest))
        owner, pos = prefix.keys(rest, ROWS)
        no_responses = (owner[:, :0], pos[:, :0])
        cache = prefix.fan_out(len(rest), keep=True)
        ids = right_pad(rest, 0, engine.device, owner.shape[1] - len(prefix.ids))
        hidden = engine.forward(ids, pos[:, len(prefix.ids) :], no_responses, (owner, pos), cache)
        self.cache.put(start, cache)
        self.owner[start:end], self.pos[start:end] = PADDING, 0
        self.owner[start:end, : owner.shape[1]], self.pos[start:end, : pos.shape[1]] = owner, pos
        last = torch.tensor([len(r) - 1 for r in rest], device=engine.device)
        logits = engine.logits(hidden[torch.arange(len(rest), device=engine.device), last]).repeat_interleave(self.n, 0)
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])

    def _places(self) -> tuple[np.ndarray, ...]:
        """Context index, response index and number of tokens before each token that is to be chosen."""
        places = [
            (row.index, j, len(row.sampled[j].ids) + k)
            for row in self.rows
            for j, draft in zip(row.live, row.drafts, strict=True)
            for k in range(len(draft) + 1)
        ]
        return tuple(np.array(places).T)

    def _append(self, tokens: list[int], logps: list[float], ended: Callable[[int, int, list[int]], str | None]) -> None:
        """Append tokens to every unfinished response, and update which responses are unfinished."""
        drawn = iter(zip(tokens, logps, strict=True))
        for row in self.rows:
            live = []
            for j, draft in zip(row.live, row.drafts, strict=True):
                sampled = row.sampled[j]
                before = len(sampled.ids)
                if sampled.takes([*islice(drawn, len(draft) + 1)], draft, partial(ended, row.index, j), self.steps):
                    live.append(j)
                new = len(sampled.ids) - before
                self.engine.work["decode"] += new - 1  # right drafts
                if self.draft_model:
                    self.draft_model.follow(row.history(j, new), new)
            row.live, row.drafts = live, [[] for _ in live]

    def _free(self, slot: int) -> None:
        """Remove a row and move the last row into its slot."""
        last = len(self.rows) - 1
        if slot < last:
            self.cache.move(last, slot, self.rows[last].used)
            self.rows[slot] = self.rows[last]
            self.owner[slot] = self.owner[last]
            self.pos[slot] = self.pos[last]
        self.rows.pop()

    def _next_logits(self) -> torch.Tensor:
        """Logits from one pass over the last token of every unfinished response and its drafts."""
        self.engine.work["decode"] += sum(len(row.live) for row in self.rows)
        if self.draft_model:
            self._draft()
        step = self._step()
        used, device = max(row.used for row in self.rows), self.engine.device
        cells = on_device((step[1] != PADDING).flatten().nonzero()[:, 0], device)
        if self.graphs is None:
            hidden = self._pass(on_device(step, device), key_width(used, device), cells)[0, : len(cells)]
        else:
            hidden = self.graphs(self._pass, step, rounded(used, self.width)).flatten(0, 1)[cells]
        return self.engine.logits(hidden)

    def _draft(self) -> None:
        """Guess further tokens, as many as are worth computing and the memory of a pass allows."""
        live, used = [len(row.live) for row in self.rows], max(row.used for row in self.rows)
        room = min(self.engine.batch_tokens, LOGITS // self.logits.shape[1]) // len(self.rows)
        guesses = [
            row.guesses(self.draft_model, self.steps)[: max(0, room - n)] for row, n in zip(self.rows, live, strict=True)
        ]
        numbers = best_drafts(live, [[chance for chance, *_ in each] for each in guesses], used * self.engine.key_cost)
        for row, each, number in zip(self.rows, guesses, numbers, strict=True):
            row.draft(each[:number])

    def _step(self) -> torch.Tensor:
        """Token, owner, position, row and column of all that the next step computes, int64, shape (5, rows, tokens of a row).

        Rows with fewer tokens than another end with padding. Where steps are recorded, both numbers are rounded up.
        """
        fed = [[*row.fed()] for row in self.rows]
        rows, most = len(fed), max(map(len, fed))
        if self.graphs is not None:
            rows, most = rounded(rows, self.slots), rounded(most, self.n)
        step = np.zeros((5, rows, most), np.int64)
        step[1], step[3], step[4] = PADDING, np.arange(rows)[:, None], self.width
        k, t, *values = np.transpose([
            (k, t, token, j + 1, len(row.context) + before, k, column)
            for k, row in enumerate(self.rows) for t, (token, j, before, column) in enumerate(fed[k])
        ])  # fmt: skip
        step[:, k, t] = values
        return torch.from_numpy(step)

    def _pass(self, step: torch.Tensor, used: int, cells: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states of a step that reads the first `used` columns, shape (rows, tokens of a row, hidden).

        With `cells`, only the tokens in these are computed, shape (1, tokens, hidden), and some again where products
        need more rows.
        """
        _, owner, pos, _, columns = step
        n = len(owner)
        self.owner[:n].scatter_(1, columns, owner)
        self.pos[:n].scatter_(1, columns, pos)
        queries, keys = (owner, pos), (self.owner[:n, :used], self.pos[:n, :used])
        if cells is not None:
            cells = torch.cat([cells, cells[:1].expand(max(0, self.engine.least_rows - len(cells)))])
            step = step.flatten(1)[:, None, cells]
        ids, _, pos, rows, columns = step
        self.cache.aim(rows, columns, n, used)
        return self.engine.forward(ids, pos, queries, keys, self.cache, cells)
