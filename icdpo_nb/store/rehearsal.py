"""A rehearsal: of the items of a call a few are computed and stand for the others, and what all would cost is noted.

In a process whose environment names a file in ICDPO_REHEARSAL, `stored` gives parts that rehearse. `reports.estimate` adds up
the notes. The numbers of a rehearsed run are those of other items, so whoever rehearses throws its store and its report away.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from .notes import write_note
from .pace import Passes
from .probes import PROBED_TEXTS, one_at_a_time, spread_indices
from .rehearsed_lm import RehearsedLM

META = torch.device("meta")  # of a model without weights


class RehearsedEmbedder:
    """A sentence encoder that embeds a few of many texts; the others get random unit vectors."""

    def __init__(self, embed):
        self.embed = embed

    def __getattr__(self, name: str):
        return getattr(vars(self)["embed"], name)

    @one_at_a_time
    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (n_texts, dim)."""
        some = spread_indices(len(texts), PROBED_TEXTS)
        self.embed.vectors(["first"])  # loads the model
        start = time.perf_counter()
        known = self.embed.vectors([texts[i] for i in some])
        took = time.perf_counter() - start
        vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), known.shape[1]), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[some] = known
        _note_texts("embedding", self.embed.name, texts, some, took)
        return vectors


class RehearsedReward:
    """A reward that scores a few of many responses; the others get the same scores."""

    def __init__(self, reward):
        self.reward = reward

    def __getattr__(self, name: str):
        return getattr(vars(self)["reward"], name)

    @one_at_a_time
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Made-up rewards, shape (n,)."""
        some = spread_indices(len(responses), PROBED_TEXTS)
        if self.reward.model.device == META:
            self._describe(prompts, responses)
            return np.random.default_rng(len(responses)).random(len(responses))
        start = time.perf_counter()
        known = self.reward.score([prompts[i] for i in some], [responses[i] for i in some])
        took = time.perf_counter() - start
        texts = [x + y for x, y in zip(prompts, responses, strict=True)]
        _note_texts("rewards", self.reward.name, texts, some, took)
        values = known[np.arange(len(responses)) % max(1, len(known))] if len(responses) else np.zeros(0)
        values[some] = known
        return values

    def _describe(self, prompts: Sequence[str], responses: Sequence[str]) -> None:
        """Note the tokens that a reward model without weights would read."""
        texts = [f"{x}\n\nAssistant: {y}" for x, y in zip(prompts, responses, strict=True)]
        lengths = [len(ids) for ids in self.reward.tokenizer(texts)["input_ids"]] if texts else [0]
        write_note(
            stage="rewards", part=self.reward.name, items=len(texts), tokens=sum(lengths), sampled=0, spent=0.0,
            work=Passes(context=sum(lengths)), longest=max(lengths), described="SequenceClassification",
        )  # fmt: skip


def _note_texts(stage: str, part: str, texts: Sequence[str], some: Sequence[int], took: float) -> None:
    share = sum(map(len, texts)) / max(1, sum(len(texts[i]) for i in some))
    write_note(stage=stage, part=part, items=len(texts), tokens=0, sampled=0, seconds=took * share, spent=took)


def rehearsed(part):
    """A language model, an encoder or a reward model that rehearses; other rewards cost nothing but their embeddings."""
    if hasattr(part, "logprobs"):
        return RehearsedLM(part)
    if hasattr(part, "vectors"):
        return RehearsedEmbedder(part)
    return RehearsedReward(part) if hasattr(part, "model") else part
