"""Reward models: `score(prompts, responses)` gives one number a response, higher is better.

`load_reward(name)`: the sandbox's true reward, any sequence classifier with one output (the paper's RM_test is of this kind),
or a small Bradley-Terry head on sentence embeddings for real text without a network. A teacher LM and the nearness to
annotated responses can serve as rewards too. Each carries a `note` on its worth.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Protocol as Interface

import numpy as np
import pandas as pd

from ..algorithm import ORIGIN
from ..common.errors import InputError
from ..common.files import digest
from ..data.preferences import Preference, load_preferences
from ..engine.packing import right_pad, token_batches
from ..models.checkpoints import fingerprint, load_checkpoint
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..protocol import RECOMMENDED, Protocol
from ..retrieval.retrievers import SBERTRetriever
from ..scoring import is_empty
from ..templates import base_context


class Reward(Interface):
    """What the rest of the workbook asks of a reward."""

    name: str
    note: str
    fingerprint: str  # what tells it from any other: its scores depend on it and the texts only

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Rewards, shape (n,), higher is better."""


def load_reward(name: str, embed: Embedder | None = None) -> Reward:
    """`sandbox` (the true reward), `pocket` (head on embeddings), `sandbox-reward`, or a classifier's folder or hub id."""
    if name == "sandbox":
        return SandboxReward()
    if name == "pocket":
        return EmbeddingReward(load_preferences("pocket").support, embed or Embedder())
    return RewardModel(name)


class SandboxReward:
    """The true reward of the sandbox: points for what a response says, by the rules of `sandbox.reward.RULES`."""

    name = "sandbox"
    note = (
        "The reward is the true one of the sandbox: points for what a response says, by fixed rules. It is exact, and nothing "
        "that samples or selects has seen it."
    )

    @property
    def fingerprint(self) -> str:
        """A digest of the files that hold its rules, and the sentences, topics and helpers that they name."""
        folder = Path(__file__).parents[1] / "sandbox"
        files = [
            folder / name for name in ("reward.py", "phrases.py", "prompts.py", "topics.py", "world.py", "data/topics.txt")
        ]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Points, shape (n,)."""
        from ..sandbox.reward import true_reward

        return np.array([true_reward(x, y) for x, y in zip(prompts, responses, strict=True)])


class RewardModel:
    """A sequence classifier with one output, read on `prompt`, `Assistant: response`; long dialogues lose their beginning.

    OpenAssistant's Pythia models, the paper's RM_test among them, read the dialogue in their own format; see `oasst.py`.
    """

    def __init__(self, name: str, batch_tokens: int = 16384, max_length: int = 1024):
        self.model, self.tokenizer, self.name, revision = load_checkpoint(name, task="SequenceClassification")
        if self.model.config.num_labels != 1:
            n = self.model.config.num_labels
            raise InputError(f"reward model {name!r} has {n} outputs, but must have one; take one that gives a reward")
        self.note = f"The reward is the learned model {name}."
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or max_length
        self.batch_tokens, self.max_length = batch_tokens, min(max_length, window, self.tokenizer.model_max_length)
        self.fingerprint = f"{fingerprint(self.model.name_or_path, revision)} {self.max_length} {self.model.dtype}"
        if self.model.config.pad_token_id is None:  # it tells the classifier where each text ends
            self.model.config.pad_token_id = self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Logits, shape (n,)."""
        import torch

        dialogue = getattr(self.model, "dialogue", "{}\n\nAssistant: {}".format)
        texts = [dialogue(x, y) for x, y in zip(prompts, responses, strict=True)]
        ids = [self.tokenizer(t)["input_ids"][-self.max_length :] for t in texts]
        out = np.zeros(len(ids))
        for batch in token_batches([len(x) for x in ids], self.batch_tokens):
            padded = right_pad([ids[i] for i in batch], self.model.config.pad_token_id, self.model.device)
            mask = right_pad([[1] * len(ids[i]) for i in batch], 0, self.model.device)
            with torch.inference_mode():
                out[batch] = self.model(input_ids=padded, attention_mask=mask).logits[:, 0].float().cpu().numpy()
        if not np.isfinite(out).all():
            worst = texts[int(np.flatnonzero(~np.isfinite(out))[0])].rpartition("Human:")[2].strip()
            raise InputError(f"reward model {self.name!r} gives no finite reward for {worst[:60]!r}; its weights are damaged")
        return out


