"""Parts of the work whose results the store keeps: a language model, an encoder, a retriever, a reward. Each is as the part
itself, but looks first for what was computed before.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from .data import Preference
from .engine import NO_BAR, Engine
from .lm import CausalLM, Response
from .protocol import Protocol
from .retrieval import Embedder, Retriever
from .store import Store, digest

T = TypeVar("T")


def stored(part: T, wanted: bool = True) -> T:
    """A language model, a sentence encoder or a reward with a store behind it, or as it is."""
    kind = StoredLM if isinstance(part, CausalLM) else StoredEmbedder if isinstance(part, Embedder) else StoredReward
    return kind(part, Store()) if wanted else part


class StoredLM(CausalLM):
    """A `CausalLM` whose samples and log-probabilities are kept in a store; everything else it shares with the model."""

    def __init__(self, lm: CausalLM, store: Store):
        vars(self).update(vars(lm))
        self.store = store
        self.identity = {"model": lm.fingerprint, "dtype": lm.dtype, "device": lm.device.partition(":")[0]}

    def _sample(
        self, contexts: Sequence[str], n: int, protocol: Protocol, seed: int, progress: Callable, begun: Sequence[Response]
    ) -> list[list[Response]]:
        relevant = ("top_p", "top_k", "temperature", "max_new_tokens", "stop", "scored_tokens", "eos_scored")
        inputs = {**self.identity, "n": n, "seed": seed, **{name: getattr(protocol, name) for name in relevant}}

        def run(indices: list[int]) -> list:
            of, from_ = [contexts[i] for i in indices], [begun[i] for i in indices]
            sampled = super(StoredLM, self)._sample(of, n, protocol, seed, NO_BAR, from_)
            return [[_packed(y) for y in ys] for ys in sampled]

        items = [[c, list(b.token_ids)] if b.token_ids else c for c, b in zip(contexts, begun, strict=True)]
        with progress(total=len(contexts)) as bar:
            found = self.store.compute("sample", inputs, items, run, bar)
        return [[_unpacked(y, c, self.engine) for y in ys] for c, ys in zip(contexts, found, strict=True)]

    def _score(
        self, contexts: Sequence[str], responses: Sequence[Sequence[Response]], progress: Callable
    ) -> list[list[np.ndarray]]:
        def run(indices: list[int]) -> list:
            found = super(StoredLM, self)._score([contexts[i] for i in indices], [responses[i] for i in indices], NO_BAR)
            return [[_floats(values) for values in ys] for ys in found]

        items = [[c, [list(y.token_ids) for y in ys]] for c, ys in zip(contexts, responses, strict=True)]
        with progress(total=len(items)) as bar:
            scored = self.store.compute("score", self.identity, items, run, bar)
        return [[_array(values) for values in ys] for ys in scored]


def _packed(y: Response) -> dict:
    logps = None if y.logps is None else _floats(y.logps)
    return {"text": y.text, "token_ids": y.token_ids, "finish": y.finish, "logps": logps}


def _unpacked(y: dict, context: str, engine: Engine) -> Response:
    sampled = {} if y["logps"] is None else {"context": context, "logps": _array(y["logps"]), "engine": engine}
    return Response(y["text"], tuple(y["token_ids"]), y["finish"], **sampled)


def _floats(values: np.ndarray) -> str:
    """float32 as base64, little-endian: a quarter of the digits, and read at once."""
    return b64encode(values.astype("<f4").tobytes()).decode()


def _array(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), "<f4")


class StoredEmbedder(Embedder):
    """An `Embedder` whose vectors are kept in a store."""

    def __init__(self, embed: Embedder, store: Store):
        vars(self).update(vars(embed))
        self.store = store

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """As the encoder's own, which is loaded only if one is missing."""

        def run(indices: list[int]) -> list:
            return [_floats(v) for v in super(StoredEmbedder, self).vectors([texts[i] for i in indices])]

        found = self.store.compute("embed", {"encoder": self.fingerprint}, texts, run)
        return np.stack([_array(v) for v in found])


class StoredRetriever:
    """A retriever whose finds are kept in a store."""

    def __init__(self, retriever: Retriever, store: Store):
        self.retriever, self.store, self.support = retriever, store, retriever.support
        self.identity = {**retriever.identity, "support": digest([vars(p) for p in retriever.support])}

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """As the retriever itself."""
        number = {id(p): i for i, p in enumerate(self.support)}

        def run(indices: list[int]) -> list:
            found = self.retriever.retrieve([prompts[i] for i in indices], k)
            return [[number[id(p)] for p in row] for row in found]

        return [
            [self.support[i] for i in row] for row in self.store.compute("retrieve", {**self.identity, "k": k}, prompts, run)
        ]


class StoredReward:
    """A reward whose scores are kept in a store; its name, note and fingerprint are the reward's own."""

    def __init__(self, reward, store: Store):
        self.reward, self.store = reward, store
        self.name, self.note, self.fingerprint = reward.name, reward.note, reward.fingerprint

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """As the reward itself."""
        items = [[x, y] for x, y in zip(prompts, responses, strict=True)]

        def run(indices: list[int]) -> list:
            return self.reward.score([prompts[i] for i in indices], [responses[i] for i in indices]).tolist()

        return np.array(self.store.compute("reward", {"reward": self.fingerprint}, items, run), float)
