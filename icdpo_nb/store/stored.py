"""Wrappers that cache the results of a language model, an encoder or a reward in a store.

Each wrapper reads stored results, computes the missing ones, and delegates everything else to the wrapped object. The
language model wrapper also reports the cost of all results that it returned.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import RLock
from typing import TypeVar

import numpy as np

from ..common.countdown import Countdown, counted
from ..common.files import digest_of_texts
from ..models.encoder import Embedder, Remembered
from ..models.interface import NO_BAR, LanguageModel, unless_sampled
from ..models.tokens import EMPTY, Response
from ..protocol import RECOMMENDED, Protocol
from .meter import Meter
from .notes import rehearsing
from .rehearsal import rehearsed
from .store import Store
from .vectors import VectorFiles, folder_of_encoder

T = TypeVar("T")
SPREAD_ITEMS = 1024  # items that replicas compute at a time; each chunk of them is stored as it is done
MANY = 4096  # new texts in one call from which on their vectors go to files of their own


def stored(part: T, wanted: bool = True, store: Store | None = None) -> T:
    """Wrap a language model, a sentence encoder or a reward in a store; if not `wanted`, return it unchanged.

    In a rehearsal the part rehearses; see `rehearsal`.
    """
    wrappers = {"logprobs": StoredLM, "vectors": StoredEmbedder, "score": StoredReward}
    if rehearsing():
        part = rehearsed(part)
    wrapper = next((wrappers[method] for method in wrappers if hasattr(part, method)), None)
    if wrapper is None:
        raise TypeError(f"a {type(part).__name__} has no results that a store can cache")
    return wrapper(part, store or Store()) if wanted else part


def in_parts(
    part, method: str, items: Mapping[str, Sequence], bar: Countdown | None = None, **same: object
) -> Iterator[tuple[Sequence[int], Sequence]]:
    """(indices, results) of `method(**items, **same)`: chunk by chunk from replicas, all at once from anything else.

    `items`: the arguments that hold a value for each item. `bar` counts them as they are computed.
    """
    n = len(next(iter(items.values())))
    if hasattr(part, "in_chunks"):
        yield from part.in_chunks(method, items, **same)
    else:
        shown = {"progress": bar.part(n)} if bar else {}
        yield range(n), getattr(part, method)(**items, **shown, **same)


def _at_a_time(part) -> int:
    """How many items of a part the store has computed at a time; 0 for its default."""
    return getattr(part, "at_a_time", SPREAD_ITEMS if hasattr(part, "in_chunks") else 0)


def _by_part(store: Store, stage: str, inputs: dict, texts: Sequence[str], run: Callable[[Sequence[str]], object]) -> list:
    """`run(part)` for every part of `MANY` texts, read from the store where possible. It returns a JSON value."""
    parts = [texts[i : i + MANY] for i in range(0, len(texts), MANY)]
    return store.compute(stage, inputs, [digest_of_texts(p) for p in parts], lambda indices: [run(parts[i]) for i in indices])


class StoredLM:
    """A `LanguageModel` that caches samples and log-probabilities in a store."""

    def __init__(self, lm: LanguageModel, store: Store):
        self.lm = lm
        self.store = store
        self.meter = Meter(lm)
        self._weights = {"model": lm.fingerprint, "dtype": lm.dtype, "device": lm.device.partition(":")[0]}

    def __getattr__(self, name: str):
        return getattr(vars(self)["lm"], name)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The model's `count_tokens`, with counts of earlier runs where there are many texts, as in a length filter."""
        if len(texts) < MANY:
            return self.lm.count_tokens(texts)
        parts = _by_part(self.store, "tokens", {"model": self.lm.fingerprint}, texts, self.lm.count_tokens)
        return [n for part in parts for n in part]

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
        """The model's `sample`, with results read from the store where possible."""
        relevant = ("top_p", "top_k", "temperature", "max_new_tokens", "stop", "scored_tokens", "eos_scored", "template")
        inputs = {**self._weights, "n": n, "seed": seed, **protocol.key(*relevant)}
        begun = begun or [EMPTY] * len(contexts)

        def run(indices: list[int]) -> Iterator[tuple[Sequence[int], list]]:
            seen = watch and (lambda k, j, ids: watch(indices[k], j, ids))
            each = {"contexts": [contexts[i] for i in indices], "begun": [begun[i] for i in indices]}
            for places, sampled in in_parts(self.lm, "sample", each, bar, n=n, protocol=protocol, seed=seed, watch=seen):
                yield places, [[_to_json(y) for y in ys] for ys in sampled]

        items = [[c, list(b.token_ids)] if b.token_ids else c for c, b in zip(contexts, begun, strict=True)]
        with counted(f"sampling with {self.lm.name}", len(contexts), progress) as bar:
            values = self.store.compute("sample", inputs, items, run, bar, _at_a_time(self.lm), self.meter)
        return [[_from_json(y, c, self.identity) for y in ys] for c, ys in zip(contexts, values, strict=True)]

    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """The model's `logprobs`, with results read from the store where possible."""

        def compute(contexts: list[str], responses: list[Sequence[Response]]) -> list[list[np.ndarray]]:
            def run(indices: list[int]) -> Iterator[tuple[Sequence[int], list]]:
                each = {"contexts": [contexts[i] for i in indices], "responses": [responses[i] for i in indices]}
                for places, logps in in_parts(self.lm, "logprobs", each, bar, rescore=True):
                    yield places, [[_floats(values) for values in ys] for ys in logps]

            items = [[c, [list(y.token_ids) for y in ys]] for c, ys in zip(contexts, responses, strict=True)]
            with counted(f"scoring with {self.lm.name}", len(items), progress) as bar:
                scored = self.store.compute("score", self._weights, items, run, bar, _at_a_time(self.lm), self.meter)
            return [[_array(values) for values in ys] for ys in scored]

        return unless_sampled(self, contexts, responses, rescore, compute)

    def twin(self) -> "StoredLM":
        """The model's twin with a connection of its own to the store, which has one call at a time on each."""
        twin = self.lm.twin()
        return self if twin is self.lm else StoredLM(twin, Store(self.store.path.parent))

    def absorb(self, twin: "StoredLM") -> None:
        """Add the account of a twin to this one."""
        self.lm.absorb(twin.lm)
        self.meter.used |= twin.meter.used

    def cost(self) -> dict[str, object]:
        """The cost of computing all results returned so far, including those that other runs computed."""
        return self.meter.total()


