"""Copies: n copies of a part, one in each worker. Chunks of items go in, results come out.

The division into chunks depends on the items alone, and all copies have the same batch sizes, products and threads. So results
depend neither on the number of workers nor on which of them computes a chunk.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from uuid import uuid4

from ..engine.linear import keep_times, kept_times
from .crew import Part
from .interface import TOKENS, machine
from .lm import CausalLM
from .workers import Workers

CHUNK = 32  # items of a chunk: contexts with all their responses, or texts


class Chunk(NamedTuple):
    """The results of a chunk, and the work of a language model on it."""

    results: Sequence
    tokens: Mapping[str, float]
    peak: int  # bytes
    machine: str


class Copies:
    """Copies of a part in the workers. `make()` makes one there; `name` is for messages."""

    def __init__(self, make: Callable[[], object], name: str, crew: Workers):
        self.part, self.workers = Part(uuid4().hex, name, make), crew
        self.settings: dict | None = None  # what all copies have in common
        weakref.finalize(self, crew.forget, self.part.key).atexit = False  # Ray may have ended by then

    def ask(self, what: Callable[[object], object]) -> object:
        """`what(copy)`, a function of a module, in one worker."""
        return self.workers.call(self.part, what)

    def prepare(self) -> None:
        """Measure in one worker what all copies are to have in common, then make the others, once."""
        if self.settings is None:
            self.settings = self.ask(_measured)
            self.workers.each(self.part, partial(_settle, self.settings), _nothing)

    def in_chunks(self, method: str, items: Mapping[str, Sequence], **same: object) -> Iterator[tuple[range, Chunk]]:
        """Yield (indices, results) of `method(**items, **same)` for each chunk as it is done, in any order.

        `items`: the arguments that have a value for each item.
        """
        self.prepare()
        n = len(next(iter(items.values())))
        places = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
        chunks = [{"method": method, **same, **{k: v[p.start : p.stop] for k, v in items.items()}} for p in places]
        about = [f"{method} with {self.part.name}, items {p.start + 1} to {p.stop} of {n}" for p in places]
        for k, chunk in self.workers.spread(self.part, partial(_settle, self.settings), _done, chunks, about):
            yield places[k], chunk


def whole(chunks: Iterator[tuple[range, Sequence]], n: int, bar=None) -> list:
    """The results of all chunks, in the order of the items."""
    results: list = [None] * n
    for places, found in chunks:
        results[places.start : places.stop] = found
        if bar is not None:
            bar.update(len(places))
    return results


# ------------------------------------------------------------ in the workers


def _measured(copy) -> dict:
    """What a copy measures for all: products of linear layers, batch sizes, and how a language model runs.

    Batch sizes are rounded down to powers of two, so that they do not depend on how much memory happens to be free.
    """
    if hasattr(copy, "prepare"):
        copy.prepare()
    settings: dict = {"times": kept_times()}
    if isinstance(copy, CausalLM):
        budgets = copy.engine.batch_tokens, copy.engine.cache_tokens
        settings |= {
            "budgets": [1 << (n.bit_length() - 1) for n in budgets],
            "path": copy.path,
            "products": dict(copy.products),
        }
    return settings


def _settle(settings: Mapping, copy) -> None:
    """Give a copy the settings that all have in common."""
    keep_times(settings["times"])
    if isinstance(copy, CausalLM) and copy.path:  # which chooses the engine
        copy.engine.batch_tokens, copy.engine.cache_tokens = settings["budgets"]
    if hasattr(copy, "prepare"):
        copy.prepare()


def _nothing(copy) -> None:
    """Done when the copy has been made and settled."""


def _done(copy, method: str, **given: object) -> Chunk:
    """A chunk by a copy."""
    counted = isinstance(copy, CausalLM)
    before = copy.work() if counted else {}
    results = getattr(copy, method)(**given)
    if not counted:
        return Chunk(results, {}, 0, "")
    now = copy.work()
    tokens = {kind: now[kind] - before[kind] for kind in TOKENS}
    return Chunk(results, tokens, copy.cost()["peak"], machine(copy.device))
