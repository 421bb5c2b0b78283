"""Parts of the work whose results the store keeps: a language model, an encoder, a retriever, a reward. Each is as the part
itself, but looks first for what was computed before. A language model also knows what all that it gave cost to compute.
"""

import os
import platform
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ..common.files import digest
from ..data.preferences import Preference
from ..engine.engine import NO_BAR, Engine
from ..models.encoder import Embedder
from ..models.lm import CausalLM, Response
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever
from .store import Store

T = TypeVar("T")
TOKENS = ("prefill", "decode", "scored", "published")  # through the model, by kind; and those of the published procedure
SECONDS = ("sampling", "scoring")


def stored(part: T, wanted: bool = True) -> T:
    """A language model, a sentence encoder or a reward with a store behind it, or as it is."""
    kind = StoredLM if isinstance(part, CausalLM) else StoredEmbedder if isinstance(part, Embedder) else StoredReward
    return kind(part, Store()) if wanted else part


def work_of(engine: Engine) -> dict[str, float]:
    """What an engine has computed so far: tokens by kind, and seconds of the clock by stage."""
    return {**{kind: engine.work[kind] for kind in TOKENS}, **{stage: engine.seconds[stage] for stage in SECONDS}}


def machine(device: str) -> str:
    """Where something is computed: the processor's name and cores, or the GPU's name; and torch's version."""
    gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if gpu else f"{_processor()}, {os.cpu_count()} cores"
    return f"{name}, torch {version('torch')}"


def _processor() -> str:
    """The processor's name; Linux tells it in a file alone."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return " ".join(names[0].partition(":")[2].split()) if names else platform.processor() or platform.machine()


class EngineMeter:
    """Measures what the results of an engine cost, for a store; and adds up what all those cost that were used.

    Two models that run side by side have engines, and meters, of their own. Each result counts once, however often it is used.
    """

    def __init__(self, engine: Engine, device: str):
        self.engine, self.device = engine, device
        self.used: dict[tuple[str, str], dict | None] = {}  # the cost of each result; None where none was kept with it

    def start(self) -> None:
        """Note where the engine's counts stand; what it computes to get ready is no result's cost."""
        self.engine.begin()
        self.before = work_of(self.engine)

    def spent(self) -> dict:
        """What the engine has computed since; and where, with the most bytes it held at a time."""
        now = work_of(self.engine)
        peak = max(self.engine.peak.values(), default=0)
        return {k: now[k] - self.before[k] for k in now} | {"where": {"machine": machine(self.device), "peak": peak}}

    def total(self) -> dict:
        """The sum over all results used: as `work_of`; and their machines and peaks, how many there are, and without a cost."""
        costs = [cost for cost in self.used.values() if cost is not None]
        sums: Counter = Counter()
        for cost in costs:
            sums.update({k: cost[k] for k in (*TOKENS, *SECONDS)})
        return {
            **{kind: round(sums[kind]) for kind in TOKENS},  # shares of whole numbers
            **{stage: sums[stage] for stage in SECONDS},
            "machines": list(dict.fromkeys(cost["where"]["machine"] for cost in costs)),
            "peak": max((cost["where"]["peak"] for cost in costs), default=0),
            "results": len(self.used),
            "without cost": len(self.used) - len(costs),
        }


def cost_when_computed(lm: CausalLM) -> Mapping[str, object]:
    """What all results that a language model gave cost when they were computed, by whichever run; as `EngineMeter.total`.

    Without a store that is what it has computed itself, and results are not counted.
    """
    if isinstance(lm, StoredLM):
        return lm.meter.total()
    peak, here = max(lm.engine.peak.values(), default=0), [machine(lm.device)] if lm.engine.work else []
    return {**work_of(lm.engine), "machines": here, "peak": peak, "results": 0, "without cost": 0}


class StoredLM(CausalLM):
    """A `CausalLM` whose samples and log-probabilities are kept in a store; everything else it shares with the model."""

    def __init__(self, lm: CausalLM, store: Store):
        vars(self).update(vars(lm))
        self.store, self.meter = store, EngineMeter(lm.engine, lm.device)
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
            found = self.store.compute("sample", inputs, items, run, bar, meter=self.meter)
        return [[_unpacked(y, c, self.engine) for y in ys] for c, ys in zip(contexts, found, strict=True)]

    def _score(
        self, contexts: Sequence[str], responses: Sequence[Sequence[Response]], progress: Callable
    ) -> list[list[np.ndarray]]:
        def run(indices: list[int]) -> list:
            found = super(StoredLM, self)._score([contexts[i] for i in indices], [responses[i] for i in indices], NO_BAR)
            return [[_floats(values) for values in ys] for ys in found]

        items = [[c, [list(y.token_ids) for y in ys]] for c, ys in zip(contexts, responses, strict=True)]
        with progress(total=len(items)) as bar:
            scored = self.store.compute("score", self.identity, items, run, bar, meter=self.meter)
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
