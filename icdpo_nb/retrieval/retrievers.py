"""Retrieval of demonstrations: random, BM25 on the last L tokens, SBERT, and the paper's two-stage R (section 2.4, Eq. 12).

Every retriever has a method `retrieve(prompts, k)`, which returns the k most similar support samples for each prompt, most
similar first. Passing all prompts in one call makes BM25 a sparse matrix product and embeds each text once. Ties keep
the order of the support set.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Protocol as Interface

import numpy as np

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet
from ..models.encoder import Embedder
from ..protocol import RECOMMENDED, Protocol, seed_of

PROMPTS_AT_A_TIME = 100  # batch size of BM25, which limits the memory for scores
SBERT_STAGE = 20  # the number of BM25 hits that SBERT re-ranks (Appendix B)

Tokenize = Callable[[str], Sequence[Hashable]]


def words(text: str) -> list[str]:
    """Lower-case words, the default tokenization for BM25. The released code uses the language model's (`lm.tokenize`)."""
    return re.findall(r"\w+", text.lower())


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
    def index(self) -> tuple:
        """The column of each token (a dict) and the sparse matrix of term weights, shape (n_support, n_tokens)."""
        from rank_bm25 import BM25Okapi
        from scipy.sparse import csr_array

        okapi = BM25Okapi([self._window(p.prompt) for p in self.support])  # provides the counts and idf
        column = {token: i for i, token in enumerate(okapi.idf)}
        counts = [(row, column[t], n) for row, doc in enumerate(okapi.doc_freqs) for t, n in doc.items()]
        rows, columns, tf = (np.array(x) for x in zip(*counts, strict=True))
        length = okapi.k1 * (1 - okapi.b + okapi.b * np.array(okapi.doc_len) / okapi.avgdl)
        weight = np.array(list(okapi.idf.values()))[columns] * tf * (okapi.k1 + 1) / (tf + length[rows])
        return column, csr_array((weight, (rows, columns)), shape=(len(self.support), len(column)))

    def _window(self, prompt: str) -> Sequence[Hashable]:
        return self.tokenize(prompt)[-self.window :]

    def get_scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Scores, shape (n_prompts, n_support): the sparse product of the query counts and the term weights."""
        from scipy.sparse import csr_array

        column, weights = self.index
        hits = [(row, column[t]) for row, p in enumerate(prompts) for t in self._window(p) if t in column]
        rows, columns = (np.array(x, dtype=int) for x in zip(*hits, strict=True)) if hits else (np.zeros(0, int),) * 2
        queries = csr_array((np.ones(len(hits)), (rows, columns)), shape=(len(prompts), len(column)))
        return (queries @ weights.T).toarray()  # sums repeated query terms, as rank-bm25 does

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples with the highest BM25 score for each prompt."""
        _check_k(self.support, k)
        retrieved = []
        for start in range(0, len(prompts), PROMPTS_AT_A_TIME):
            scores = self.get_scores(prompts[start : start + PROMPTS_AT_A_TIME])
            retrieved += [[self.support[i] for i in _top(row, k)] for row in scores]
        return retrieved


class SBERTRetriever:
    """Cosine similarity of sentence embeddings over the whole support set."""

    def __init__(self, support: Sequence[Preference], embed: Embedder):
        self.support, self.embed = tuple(support), embed

    def get_scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Cosine similarities, shape (n_prompts, n_support)."""
        return self.embed(prompts) @ self.embed([p.prompt for p in self.support]).T

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples with the highest cosine similarity to each prompt."""
        _check_k(self.support, k)
        return [[self.support[i] for i in _top(scores, k)] for scores in self.get_scores(prompts)]


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
        self.embed([*prompts, *(d.prompt for ds in hits for d in ds)])  # fill the cache in one efficient call
        vectors = self.embed(prompts)
        similarities = [self.embed([d.prompt for d in ds]) @ v for ds, v in zip(hits, vectors, strict=True)]
        return [[ds[i] for i in _top(scores, k)] for ds, scores in zip(hits, similarities, strict=True)]


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest scores in descending order, ties in index order, without sorting all scores."""
    best = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return best[np.argsort(-scores[best], kind="stable")][:k]


def _check_k(support: Sequence[Preference], k: int) -> None:
    if len(support) < k:
        raise InputError(f"{k} demonstrations are requested, but the support set has {len(support)}; lower n_demos or add data")


def leaked_prompts(support: Sequence[Preference], test: Sequence[Preference]) -> list[str]:
    """Ids of test prompts that also occur in the support set, ignoring case, punctuation and white space."""
    known = {_normalised(p) for p in support}
    return [p.prompt_id for p in test if _normalised(p) in known]


def without_leaks(preferences: PreferenceSet, test: Sequence[Preference], leaks: str = "drop") -> PreferenceSet:
    """Remove the demonstrations whose prompt occurs in `test`, and count them in `dropped`.

    `leaks` is "drop", or "keep" to return the set unchanged. Raises `InputError` for any other value, and if no
    demonstration remains.
    """
    if leaks not in ("keep", "drop"):
        raise InputError(f"leaks is {leaks[:40]!r}, but must be keep or drop")
    test_prompts = {_normalised(p) for p in test}
    kept = tuple(p for p in preferences.support if _normalised(p) not in test_prompts)
    n = len(preferences.support) - len(kept)
    if leaks == "keep" or not n:
        return preferences
    if not kept:
        raise InputError(f"every demonstration of {preferences.name} has the prompt of a test prompt; keep them or add others")
    return preferences.but(kept, {**preferences.dropped, "demonstrations of test prompts": n})


def leaks_sentence(data: Mapping[str, PreferenceSet], test: Sequence[Preference], leaks: str = "keep") -> str:
    """State which test prompts also occur among each source's demonstrations, and whether these are kept.

    `data` holds the sets as loaded, before `without_leaks`.
    """
    leaked = {source: leaked_prompts(d.support, test) for source, d in data.items()}
    counts = [f"{source} {len(ids)}{f' ({_abridged(ids)})' if ids else ''}" for source, ids in leaked.items()]
    sentence = f"Test prompts that also occur among the demonstrations, of {len(test)}: {', '.join(counts)}."
    if not any(leaked.values()):
        return sentence
    return f"{sentence} These demonstrations are {'kept' if leaks == 'keep' else 'left out'} (leaks: {leaks})."


def settle_leaks(
    data: Mapping[str, PreferenceSet], test: Sequence[Preference], leaks: str
) -> tuple[dict[str, PreferenceSet], str]:
    """Apply `without_leaks` to the set of every source. Returns the sets and `leaks_sentence` for the original ones."""
    return {source: without_leaks(d, test, leaks) for source, d in data.items()}, leaks_sentence(data, test, leaks)


def encoder_sentence(embed: Embedder, prompts: Sequence[Preference], data: Mapping[str, PreferenceSet]) -> str:
    """State which encoder is used and how many prompts of the test and support sets exceed its limit.

    Suppresses the encoder's truncation warning.
    """
    embed.silence()
    texts = [p.prompt for p in (*prompts, *(p for d in data.values() for p in d.support))]
    return " ".join(filter(None, (f"Sentence encoder: {embed.name}.", embed.cut_note(texts))))


def _normalised(p: Preference) -> str:
    return " ".join(words(p.prompt))


def _abridged(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


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
