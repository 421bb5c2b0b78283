"""Rewards: `score(prompts, responses)` returns one number per response; higher is better.

`load_reward(name)` loads the true reward of the sandbox, a sequence classifier with one output (such as the paper's RM_test),
or a small Bradley-Terry head on sentence embeddings, for real text without network access. A teacher LM and the similarity to
annotated responses can also serve as rewards. Each reward has a `note` on its reliability.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
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
from ..engine.invariance import up
from ..engine.packing import BAND, equal_batches, right_pad
from ..engine.turns import enter
from ..models.checkpoints import fingerprint, load_checkpoint
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..models.replicas import ReplicatedReward, load_encoder
from ..models.workers import workers
from ..protocol import RECOMMENDED, Protocol
from ..retrieval.retrievers import SBERTRetriever
from ..scoring import is_empty
from ..templates import base_context


class Reward(Interface):
    """The interface of a reward."""

    name: str
    note: str
    fingerprint: str  # together with the texts, it determines the scores

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Rewards, shape (n,), higher is better."""


def load_reward(name: str, embed: Embedder | None = None) -> Reward:
    """Load `sandbox` (true reward), `pocket` (head on embeddings), `sandbox-reward`, or a classifier by folder or hub id."""
    if name == "sandbox":
        return SandboxReward()
    if name == "pocket":
        return EmbeddingReward(load_preferences("pocket").support, embed or load_encoder())
    crew = workers()
    return ReplicatedReward(partial(RewardModel, name), name, crew) if crew else RewardModel(name)


class SandboxReward:
    """The true reward of the sandbox: points for the content of a response, by the rules of `sandbox.reward.RULES`."""

    name = "sandbox"
    note = (
        "The reward is the true reward of the sandbox: points for the content of a response, by fixed rules. It is exact, and "
        "it is not used for sampling or selection."
    )

    @property
    def fingerprint(self) -> str:
        """A digest of the files that contain the rules and the sentences, topics and helpers they refer to."""
        folder = Path(__file__).parents[1] / "sandbox"
        names = ("reward.py", "phrases.py", "prompts.py", "topics.py", "world.py", "data/topics.txt")
        return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Points, shape (n,)."""
        from ..sandbox.reward import true_reward

        return np.array([true_reward(x, y) for x, y in zip(prompts, responses, strict=True)])


class RewardModel:
    """A sequence classifier with one output, applied to the prompt followed by "Assistant: response".

    Long dialogues are truncated at the beginning. OpenAssistant's Pythia models, which include the paper's RM_test, use their
    own dialogue format; see `oasst.py`.
    """

    def __init__(self, name: str, batch_tokens: int = 16384, max_length: int = 1024):
        self.model, self.tokenizer, self.name, revision = load_checkpoint(name, task="SequenceClassification")
        if self.model.config.num_labels != 1:
            n = self.model.config.num_labels
            raise InputError(f"reward model {name!r} has {n} outputs, but must have one; choose a model with a scalar reward")
        self.note, self.device = f"The reward is the learned model {name}.", self.model.device
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or max_length
        self.batch_tokens, self.max_length = batch_tokens, min(max_length, window, self.tokenizer.model_max_length)
        self.fingerprint = f"{fingerprint(self.model.name_or_path, revision)} {self.max_length} {self.model.dtype}"
        if self.model.config.pad_token_id is None:  # the classifier needs it to find the end of each text
            self.model.config.pad_token_id = self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Logits, shape (n,)."""
        import torch

        dialogue = getattr(self.model, "dialogue", "{}\n\nAssistant: {}".format)
        texts = [dialogue(x, y) for x, y in zip(prompts, responses, strict=True)]
        ids = [self.tokenizer(t)["input_ids"][-self.max_length :] for t in texts]
        out = np.zeros(len(ids))
        enter(self.model, self.device)
        for batch in equal_batches([len(x) for x in ids], self.batch_tokens):
            width = up(len(ids[batch[0]]), BAND)
            padded = right_pad([ids[i] for i in batch], self.model.config.pad_token_id, self.model.device, width)
            mask = right_pad([[1] * len(ids[i]) for i in batch], 0, self.model.device, width)
            with torch.inference_mode():
                out[batch] = self.model(input_ids=padded, attention_mask=mask).logits[:, 0].float().cpu().numpy()
        if not np.isfinite(out).all():
            worst = texts[int(np.flatnonzero(~np.isfinite(out))[0])].rpartition("Human:")[2].strip()
            raise InputError(f"reward model {self.name!r} gives no finite reward for {worst[:60]!r}; its weights are damaged")
        return out


