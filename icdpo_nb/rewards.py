"""Reward models: `score(prompts, responses)` gives one number a response, higher is better.

For now one: a small Bradley-Terry head on sentence embeddings, for work without a network. It stands in for the paper's
RM_test (oasst-rm-2-pythia-6.9b) and is weak; reports print its held-out accuracy beside every use.
"""

from collections.abc import Sequence

import numpy as np

from .data import Preference
from .protocol import InputError
from .retrieval import Embedder


class EmbeddingReward:
    """A linear Bradley-Terry reward on the embedding of the last human turn with the response.

    Fitted on chosen/rejected pairs: P(chosen ≻ rejected) = σ(r(chosen) - r(rejected)), with an L2 penalty. It knows the tone
    and subject of an answer, little of its truth, and nothing about texts unlike its pairs.
    """

    def __init__(self, pairs: Sequence[Preference], embed: Embedder):
        from sklearn.linear_model import LogisticRegression

        if len(pairs) < 2:
            raise InputError(f"the reward head needs at least 2 preference pairs to be fitted, but has {len(pairs)}")
        self.embed, self.n_pairs = embed, len(pairs)
        prompts = [p.prompt for p in pairs]
        gap = self._features(prompts, [p.chosen for p in pairs]) - self._features(prompts, [p.rejected for p in pairs])
        both = np.vstack([gap, -gap]), np.repeat([1, 0], len(gap))  # each pair read from both sides
        self.weights = LogisticRegression(C=1.0, fit_intercept=False).fit(*both).coef_[0]

    def _features(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        turns = (p.rpartition("Human: ")[2] for p in prompts)  # the last turn alone: encoders cut long texts at the end
        return self.embed([f"Human: {x}\n\nAssistant: {y}" for x, y in zip(turns, responses, strict=True)])

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Rewards, shape (n,), in logits: a difference of 1 is odds of e to 1 that the higher one is preferred."""
        return self._features(prompts, responses) @ self.weights if len(responses) else np.zeros(0)

    def correct(self, pairs: Sequence[Preference]) -> np.ndarray:
        """For each pair 1 if the chosen response scores higher, 0.5 if both score the same, else 0. Shape (n_pairs,)."""
        prompts = [p.prompt for p in pairs]
        gap = self.score(prompts, [p.chosen for p in pairs]) - self.score(prompts, [p.rejected for p in pairs])
        return (np.sign(gap) + 1) / 2
