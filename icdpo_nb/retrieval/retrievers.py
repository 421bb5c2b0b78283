"""Retrieval of demonstrations: random, BM25 on the last L tokens, SBERT, and the paper's two-stage R (section 2.4, Eq. 12).

Every retriever has `retrieve(prompts, k)`: for each prompt the k most similar support samples, most similar first. All prompts
go in one call, so that BM25 is one sparse product and each text is embedded once. Equal scores keep the support's order.
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

PROMPTS_AT_A_TIME = 100  # prompts whose scores exist at one time
SBERT_STAGE = 20  # BM25 first retrieves 20 samples, which SBERT re-ranks (Appendix B)

Tokenize = Callable[[str], Sequence[Hashable]]


def words(text: str) -> list[str]:
    """Lower-case words, the default tokens of BM25. The released code uses the language model's tokens (`lm.tokenize`)."""
    return re.findall(r"\w+", text.lower())


class Retriever(Interface):
    """What the rest of the workbook asks of a retriever."""

    support: tuple[Preference, ...]

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k most similar support samples for each prompt, most similar first."""


class RandomRetriever:
    """The paper's default: random demonstrations, drawn for each prompt from its own seed."""

    def __init__(self, support: Sequence[Preference], seed: int = 0):
        self.support, self.seed = tuple(support), seed

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """k distinct samples for each prompt; they depend on the seed, the prompt and the support only."""
        _check_k(self.support, k)
        draws = (np.random.default_rng(seed_of(self.seed, "demonstrations", p)) for p in prompts)
        return [[self.support[i] for i in rng.choice(len(self.support), k, replace=False)] for rng in draws]


class BM25Retriever:
    """BM25 over the last L tokens of each prompt. Scores equal rank-bm25's BM25Okapi (k1 = 1.5, b = 0.75, ε = 0.25)."""

    def __init__(self, support: Sequence[Preference], window: int = 30, tokenize: Tokenize = words):
        self.support, self.window, self.tokenize = tuple(support), window, tokenize
        _check_k(self.support, 1)

    @cached_property
    def index(self) -> tuple:
        """Column of each token, a dict, and the weighted sparse term matrix (n_support, n_tokens); made when first needed."""
        from rank_bm25 import BM25Okapi
        from scipy.sparse import csr_array

        okapi = BM25Okapi([self._window(p.prompt) for p in self.support])  # counts and idf are its own
        column = {token: i for i, token in enumerate(okapi.idf)}
        counts = [(row, column[t], n) for row, doc in enumerate(okapi.doc_freqs) for t, n in doc.items()]
        rows, columns, tf = (np.array(x) for x in zip(*counts, strict=True))
        length = okapi.k1 * (1 - okapi.b + okapi.b * np.array(okapi.doc_len) / okapi.avgdl)
        weight = np.array(list(okapi.idf.values()))[columns] * tf * (okapi.k1 + 1) / (tf + length[rows])
        return column, csr_array((weight, (rows, columns)), shape=(len(self.support), len(column)))

    def _window(self, prompt: str) -> Sequence[Hashable]:
        return self.tokenize(prompt)[-self.window :]

    def get_scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Scores, shape (n_prompts, n_support): the query counts times the weighted term matrix, one sparse product."""
        from scipy.sparse import csr_array

        column, weights = self.index
        hits = [(row, column[t]) for row, p in enumerate(prompts) for t in self._window(p) if t in column]
        rows, columns = (np.array(x, dtype=int) for x in zip(*hits, strict=True)) if hits else (np.zeros(0, int),) * 2
        queries = csr_array((np.ones(len(hits)), (rows, columns)), shape=(len(prompts), len(column)))
        return (queries @ weights.T).toarray()  # repeated query terms are summed, as rank-bm25 does

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples with the highest BM25 score for each prompt."""
        _check_k(self.support, k)
        found = []
        for start in range(0, len(prompts), PROMPTS_AT_A_TIME):  # scores take prompts x support numbers
            scores = self.get_scores(prompts[start : start + PROMPTS_AT_A_TIME])
            found += [[self.support[i] for i in _top(row, k)] for row in scores]
        return found


class SBERTRetriever:
    """Cosine similarity of sentence embeddings over the whole support set."""

    def __init__(self, support: Sequence[Preference], embed: Embedder):
        self.support, self.embed = tuple(support), embed

    def get_scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Cosine similarities, shape (n_prompts, n_support)."""
        return self.embed(prompts) @ self.embed([p.prompt for p in self.support]).T

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples nearest in meaning to each prompt."""
        _check_k(self.support, k)
        return [[self.support[i] for i in _top(scores, k)] for scores in self.get_scores(prompts)]


