"""Changes to what a retriever returns: without near-duplicates of the prompt, more diverse, or in a random order."""

from collections.abc import Sequence

import numpy as np

from ..data.preferences import Preference
from ..models.encoder import Embedder
from ..protocol import seed_of
from .retrievers import SBERT_STAGE, Retriever, words

NEAR = 0.9  # Jaccard similarity of two prompts' words from which on one counts as a near-duplicate of the other


def near_duplicate(a: str, b: str, limit: float = NEAR) -> bool:
    """Whether the sets of words of two prompts have a Jaccard similarity of at least `limit`.

    >>> near_duplicate("Human: How do I boil rice?", "Human: how do I boil  rice")
    True
    """
    first, second = set(words(a)), set(words(b))
    return len(first & second) >= limit * len(first | second)


class WithoutNearDuplicates:
    """A retriever whose demonstrations leave out those whose prompt is a near-duplicate of the test prompt.

    The next best ones take their place. A prompt without a near-duplicate keeps its demonstrations, also random ones.
    """

    def __init__(self, retriever: Retriever, limit: float = NEAR):
        self.retriever, self.limit, self.support = retriever, limit, retriever.support

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """k demonstrations for each prompt; fewer only if the support set has no more."""
        found = self.retriever.retrieve(prompts, k)
        return [ds if self._far(ds, x) == ds else self._others(x, k) for ds, x in zip(found, prompts, strict=True)]

    def _far(self, demos: Sequence[Preference], prompt: str) -> list[Preference]:
        return [d for d in demos if not near_duplicate(d.prompt, prompt, self.limit)]

    def _others(self, prompt: str, k: int) -> list[Preference]:
        wanted, far = k, []
        while len(far) < k and wanted <= len(self.support):
            far = self._far(self.retriever.retrieve([prompt], wanted)[0], prompt)
            wanted = max(wanted + 1, min(2 * wanted + 8, len(self.support)))
        return far[:k]


class DiverseRetriever:
    """Maximal marginal relevance (Carbonell and Goldstein 1998) over the best 20 demonstrations of a retriever.

    The next demonstration is the one with the largest (1 - weight) · cos(d, x) - weight · max cos(d, d'), over the d' that
    were taken before. With weight 0 only the similarity to the prompt x counts.
    """

    def __init__(self, retriever: Retriever, embed: Embedder, weight: float = 0.5):
        self.retriever, self.embed, self.weight, self.support = retriever, embed, weight, retriever.support

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """k demonstrations for each prompt, most similar first."""
        pools = self.retriever.retrieve(prompts, min(max(SBERT_STAGE, k), len(self.support)))
        self.embed.keep([*prompts, *(d.prompt for ds in pools for d in ds)])
        return [self._diverse(x, ds, k) for x, ds in zip(prompts, pools, strict=True)]

    def _diverse(self, prompt: str, pool: Sequence[Preference], k: int) -> list[Preference]:
        vectors = self.embed([d.prompt for d in pool])
        relevance, taken = vectors @ self.embed([prompt])[0], []
        while len(taken) < min(k, len(pool)):
            redundancy = (vectors @ vectors[taken].T).max(axis=1) if taken else 0
            value = (1 - self.weight) * relevance - self.weight * redundancy
            value[taken] = -np.inf
            taken.append(int(np.argmax(value)))
        return [pool[i] for i in sorted(taken, key=lambda i: -relevance[i])]


class ShuffledRetriever:
    """The demonstrations of a retriever in a random order, which depends only on the seed and the prompt."""

    def __init__(self, retriever: Retriever, seed: int = 0):
        self.retriever, self.seed, self.support = retriever, seed, retriever.support

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """k demonstrations for each prompt, in a random order."""
        orders = (np.random.default_rng(seed_of(self.seed, "order", x)).permutation for x in prompts)
        found = self.retriever.retrieve(prompts, k)
        return [[ds[i] for i in order(len(ds))] for ds, order in zip(found, orders, strict=True)]