def _to_json(y: Response) -> dict:
    logps = None if y.logps is None else _floats(y.logps)
    return {"text": y.text, "token_ids": y.token_ids, "finish": y.finish, "logps": logps}


def _from_json(y: dict, context: str, sampled_by: str) -> Response:
    origin = {} if y["logps"] is None else {"context": context, "logps": _array(y["logps"]), "sampled_by": sampled_by}
    return Response(y["text"], tuple(y["token_ids"]), y["finish"], **origin)


def _floats(values: np.ndarray) -> str:
    """float32 values as little-endian base64, which is a quarter of the size of decimal digits and faster to read."""
    return b64encode(values.astype("<f4").tobytes()).decode()


def _array(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), "<f4")


class StoredEmbedder:
    """A sentence encoder whose vectors are kept: those of a few texts in a store, those of many in files beside it.

    A store's file would be slow to read as a whole, and many texts would fill the memory; see `vectors`.
    """

    def __init__(self, embed: Embedder, store: Store):
        self.embed = embed
        self.store = store
        self._inputs = {"encoder": self.fingerprint}
        self._few = Remembered(self._new)
        self._many = VectorFiles(folder_of_encoder(store.path.parent, self.fingerprint))
        self._turn = RLock()

    def __getattr__(self, name: str):
        return getattr(vars(self)["embed"], name)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (n_texts, dim). The encoder is loaded only if a vector is missing."""
        with self._turn:
            rows = self._kept(texts)
            few, many = np.flatnonzero(rows < 0), np.flatnonzero(rows >= 0)
            if not len(many):
                return self._few(texts)
            found = self._many.read(rows[many])
            if not len(few):
                return found
            both = np.concatenate([found, self._few([texts[i] for i in few])])
            return both[np.argsort(np.concatenate([many, few]))]

    def keep(self, texts: Sequence[str]) -> None:
        """Compute the vectors that are missing, all at once, and say how long many of them take."""
        with self._turn:
            self._kept(texts)

    def _kept(self, texts: Sequence[str]) -> np.ndarray:
        """The rows of the texts in the files, to which many new texts are added; -1 for those that the store has or gets."""
        rows = self._many.rows(texts)
        new = [t for t in dict.fromkeys(texts[i] for i in np.flatnonzero(rows < 0)) if t not in self._few]
        if len(new) >= MANY:
            new = [new[i] for i in self.store.missing("embed", self._inputs, new)]
        if len(new) < MANY:
            self._few.keep(new)
            return rows
        self._many.add(new, self.embed.vectors)
        self.embed.warn_of_cut(new)
        return self._many.rows(texts)

    def cut_note(self, texts: Sequence[str]) -> str:
        """The encoder's `cut_note`, with counts of earlier runs."""
        return self.embed.cut_note(texts, lambda distinct: sum(_by_part(self.store, "cut", self._inputs, distinct, self.n_cut)))

    def _new(self, texts: Sequence[str]) -> np.ndarray:
        def run(indices: list[int]) -> Iterator[tuple[Sequence[int], list]]:
            for places, vectors in in_parts(self.embed, "vectors", {"texts": [texts[i] for i in indices]}):
                yield places, [_floats(v) for v in vectors]

        vectors = self.store.compute("embed", self._inputs, texts, run, chunk=_at_a_time(self.embed))
        self.embed.warn_of_cut(texts)
        return np.stack([_array(v) for v in vectors])


class StoredReward:
    """A reward that caches its scores in a store."""

    def __init__(self, reward, store: Store):
        self.reward, self.store = reward, store
        self.name, self.note, self.fingerprint = reward.name, reward.note, reward.fingerprint

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """The reward's `score`, with results read from the store where possible."""
        items = [[x, y] for x, y in zip(prompts, responses, strict=True)]

        def run(indices: list[int]) -> Iterator[tuple[Sequence[int], list]]:
            each = {"prompts": [prompts[i] for i in indices], "responses": [responses[i] for i in indices]}
            for places, scores in in_parts(self.reward, "score", each):
                yield places, scores.tolist()

        chunk = _at_a_time(self.reward)
        return np.array(self.store.compute("reward", {"reward": self.fingerprint}, items, run, chunk=chunk), float)