class TwoStageRetriever:
    """R of Eq. 12: BM25 on the last L tokens picks 20 samples, SBERT ranks them."""

    def __init__(self, support: Sequence[Preference], embed: Embedder, window: int = 30, tokenize: Tokenize = words):
        self.coarse, self.embed = BM25Retriever(support, window, tokenize), embed
        self.support = self.coarse.support

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k nearest in meaning among each prompt's 20 best BM25 hits (k of them if k > 20)."""
        _check_k(self.support, k)
        hits = self.coarse.retrieve(prompts, min(max(SBERT_STAGE, k), len(self.support)))
        self.embed([*prompts, *(d.prompt for ds in hits for d in ds)])  # all at once, which is fastest; they are kept
        vectors = self.embed(prompts)
        near = [self.embed([d.prompt for d in ds]) @ v for ds, v in zip(hits, vectors, strict=True)]
        return [[ds[i] for i in _top(scores, k)] for ds, scores in zip(hits, near, strict=True)]


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest, largest first, the first of equals; only those that can be among them are sorted."""
    best = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return best[np.argsort(-scores[best], kind="stable")][:k]


def _check_k(support: Sequence[Preference], k: int) -> None:
    if len(support) < k:
        raise InputError(f"{k} demonstrations are asked for, but the support set has {len(support)}; lower n_demos or add data")


def leaked_prompts(support: Sequence[Preference], test: Sequence[Preference]) -> list[str]:
    """Ids of test prompts that also stand in the support set, apart from case, punctuation and white space."""
    known = {_gist(p) for p in support}
    return [p.prompt_id for p in test if _gist(p) in known]


def without_leaks(preferences: PreferenceSet, test: Sequence[Preference], leaks: str = "drop") -> PreferenceSet:
    """The set without the demonstrations whose prompt is one of `test`, which are counted in `dropped`.

    `leaks`: "drop", or "keep" for the set as it is; raises `InputError` for anything else, and where no demonstration is left.
    """
    if leaks not in ("keep", "drop"):
        raise InputError(f"leaks is {leaks[:40]!r}, but must be keep or drop")
    asked = {_gist(p) for p in test}
    kept = tuple(p for p in preferences.support if _gist(p) not in asked)
    n = len(preferences.support) - len(kept)
    if leaks == "keep" or not n:
        return preferences
    if not kept:
        raise InputError(f"every demonstration of {preferences.name} has the prompt of a test prompt; keep them, or add others")
    return preferences.but(kept, {**preferences.dropped, "demonstrations of test prompts": n})


def leaks_sentence(data: Mapping[str, PreferenceSet], test: Sequence[Preference], leaks: str = "keep") -> str:
    """How many test prompts also stand among each source's demonstrations, which, and what is done about it.

    `data`: the sets as loaded, before `without_leaks`.
    """
    found = {source: leaked_prompts(d.support, test) for source, d in data.items()}
    each = [f"{source} {len(ids)}{f' ({_few(ids)})' if ids else ''}" for source, ids in found.items()]
    said = f"Test prompts that also stand among the demonstrations, of {len(test)}: {', '.join(each)}."
    if not any(found.values()):
        return said
    return f"{said} These demonstrations are {'kept' if leaks == 'keep' else 'left out'} (leaks: {leaks})."


def settle_leaks(
    data: Mapping[str, PreferenceSet], test: Sequence[Preference], leaks: str
) -> tuple[dict[str, PreferenceSet], str]:
    """The sets of every source as `without_leaks` leaves them, and `leaks_sentence` on them as they were loaded."""
    return {source: without_leaks(d, test, leaks) for source, d in data.items()}, leaks_sentence(data, test, leaks)


def encoder_sentence(embed: Embedder, prompts: Sequence[Preference], data: Mapping[str, PreferenceSet]) -> str:
    """Which encoder reads the prompts and demonstrations' prompts, and how many of them are too long for it.

    A report says it so; no warning follows.
    """
    embed.silence()
    texts = [p.prompt for p in (*prompts, *(p for d in data.values() for p in d.support))]
    return " ".join(filter(None, (f"Sentence encoder: {embed.name}.", embed.cut_note(texts))))


def _gist(p: Preference) -> str:
    return " ".join(words(p.prompt))


def _few(ids: Sequence[str]) -> str:
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
    """A retriever for each domain: its own support, or all of it with `protocol.support == "mixed"` (Appendix A).

    `kind`: "random", "BM25", "SBERT" or "R"; the last two need `embed`, BM25 and R take `tokenize`.
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
