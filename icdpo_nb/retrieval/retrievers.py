"""Retrieval of demonstrations: random, BM25 on the last L tokens, SBERT, and the paper's two-stage R (section 2.4, Eq. 12).

Every retriever has a method `retrieve(prompts, k)`, which returns the k most similar support samples for each prompt, most
similar first. Passing all prompts in one call makes BM25 a sparse matrix product and embeds each text once. Ties keep
the order of the support set.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol as Interface

import numpy as np

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet
from ..models.encoder import Embedder
from ..protocol import RECOMMENDED, Protocol, seed_of
from .bm25 import Index, Tokenize, bm25_index, words

SCORES_AT_A_TIME = 2**23  # scores of prompts and samples that are in memory together: 64 MB as float64
SAMPLES_AT_A_TIME = 2**14  # samples whose vectors are in memory together: 25 MB of 384 numbers each
SBERT_STAGE = 20  # the number of BM25 hits that SBERT re-ranks (Appendix B)


class Retriever(Interface):
    """The interface of a retriever."""

    support: tuple[Preference, ...]

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k most similar support samples for each prompt, most similar first."""


class RandomRetriever:
    """Random demonstrations, the paper's default. Each prompt has its own random generator."""

    def __init__(self, support: Sequence[Preference], seed: int = 0):
        self.support, self.seed = tuple(support), seed

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """k distinct samples for each prompt. They depend only on the seed, the prompt and the support set."""
        _check_k(self.support, k)
        rngs = (np.random.default_rng(seed_of(self.seed, "demonstrations", p)) for p in prompts)
        return [[self.support[i] for i in rng.choice(len(self.support), k, replace=False)] for rng in rngs]


class BM25Retriever:
    """BM25 over the last L tokens of each prompt. Scores equal those of rank-bm25's BM25Okapi (k1 1.5, b 0.75, ε 0.25)."""

    def __init__(self, support: Sequence[Preference], window: int = 30, tokenize: Tokenize = words):
        self.support = tuple(support)
        self.window = window
        self.tokenize = tokenize
        _check_k(self.support, 1)

    @cached_property
    def index(self) -> Index:
        """The weight of every token in every sample."""
        return bm25_index([p.prompt for p in self.support], self.window, self.tokenize)

    def get_scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Scores, float64, shape (n_prompts, n_support)."""
        return self.index.scores([self.tokenize(p)[-self.window :] for p in prompts])

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples with the highest BM25 score for each prompt."""
        _check_k(self.support, k)
        at_a_time = max(1, SCORES_AT_A_TIME // len(self.support))
        scores = (row for some in _in_parts(prompts, at_a_time) for row in self.get_scores(some))
        return [[self.support[i] for i in _top(row, k)] for row in scores]


class SBERTRetriever:
    """Cosine similarity of sentence embeddings over the whole support set."""

    def __init__(self, support: Sequence[Preference], embed: Embedder):
        self.support, self.embed = tuple(support), embed

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples with the highest cosine similarity to each prompt."""
        _check_k(self.support, k)
        texts = [p.prompt for p in self.support]
        self.embed.keep([*prompts, *texts])
        retrieved = []
        for some in _in_parts(prompts, SCORES_AT_A_TIME // SAMPLES_AT_A_TIME):
            asked = self.embed(some)
            best = _best((asked @ self.embed(part).T for part in _in_parts(texts, SAMPLES_AT_A_TIME)), k)
            retrieved += [[self.support[i] for i in row] for row in best]
        return retrieved


class TwoStageRetriever:
    """R of Eq. 12: BM25 on the last L tokens retrieves 20 samples, and SBERT re-ranks them."""

    def __init__(self, support: Sequence[Preference], embed: Embedder, window: int = 30, tokenize: Tokenize = words):
        self.coarse = BM25Retriever(support, window, tokenize)
        self.embed = embed
        self.support = self.coarse.support

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples with the highest cosine similarity among the 20 best BM25 hits (k hits if k > 20)."""
        _check_k(self.support, k)
        hits = self.coarse.retrieve(prompts, min(max(SBERT_STAGE, k), len(self.support)))
        self.embed.keep([*prompts, *(d.prompt for ds in hits for d in ds)])
        vectors = self.embed(prompts)
        similarities = [self.embed([d.prompt for d in ds]) @ v for ds, v in zip(hits, vectors, strict=True)]
        return [[ds[i] for i in _top(scores, k)] for ds, scores in zip(hits, similarities, strict=True)]


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest scores in descending order, ties in index order, without sorting all scores."""
    best = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return best[np.argsort(-scores[best], kind="stable")][:k]


def _best(blocks: Iterable[np.ndarray], k: int) -> np.ndarray:
    """The columns of the k largest scores of each row, best first, ties in order; int, shape (n_rows, k).

    `blocks` are the columns in order, a part of them at a time.
    """
    best, columns, start = None, None, 0
    for scores in blocks:
        top = np.array([_top(row, min(k, len(row))) for row in scores])
        found = np.take_along_axis(scores, top, axis=1), top + start
        if best is not None:
            found = np.hstack([best, found[0]]), np.hstack([columns, found[1]])
        order = np.argsort(-found[0], axis=1, kind="stable")[:, :k]
        best, columns = (np.take_along_axis(values, order, axis=1) for values in found)
        start += scores.shape[1]
    return columns


def _in_parts(items: Sequence, n: int) -> Iterator[Sequence]:
    return (items[i : i + n] for i in range(0, len(items), n))


def _check_k(support: Sequence[Preference], k: int) -> None:
    if len(support) < k:
        raise InputError(f"{k} demonstrations are requested, but the support set has {len(support)}; lower n_demos or add data")


def encoder_sentence(embed: Embedder, prompts: Sequence[Preference], data: Mapping[str, PreferenceSet]) -> str:
    """State which encoder is used and how many prompts of the test and support sets exceed its limit.

    Suppresses the encoder's truncation warning.
    """
    embed.silence()
    texts = [p.prompt for p in (*prompts, *(p for d in data.values() for p in d.support))]
    return " ".join(filter(None, (f"Sentence encoder: {embed.name}.", embed.cut_note(texts))))


def by_domain(
    kind: str,
    support: Sequence[Preference],
    domains: Sequence[str],
    protocol: Protocol = RECOMMENDED,
    *,
    seed: int = 0,
    embed: Embedder | None = None,
    tokenize: Tokenize = words,
) -> dict[str, Retriever]:
    """A retriever for each domain, over the domain's support samples or, if `protocol.support` is "mixed", over all of them.

    `kind` is "random", "BM25", "SBERT" or "R". SBERT and R need `embed`; BM25 and R use `tokenize`. Appendix A mixes the
    domains.
    """
    make = {
        "random": lambda pool: RandomRetriever(pool, seed),
        "BM25": lambda pool: BM25Retriever(pool, protocol.bm25_window, tokenize),
        "SBERT": lambda pool: SBERTRetriever(pool, embed),
        "R": lambda pool: TwoStageRetriever(pool, embed, protocol.bm25_window, tokenize),
    }
    if kind not in make:
        raise InputError(f"retriever is {kind!r}, but must be one of {', '.join(make)}")
    if protocol.support == "mixed":
        return dict.fromkeys(domains, make[kind](support))
    return {domain: make[kind]([p for p in support if p.domain == domain]) for domain in domains}
