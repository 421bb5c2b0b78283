"""A language model in a rehearsal: it computes a few of the contexts that it is given, and notes what all would cost."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from ..models.interface import NO_BAR, LanguageModel, check_fits
from ..models.placement import precision_on_gpu
from ..models.sizes import Size
from ..models.tokens import EMPTY, Response
from ..protocol import RECOMMENDED, Protocol
from .notes import write_note
from .pace import Passes, lasting
from .probes import PROBED, PROBED_MORE, PROBED_MOST, PROBING, one_at_a_time, spread_indices

MEMORY = "ICDPO_MEMORY"  # set for models without weights: bytes of the device that they are to run on


class RehearsedLM:
    """A `LanguageModel` that computes a few of the contexts that it is given; the others get copies of their results."""

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.probed: dict[str, int] = {}  # tokens of the longest contexts of which more than a few were computed, by stage
        self.measures = lm.device != "meta"  # a model without weights takes no time

    def __getattr__(self, name: str):
        return getattr(vars(self)["lm"], name)

    @property
    def path(self) -> str:
        """As `CausalLM.path`."""
        return self.lm.path if self.measures else "not run: it has no weights here"

    def twin(self) -> "RehearsedLM":
        """Another one for another thread where the model has twins; their calls are still one at a time."""
        if self.lm.twin() is self.lm:
            return self
        other = RehearsedLM(self.lm)
        other.probed = self.probed
        return other

    def absorb(self, twin: "RehearsedLM") -> None:
        """Nothing: the model has no twin in fact."""

    def prepare(self) -> None:
        """Set up a model that has weights."""
        if self.measures:
            self.lm.prepare()

    @one_at_a_time
    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        protocol: Protocol = RECOMMENDED,
        seed: int = 0,
        progress: Callable = NO_BAR,
        begun: Sequence[Response] | None = None,
        watch: Callable | None = None,
    ) -> list[list[Response]]:
        """As `LanguageModel.sample`, with the responses of a few contexts for all."""
        began = time.perf_counter()
        begun = begun or [EMPTY] * len(contexts)
        encoded = [[*self.lm.encode_context(c), *b.token_ids] for c, b in zip(contexts, begun, strict=True)]
        for context, ids in zip(contexts, encoded, strict=True):
            check_fits(self.lm, context, len(ids), protocol.max_new_tokens, "new tokens")
        if self.measures:
            out, measured, per_kept = self._probed(contexts, encoded, n, protocol, seed, begun)
        else:
            out, measured, per_kept = self._longest(contexts, n, protocol, begun), [], 1.0
        work = self._sampling(encoded, out, begun, protocol)
        work = replace(work, decoded=round(work.decoded * per_kept))
        self._note("sampling", encoded, n, protocol.max_new_tokens, work, work.decoded, measured, began)
        return out

    def _probed(self, contexts, encoded, n: int, protocol: Protocol, seed: int, begun) -> tuple[list, list, float]:
        """Responses, measured calls with their seconds, and decoded tokens for each kept one: a stop string cuts some off."""
        self.prepare()
        known, measured, decoded, kept = {}, [], 0, 0
        for indices in self._probes("sampling", encoded, measured):
            before, start = self.lm.work(), time.perf_counter()
            some, starts = [contexts[i] for i in indices], [begun[i] for i in indices]
            found = self.lm.sample(some, n, protocol, seed, begun=starts)
            took, computed = time.perf_counter() - start, round(self.lm.work()["decode"] - before["decode"])
            work = self._sampling([encoded[i] for i in indices], found, starts, protocol)
            measured.append((replace(work, decoded=computed), took))
            decoded, kept = decoded + computed, kept + work.decoded
            known |= dict(zip(indices, found, strict=True))
        have = sorted(known)
        out = [known.get(i) or self._copied(known[have[i % len(have)]], c, begun[i], begun[have[i % len(have)]], protocol)
               for i, c in enumerate(contexts)]  # fmt: skip
        return out, measured, decoded / max(1, kept)

    def _probes(self, stage: str, encoded: Sequence[Sequence[int]], measured: Sequence) -> Iterator[list[int]]:
        """The indices of a few contexts; then of more of them, if they are longer than any of which so many were computed."""
        few = spread_indices(len(encoded), PROBED)
        yield few
        tokens = sum(len(encoded[i]) for i in few)
        if len(encoded) > PROBED and tokens > 2 * self.probed.get(stage, 0):
            self.probed[stage] = tokens
            in_time = int(PROBED * PROBING / max(measured[-1][1], 1e-3))
            yield spread_indices(len(encoded), min(max(PROBED_MORE, in_time), PROBED_MOST))

    def _longest(self, contexts, n: int, protocol: Protocol, begun) -> list[list[Response]]:
        """Responses of `max_new_tokens` tokens each, which a model without weights is taken to sample."""
        word, out = self.lm.tokenize(" the")[-1], []
        for context, start in zip(contexts, begun, strict=True):
            ids = [*start.token_ids, *[word] * protocol.max_new_tokens]
            origin = {"context": context, "sampled_by": self.lm.identity}
            out.append([self.lm.response(ids, "length", protocol, logps=np.full(len(ids), -1.0), **origin) for _ in range(n)])
        return out

    def _copied(self, ys: Sequence[Response], context: str, begun: Response, theirs: Response, protocol: Protocol) -> list:
        """The responses to another context as responses to this one, after what it has already."""
        new = [y.token_ids[len(theirs.token_ids) :] for y in ys]
        origin = {"context": context, "sampled_by": self.lm.identity}
        return [
            self.lm.response([*begun.token_ids, *ids], y.finish, protocol, logps=np.full(len(begun.token_ids) + len(ids), -1.0),
                             **origin) if len(begun.token_ids) + len(ids) else y
            for y, ids in zip(ys, new, strict=True)
        ]  # fmt: skip

    def _sampling(self, encoded, out, begun, protocol: Protocol) -> Passes:
        """The work of sampling these responses."""
        steps, n = protocol.max_new_tokens, len(out[0]) if out else 0
        lengths = [[len(y.token_ids) - len(b.token_ids) for y in ys] for ys, b in zip(out, begun, strict=True)]
        longest = [max(row) for row in lengths]
        keys = sum(k * (len(context) + n * k / 2) for context, k in zip(encoded, longest, strict=True))
        return Passes(
            context=_planned_sampling(self.lm, encoded, steps),
            steps=lasting(longest, self._slots([*map(len, encoded)], n, steps)),
            decoded=sum(map(sum, lengths)),
            keys=round(keys),
        )

    def _slots(self, lengths: Sequence[int], n: int, steps: int) -> int:
        """How many contexts are decoded together."""
        if self.measures:
            tokens = getattr(getattr(self.lm, "engine", None), "cache_tokens", None) or 10**9  # a server has room, or queues
            return max(1, tokens // (max(lengths) + n * steps))
        memory = os.environ.get(MEMORY)
        at_a_time = self._size.contexts_at_a_time(float(memory), max(lengths), n, steps) if memory else len(lengths)
        return max(1, at_a_time)

    @cached_property
    def _size(self) -> Size:
        """The size of a model without weights."""
        return Size(self.lm.engine.model, precision_on_gpu())

    def _note(self, stage: str, encoded, n: int, limit: int, work: Passes, sampled: int, measured, began: float) -> None:
        """Note a call with these contexts, and at most n responses of at most `limit` tokens to each."""
        tokens = work.context + work.decoded + work.scored
        write_note(
            stage=stage, part=self.lm.name, items=len(encoded), tokens=tokens, sampled=sampled, measured=measured, work=work,
            spent=time.perf_counter() - began, described="" if self.measures else "CausalLM",
            longest=max(map(len, encoded)), n=n, limit=limit,
        )  # fmt: skip

    @one_at_a_time
    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """As `LanguageModel.logprobs`, with made-up values for all but a few contexts."""
        began = time.perf_counter()
        encoded = [self.lm.encode_context(c) for c in contexts]
        ids = [[y.token_ids for y in ys] for ys in responses]
        for context, tokens, ys in zip(contexts, encoded, ids, strict=True):
            check_fits(self.lm, context, len(tokens), max(map(len, ys), default=0), "response tokens")

        def planned(indices: Sequence[int]) -> Passes:
            return Passes(scored=_planned_scoring(self.lm, [encoded[i] for i in indices], [ids[i] for i in indices]))

        known, measured = {}, []
        if self.measures:
            self.prepare()
            for indices in self._probes("scoring", encoded, measured):
                start = time.perf_counter()
                values = self.lm.logprobs([contexts[i] for i in indices], [responses[i] for i in indices], rescore=True)
                measured.append((planned(indices), time.perf_counter() - start))
                known |= dict(zip(indices, values, strict=True))
        work = planned(range(len(contexts)))
        lengths = [len(y) for ys in ids for y in ys]
        self._note("scoring", encoded, max(map(len, ids)), max(lengths, default=0), work, sum(lengths), measured, began)
        rng = np.random.default_rng(len(contexts))
        return [known.get(i) or [-rng.random(len(y), np.float32) for y in ys] for i, ys in enumerate(ids)]


def _planned_sampling(lm: LanguageModel, contexts: Sequence[Sequence[int]], steps: int) -> int:
    """Tokens that are computed before decoding; those of all contexts where the model does not say."""
    engine = getattr(lm, "engine", None)
    return sum(engine.planned_sampling(contexts, steps).values()) if engine else sum(map(len, contexts))


def _planned_scoring(lm: LanguageModel, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]) -> int:
    """Tokens that are computed in scoring; every response with its context where the model does not say."""
    if engine := getattr(lm, "engine", None):
        return sum(engine.planned_scoring(contexts, responses).values())
    return sum(len(c) + len(y) for c, ys in zip(contexts, responses, strict=True) for y in ys)
