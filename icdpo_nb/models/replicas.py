"""Replicas: a language model, an encoder or a reward of which every worker has a copy, behind the interface of a single one.

Random numbers depend on the seed, the context and the candidate alone; `copies` says why nothing else depends on the workers.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import uuid4

import numpy as np

from ..protocol import RECOMMENDED, Protocol
from .addresses import is_address
from .copies import Copies, whole
from .encoder import MINILM, Embedder
from .interface import NO_BAR, SECONDS, TOKENS, LanguageModel, unless_sampled
from .lm import CausalLM, load_lm
from .tokens import EMPTY, Response, Tokens
from .workers import Workers, workers

STAGES = {"sample": "sampling", "logprobs": "scoring"}


def load_model(name: str) -> LanguageModel:
    """The language model of this name: with a copy in every worker if there are workers (`workers`), else `load_lm`.

    A model behind a server answers several requests at a time as it is.
    """
    crew = None if is_address(name) else workers()
    return ReplicatedLM(partial(load_lm, name), name, crew) if crew else load_lm(name)


def load_encoder(name: str = "auto") -> Embedder:
    """The sentence encoder of this name, with a copy in every worker if there are workers."""
    crew = workers()
    return ReplicatedEmbedder(name, crew) if crew else Embedder(name)


class ReplicatedLM(Tokens):
    """A `LanguageModel` with a copy in every worker, and no weights in this process.

    `make()` makes a `CausalLM` in a worker. `device` is that of the copies.
    """

    def __init__(self, make: Callable[[], CausalLM], name: str, crew: Workers):
        self.copies = Copies(make, name, crew)
        told = self.copies.ask(_description)
        super().__init__(told.pop("tokenizer"), told.pop("eos_ids"))
        vars(self).update(told)  # name, revision, dtype, device, fingerprint, n_parameters, max_length
        self.identity = uuid4().hex
        self.tokens: Counter = Counter()
        self.seconds: Counter = Counter()
        self.peak, self.machines = 0, {}

    @property
    def products(self) -> Mapping[str, int]:
        """The number of linear layers of each copy with each product; see `engine.linear`."""
        return (self.copies.settings or {}).get("products", {})

    @property
    def path(self) -> str:
        """How the model runs, in one line; see `CausalLM.path`."""
        self.prepare()
        return self.copies.settings["path"]

    def in_chunks(
        self, method: str, items: Mapping[str, Sequence], watch: Callable | None = None, **same: object
    ) -> Iterator[tuple[range, Sequence]]:
        """`Copies.in_chunks` for `sample` and `logprobs`, with its work counted: tokens, and seconds on the wall clock.

        `watch` is as in `sample`, but called once for each response, when its chunk is done.
        """
        self.prepare()
        last = time.perf_counter()
        for places, chunk in self.copies.in_chunks(method, items, **same):
            self.tokens.update(chunk.tokens)
            self.peak, self.machines[chunk.machine] = max(self.peak, chunk.peak), None
            now = time.perf_counter()
            self.seconds[STAGES[method]] += now - last
            last, results = now, chunk.results
            if method == "sample":
                results = [[replace(y, sampled_by=self.identity) for y in ys] for ys in results]
            for i, ys in zip(places, results if watch else (), strict=False):
                for j, y in enumerate(ys):
                    watch(i, j, y.token_ids)
            yield places, results

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        protocol: Protocol = RECOMMENDED,
        seed: int = 0,
        progress: Callable = NO_BAR,
        begun: Sequence[Response] | None = None,
        watch: Callable[[int, int, Sequence[int]], None] | None = None,
    ) -> list[list[Response]]:
        """Sample n responses to each context; see `interface.LanguageModel.sample`, and `in_chunks` for `watch`."""
        items = {"contexts": contexts, "begun": begun or [EMPTY] * len(contexts)}
        with progress(total=len(contexts)) as bar:
            return whole(self.in_chunks("sample", items, watch, n=n, protocol=protocol, seed=seed), len(contexts), bar)

    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """Token log-probabilities, float32, nats; see `interface.LanguageModel.logprobs`."""

        def compute(contexts: list[str], responses: list[Sequence[Response]]) -> list[list[np.ndarray]]:
            items = {"contexts": contexts, "responses": responses}
            with progress(total=len(contexts)) as bar:
                return whole(self.in_chunks("logprobs", items, rescore=True), len(contexts), bar)

        return unless_sampled(self, contexts, responses, rescore, compute)

    def twin(self) -> "ReplicatedLM":
        """Itself: the copies share its calls already."""
        return self

    def prepare(self) -> None:
        """Make the copies, and give all of them the same settings, once."""
        self.copies.prepare()

    def work(self) -> dict[str, float]:
        """Tokens of all copies and seconds on the wall clock so far; see `interface.LanguageModel.work`."""
        return {**{kind: self.tokens[kind] for kind in TOKENS}, **{stage: self.seconds[stage] for stage in SECONDS}}

    def cost(self) -> Mapping[str, object]:
        """Work, machines and the peak memory of the largest copy; see `interface.LanguageModel.cost`."""
        return {**self.work(), "machines": [*self.machines], "peak": self.peak, "results": 0, "without cost": 0}


class ReplicatedEmbedder(Embedder):
    """An `Embedder` whose vectors are computed by the copies in the workers."""

    def __init__(self, name: str, crew: Workers):
        super().__init__(name)
        own = MINILM if self.name == MINILM else self.path
        self.copies = Copies(partial(Embedder, own), self.name, crew)

    def in_chunks(self, method: str, items: Mapping[str, Sequence]) -> Iterator[tuple[range, Sequence]]:
        """`Copies.in_chunks` for `vectors`."""
        for places, chunk in self.copies.in_chunks(method, items):
            yield places, chunk.results

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors computed without the cache, shape (n_texts, dim)."""
        return np.stack(whole(self.in_chunks("vectors", {"texts": texts}), len(texts)))


class ReplicatedReward:
    """A reward with a copy in every worker. `make()` makes it there."""

    def __init__(self, make: Callable[[], object], name: str, crew: Workers):
        self.copies = Copies(make, name, crew)
        self.name, self.note, self.fingerprint = self.copies.ask(_labels)

    def in_chunks(self, method: str, items: Mapping[str, Sequence]) -> Iterator[tuple[range, Sequence]]:
        """`Copies.in_chunks` for `score`."""
        for places, chunk in self.copies.in_chunks(method, items):
            yield places, chunk.results

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Rewards, shape (n,)."""
        items = {"prompts": prompts, "responses": responses}
        return np.array(whole(self.in_chunks("score", items), len(responses)), float)


def _description(lm: CausalLM) -> dict:
    """What another process needs to know of a language model."""
    names = ("tokenizer", "eos_ids", "name", "revision", "dtype", "device", "fingerprint", "n_parameters", "max_length")
    return {name: getattr(lm, name) for name in names}


def _labels(reward) -> tuple[str, str, str]:
    return reward.name, reward.note, reward.fingerprint
