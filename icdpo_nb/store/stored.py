"""Parts of the work with a store behind them: a language model, an encoder, a reward.

Each wraps a part, looks first for what was computed before, and leaves everything else to the part itself. A language model
also knows what all the results that it gave cost to compute.
"""

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ..models.encoder import Embedder, Remembered
from ..models.interface import NO_BAR, SECONDS, TOKENS, LanguageModel, machine, unless_sampled
from ..models.tokens import EMPTY, Response
from ..protocol import RECOMMENDED, Protocol
from .store import Store

T = TypeVar("T")


def stored(part: T, wanted: bool = True, store: Store | None = None) -> T:
    """A language model, a sentence encoder or a reward with a store behind it; as it is where none is `wanted`."""
    kinds = {"logprobs": StoredLM, "vectors": StoredEmbedder, "score": StoredReward}
    kind = next((kinds[method] for method in kinds if hasattr(part, method)), None)
    if kind is None:
        raise TypeError(f"a {type(part).__name__} gives nothing that a store keeps")
    return kind(part, store or Store()) if wanted else part


class Meter:
    """Measures what the results of a language model cost, for a store; and adds up what all those cost that were used.

    Two models that run side by side have meters of their own. Each result counts once, however often it is used.
    """

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.used: dict[tuple[str, str], dict | None] = {}  # the cost of each result; None where none was kept with it

    def start(self) -> None:
        """Note where the model's counts stand; what it computes to get ready is no result's cost."""
        self.lm.prepare()
        self.before = self.lm.work()

    def spent(self) -> dict:
        """What the model has computed since; and where, with the most bytes it held at a time."""
        now, where = self.lm.work(), {"machine": machine(self.lm.device), "peak": self.lm.cost()["peak"]}
        return {kind: now[kind] - self.before[kind] for kind in now} | {"where": where}

    def total(self) -> dict:
        """The sum over all results used, as `interface.LanguageModel.cost`."""
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


class StoredLM:
    """A `LanguageModel` whose samples and log-probabilities are kept in a store; everything else is the model's own."""

    def __init__(self, lm: LanguageModel, store: Store):
        self.lm, self.store, self.meter = lm, store, Meter(lm)
        self._weights = {"model": lm.fingerprint, "dtype": lm.dtype, "device": lm.device.partition(":")[0]}

    def __getattr__(self, name: str):
        return getattr(vars(self)["lm"], name)

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        protocol: Protocol = RECOMMENDED,
        seed: int = 0,
        progress: Callable = NO_BAR,
        begun: Sequence[Response] | None = None,
    ) -> list[list[Response]]:
        """As the model's own; it computes what the store lacks."""
        relevant = ("top_p", "top_k", "temperature", "max_new_tokens", "stop", "scored_tokens", "eos_scored")
        inputs = {**self._weights, "n": n, "seed": seed, **{name: getattr(protocol, name) for name in relevant}}
        begun = begun or [EMPTY] * len(contexts)

        def run(indices: list[int]) -> list:
            of, from_ = [contexts[i] for i in indices], [begun[i] for i in indices]
            return [[_packed(y) for y in ys] for ys in self.lm.sample(of, n, protocol, seed, begun=from_)]

        items = [[c, list(b.token_ids)] if b.token_ids else c for c, b in zip(contexts, begun, strict=True)]
        with progress(total=len(contexts)) as bar:
            found = self.store.compute("sample", inputs, items, run, bar, meter=self.meter)
        return [[_unpacked(y, c, self.identity) for y in ys] for c, ys in zip(contexts, found, strict=True)]

    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """As the model's own; it computes what the store lacks."""

        def compute(contexts: list[str], responses: list[Sequence[Response]]) -> list[list[np.ndarray]]:
            def run(indices: list[int]) -> list:
                found = self.lm.logprobs([contexts[i] for i in indices], [responses[i] for i in indices], rescore=True)
                return [[_floats(values) for values in ys] for ys in found]

            items = [[c, [list(y.token_ids) for y in ys]] for c, ys in zip(contexts, responses, strict=True)]
            with progress(total=len(items)) as bar:
                scored = self.store.compute("score", self._weights, items, run, bar, meter=self.meter)
            return [[_array(values) for values in ys] for ys in scored]

        return unless_sampled(self, contexts, responses, rescore, compute)

    def cost(self) -> dict[str, object]:
        """What all that it gave cost when it was computed, by whichever run."""
        return self.meter.total()


def _packed(y: Response) -> dict:
    logps = None if y.logps is None else _floats(y.logps)
    return {"text": y.text, "token_ids": y.token_ids, "finish": y.finish, "logps": logps}


def _unpacked(y: dict, context: str, sampled_by: str) -> Response:
    sampled = {} if y["logps"] is None else {"context": context, "logps": _array(y["logps"]), "sampled_by": sampled_by}
    return Response(y["text"], tuple(y["token_ids"]), y["finish"], **sampled)


def _floats(values: np.ndarray) -> str:
    """float32 as base64, little-endian: a quarter of the digits, and read at once."""
    return b64encode(values.astype("<f4").tobytes()).decode()


def _array(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), "<f4")


class StoredEmbedder:
    """A sentence encoder whose vectors are kept in a store; everything else is the encoder's own."""

    def __init__(self, embed: Embedder, store: Store):
        self.embed, self.store, self._remembered = embed, store, Remembered(self._found)

    def __getattr__(self, name: str):
        return getattr(vars(self)["embed"], name)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (n_texts, dim); the encoder is loaded only if one is missing."""
        return self._remembered(texts)

    def _found(self, texts: Sequence[str]) -> np.ndarray:
        def run(indices: list[int]) -> list:
            return [_floats(v) for v in self.embed.vectors([texts[i] for i in indices])]

        found = self.store.compute("embed", {"encoder": self.fingerprint}, texts, run)
        self.embed.warn_of_cut(texts)
        return np.stack([_array(v) for v in found])


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
