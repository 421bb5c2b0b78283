"""The index of BM25: the weight of every token in every text, as a sparse matrix. That of a large set is kept in the cache.

The scores equal those of rank-bm25's BM25Okapi, which counts in dicts, a text at a time.
"""

import json
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common.files import cache_folder, digest, digest_of_texts, written_whole

K1, B, EPSILON = 1.5, 0.75, 0.25  # of BM25Okapi
KEPT_FROM = 10_000  # texts; a smaller index is built within a second
VERSION = 1  # increase when the weights or their file change

Tokenize = Callable[[str], Sequence[Hashable]]


def words(text: str) -> list[str]:
    """Lower-case words, the default tokenization for BM25. The released code uses the language model's (`lm.tokenize`)."""
    return re.findall(r"\w+", text.lower())


@dataclass(frozen=True)
class Index:
    """The row of each token, and the weights as a `scipy.sparse.csr_array`, shape (n_tokens, n_texts)."""

    row: dict[Hashable, int]
    weights: object

    def scores(self, queries: Sequence[Sequence[Hashable]]) -> np.ndarray:
        """The BM25 score of every text for queries given as tokens, float64, shape (n_queries, n_texts)."""
        scores = np.zeros((len(queries), self.weights.shape[1]))
        for found, query in zip(scores, queries, strict=True):
            rows = np.array([self.row[token] for token in query if token in self.row], int)
            found[:] = self.weights[rows].T @ np.ones(len(rows))  # a repeated token counts each time, as in rank-bm25
        return scores


def bm25_index(texts: Sequence[str], window: int, tokenize: Tokenize) -> Index:
    """The index over the last `window` tokens of each text: that of an earlier run, if it was kept, or a new one.

    Kept are those of at least `KEPT_FROM` texts, if it can be said in the name of a file what `tokenize` does.
    """
    identity = _identity(tokenize)
    if len(texts) < KEPT_FROM or identity is None:
        return _built(texts, window, tokenize)
    path = cache_folder() / "bm25" / f"{digest([VERSION, window, identity, digest_of_texts(texts)])}.npz"
    with suppress(Exception):  # it is not there, or damaged, and damaged files raise many exception types
        return _read(path)
    index = _built(texts, window, tokenize)
    with suppress(OSError):  # a full disk is no reason to stop
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(index, path)
    return index


def _identity(tokenize: Tokenize) -> str | None:
    """What tells a tokenizer from all others, in other processes, too; None if nothing does."""
    if tokenize is words:
        return "words"
    model = getattr(tokenize, "__self__", None)  # of `lm.tokenize`
    return f"{tokenize.__name__} of {model.fingerprint}" if hasattr(model, "fingerprint") else None


def _built(texts: Sequence[str], window: int, tokenize: Tokenize) -> Index:
    from scipy.sparse import csr_array

    row: dict[Hashable, int] = {}
    lengths = []

    def tokens() -> Iterator[int]:
        for text in texts:
            last = tokenize(text)[-window:]
            lengths.append(len(last))
            yield from (row.setdefault(token, len(row)) for token in last)

    rows = np.fromiter(tokens(), np.int32)
    n, length = len(texts), np.array(lengths)
    columns = np.repeat(np.arange(n, dtype=np.int32), length)
    counts = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(row), n))
    counts.sum_duplicates()
    n_with = np.diff(counts.indptr)  # the number of texts with each token
    idf = np.log(n - n_with + 0.5) - np.log(n_with + 0.5)
    idf[idf < 0] = EPSILON * idf.mean() if len(idf) else 0  # of tokens in more than half of the texts
    norm = K1 * (1 - B + B * length / (length.mean() or 1))
    tf = counts.data
    counts.data = np.repeat(idf, n_with) * tf * (K1 + 1) / (tf + norm[counts.indices])
    return Index(row, counts)


def _write(index: Index, path: Path) -> None:
    weights, tokens = index.weights, np.frombuffer(json.dumps(list(index.row)).encode(), np.uint8)
    with written_whole(path) as file:
        np.savez(file, data=weights.data, indices=weights.indices, indptr=weights.indptr, shape=weights.shape, tokens=tokens)


def _read(path: Path) -> Index:
    from scipy.sparse import csr_array

    with np.load(path) as kept:  # a zip file, which checks what it reads
        parts = {name: kept[name] for name in kept.files}
    row = {token: i for i, token in enumerate(json.loads(parts["tokens"].tobytes()))}
    return Index(row, csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"])))