class EmbeddingReward:
    """A linear Bradley-Terry reward on the embedding of the last human turn with the response.

    Fitted on chosen/rejected pairs: P(chosen ≻ rejected) = σ(r(chosen) - r(rejected)), with an L2 penalty. It knows the tone
    and subject of an answer, little of its truth, and nothing about texts unlike its pairs.
    """

    name = "pocket"

    def __init__(self, pairs: Sequence[Preference], embed: Embedder):
        from sklearn.linear_model import LogisticRegression

        if len(pairs) < 2:
            raise InputError(f"the reward head needs at least 2 preference pairs to be fitted, but has {len(pairs)}")
        self.embed = embed
        self.fingerprint = f"{digest([vars(p) for p in pairs])} {embed.fingerprint}"
        self.note = (
            f"The reward is a Bradley-Terry head on sentence embeddings, fitted on {len(pairs)} training pairs of pocket. It "
            "is weak: it knows tone and subject rather than truth, and the texts of a small model are unlike the pairs it has "
            "seen, however well it orders those."
        )
        prompts = [p.prompt for p in pairs]
        gap = self._features(prompts, [p.chosen for p in pairs]) - self._features(prompts, [p.rejected for p in pairs])
        both = np.vstack([gap, -gap]), np.repeat([1, 0], len(gap))  # each pair read from both sides
        self.weights = LogisticRegression(C=1.0, fit_intercept=False).fit(*both).coef_[0]

    def _features(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        turns = (p.rpartition("Human: ")[2] for p in prompts)  # alone, so that the encoder's limit leaves room for the response
        return self.embed([f"Human: {x}\n\nAssistant: {y}" for x, y in zip(turns, responses, strict=True)])

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Rewards, shape (n,), in logits: a difference of 1 is odds of e to 1 that the higher one is preferred."""
        return self._features(prompts, responses) @ self.weights if len(responses) else np.zeros(0)


class TeacherReward:
    """A teacher LM's mean log-probability per token of the response, given the prompt; nats per token, empty texts -inf.

    As GPTScore (arXiv:2302.04166) and the paper's RM-BoN. Texts are read with the teacher's own tokens. Several threads may ask
    one teacher; it answers them one after another.
    """

    def __init__(self, teacher: LanguageModel, protocol: Protocol = RECOMMENDED):
        self.teacher, self.protocol, self.name, self._turn = teacher, protocol, teacher.name, Lock()
        self.fingerprint = f"{teacher.fingerprint} {digest(protocol.settings())}"
        self.note = f"The reward is the mean log-probability under the teacher LM {teacher.name}."

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Mean log-probabilities, shape (n,)."""
        at: dict[str, list[int]] = {}  # a context is computed once for all its responses
        for i, x in enumerate(prompts):
            at.setdefault(base_context(x, self.protocol), []).append(i)
        with self._turn:
            given = [[self.teacher.encode_response(responses[i], self.protocol) for i in rows] for rows in at.values()]
            found = self.teacher.logprobs(list(at), given)
        means, empty = np.full(len(responses), -np.inf), is_empty(responses)
        for i, values in zip(chain(*at.values()), chain(*found), strict=True):
            means[i] = -np.inf if empty[i] else values.mean(dtype=float)  # an EOS that the protocol adds is no response
        return means


class NeighbourReward:
    """How much nearer a response is to good answers than to bad ones, by annotated pairs and sentence embeddings.

    Mean cosine to the chosen responses of the k annotated prompts nearest to the response's own, minus that to their rejected.
    """

    name = "neighbours"

    def __init__(self, pairs: Sequence[Preference], embed: Embedder, k: int = 5):
        self.retriever, self.embed, self.k = SBERTRetriever(pairs, embed), embed, k
        self.fingerprint = f"{digest([vars(p) for p in pairs])} {embed.fingerprint} {k}"
        self.note = f"The reward is the nearness to the chosen responses of {k} similar prompts, not to their rejected ones."

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Differences of mean cosines, shape (n,)."""
        asked = list(dict.fromkeys(prompts))
        near = dict(zip(asked, self.retriever.retrieve(asked, self.k), strict=True)) if asked else {}
        annotated = [y for x in asked for d in near[x] for y in (d.chosen, d.rejected)]
        vectors = self.embed([*responses, *annotated])[: len(responses)] if asked else []  # all at once, which is fastest
        sides = [[self.embed([getattr(d, side) for d in near[x]]) for side in ("chosen", "rejected")] for x in prompts]
        return np.array([(good @ v).mean() - (bad @ v).mean() for v, (good, bad) in zip(vectors, sides, strict=True)], float)


def with_rewards(table: pd.DataFrame, **rewards: Reward) -> pd.DataFrame:
    """A candidates table with a column for each of the rewards.

    Every `ORIGIN` is scored by itself, so that what a teacher LM computes is the same whatever else the table holds.
    """
    by = [column for column in ORIGIN if column in table]
    parts = [part for _, part in table.groupby(by, sort=False)] if by else [table]
    for name, reward in rewards.items():
        scores = [pd.Series(reward.score(list(p["prompt"]), list(p["response"])), p.index, float) for p in parts]
        table = table.assign(**{name: pd.concat(scores)})
    return table


def correct_order(reward: Reward, pairs: Sequence[Preference]) -> np.ndarray:
    """For each pair 1 if the chosen response scores higher, 0.5 if both score the same, else 0. Shape (n_pairs,)."""
    prompts = [p.prompt for p in pairs]
    gap = reward.score(prompts, [p.chosen for p in pairs]) - reward.score(prompts, [p.rejected for p in pairs])
    return (np.sign(gap) + 1) / 2