class EmbeddingReward:
    """A linear Bradley-Terry reward on the embedding of the last human turn and the response.

    It is fitted on preference pairs with an L2 penalty: P(chosen ≻ rejected) = σ(r(chosen) - r(rejected)). It captures the tone
    and subject of a response, hardly its correctness, and does not generalise to texts unlike its training pairs.
    """

    name = "pocket"

    def __init__(self, pairs: Sequence[Preference], embed: Embedder):
        from sklearn.linear_model import LogisticRegression

        if len(pairs) < 2:
            raise InputError(f"the reward head needs at least 2 preference pairs for fitting, but has {len(pairs)}")
        self.embed = embed
        self.fingerprint = f"{digest([vars(p) for p in pairs])} {embed.fingerprint}"
        self.note = (
            f"The reward is a Bradley-Terry head on sentence embeddings, fitted on {len(pairs)} training pairs of pocket. It "
            "is weak: it captures tone and subject rather than correctness, and the responses of a small model are unlike the "
            "pairs on which it was fitted, however well it orders those."
        )
        prompts = [p.prompt for p in pairs]
        gap = self._features(prompts, [p.chosen for p in pairs]) - self._features(prompts, [p.rejected for p in pairs])
        features, labels = np.vstack([gap, -gap]), np.repeat([1, 0], len(gap))  # each pair in both directions
        self.weights = LogisticRegression(C=1.0, fit_intercept=False).fit(features, labels).coef_[0]

    def _features(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        turns = (p.rpartition("Human: ")[2] for p in prompts)  # the last turn only, so that the response fits the encoder
        return self.embed([f"Human: {x}\n\nAssistant: {y}" for x, y in zip(turns, responses, strict=True)])

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Rewards in logits, shape (n,). A difference of 1 means odds of e to 1 in favour of the higher reward."""
        return self._features(prompts, responses) @ self.weights if len(responses) else np.zeros(0)


class TeacherReward:
    """The mean log-probability per token of the response under a teacher LM, given the prompt, in nats; -inf if it is empty.

    This is the score of GPTScore (arXiv:2302.04166) and of the paper's RM-BoN. It uses the teacher's tokenizer. Calls from
    several threads are processed one at a time.
    """

    def __init__(self, teacher: LanguageModel, protocol: Protocol = RECOMMENDED):
        self.teacher = teacher
        self.protocol = protocol
        self.name = teacher.name
        self._lock = Lock()
        self.fingerprint = f"{teacher.fingerprint} {digest(protocol.key())}"
        self.note = f"The reward is the mean log-probability under the teacher LM {teacher.name}."

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Mean log-probabilities, shape (n,)."""
        at: dict[str, list[int]] = {}  # context -> its rows, so that each context is encoded once
        for i, x in enumerate(prompts):
            at.setdefault(base_context(x, self.protocol, self.teacher.render), []).append(i)
        with self._lock:
            encoded = [[self.teacher.encode_response(responses[i], self.protocol) for i in rows] for rows in at.values()]
            logps = self.teacher.logprobs(list(at), encoded)
        means, empty = np.full(len(responses), -np.inf), is_empty(responses)
        for i, values in zip(chain(*at.values()), chain(*logps), strict=True):
            means[i] = -np.inf if empty[i] else values.mean(dtype=float)  # EOS alone does not count as a response
        return means


class NeighbourReward:
    """The similarity of a response to annotated good responses, relative to bad ones, by sentence embeddings.

    The reward is the mean cosine to the chosen responses of the k annotated prompts most similar to the prompt, minus the mean
    cosine to their rejected responses.
    """

    name = "neighbours"

    def __init__(self, pairs: Sequence[Preference], embed: Embedder, k: int = 5):
        self.retriever = SBERTRetriever(pairs, embed)
        self.embed = embed
        self.k = k
        self.fingerprint = f"{digest([vars(p) for p in pairs])} {embed.fingerprint} {k}"
        self.note = f"The reward is the similarity to the chosen, minus that to the rejected responses of {k} similar prompts."

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Differences of mean cosines, shape (n,)."""
        asked = list(dict.fromkeys(prompts))
        near = dict(zip(asked, self.retriever.retrieve(asked, self.k), strict=True)) if asked else {}
        annotated = [y for x in asked for d in near[x] for y in (d.chosen, d.rejected)]
        vectors = self.embed([*responses, *annotated])[: len(responses)] if asked else []  # a single batch is fastest
        rewards = np.zeros(len(responses))
        for i, (x, v) in enumerate(zip(prompts, vectors, strict=True)):
            chosen, rejected = self.embed([d.chosen for d in near[x]]), self.embed([d.rejected for d in near[x]])
            rewards[i] = (chosen @ v).mean() - (rejected @ v).mean()
        return rewards


def with_rewards(table: pd.DataFrame, **rewards: Reward) -> pd.DataFrame:
    """Add a column for each reward to a candidates table.

    Each `ORIGIN` is scored separately, so that the computations of a teacher LM do not depend on the other rows.
    """
    by = [column for column in ORIGIN if column in table]
    parts = [part for _, part in table.groupby(by, sort=False)] if by else [table]
    for name, reward in rewards.items():
        scores = [pd.Series(reward.score(list(p["prompt"]), list(p["response"])), p.index, float) for p in parts]
        table = table.assign(**{name: pd.concat(scores)})
    return table


def correct_order(reward: Reward, pairs: Sequence[Preference]) -> np.ndarray:
    """1 for each pair whose chosen response scores higher, 0.5 for ties, 0 otherwise; shape (n_pairs,)."""
    prompts = [p.prompt for p in pairs]
    gap = reward.score(prompts, [p.chosen for p in pairs]) - reward.score(prompts, [p.rejected for p in pairs])
    return (np.sign(gap) + 1) / 2
