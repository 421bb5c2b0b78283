"""What both engines have: a model, the longest sequence it takes, its budgets, and accounts of work, time and memory."""

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import torch

from ..common.errors import InputError
from .memory import peak_so_far

PROBE_TOKENS = 256  # length of the pass that measures memory


class BaseEngine:
    """Holds a transformers causal language model, and counts what is computed with it.

    `batch_tokens` is the maximum number of tokens in a pass, including padding, and in the cache of a pool. With None, it is
    derived from the available memory. It affects speed and memory, but not results.
    """

    def __init__(self, model, batch_tokens: int | None = None):
        self.model = model.eval()
        self.device, self.dtype = device_of(model), model.dtype
        self.n_parameters, self.max_length = model.num_parameters(), longest(model)
        self.work: Counter = Counter()  # computed tokens without padding: prefill, decode, scored
        self.seconds: Counter = Counter()  # wall-clock time: sampling, scoring
        self.peak: Counter = Counter()  # peak memory in bytes: sampling, scoring
        self.batch_tokens = self.cache_tokens = batch_tokens

    @property
    def products(self) -> Counter:
        """The number of linear layers by the product that was chosen for them: none where nothing was chosen."""
        return Counter()

    def twin(self) -> "BaseEngine":
        """Another engine with the same model, set up as this one, and with accounts of its own: for another thread."""
        other = copy(self)
        other.work, other.seconds, other.peak = Counter(), Counter(), Counter()
        return other

    def absorb(self, twin: "BaseEngine") -> None:
        """Add the accounts of a twin to these."""
        self.work.update(twin.work)
        self.seconds.update(twin.seconds)
        self.peak |= twin.peak

    @property
    def probe_tokens(self) -> int:
        """The length of the pass that measures memory."""
        return min(PROBE_TOKENS, self.max_length or PROBE_TOKENS)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Do not count the tokens that are computed in the block."""
        work, self.work = self.work, Counter()
        try:
            yield
        finally:
            self.work = work

    def _record(self, stage: str, start: float) -> None:
        self.seconds[stage] += time.perf_counter() - start
        self.peak[stage] = peak_so_far(self.device)

    def _shrink(self, rows: int, tokens: int) -> None:
        """Halve the budgets after memory ran out for `rows` rows of `tokens` tokens, and warn."""
        if rows <= 1:
            raise InputError(
                f"memory ran out on {self.device} with a single context of {tokens} tokens, its responses included; lower "
                "n_demos or max_new_tokens, close other programs, or use a smaller model or dtype bfloat16"
            )
        self.batch_tokens = max(1, min(self.batch_tokens, tokens // 2))
        self.cache_tokens = max(1, min(self.cache_tokens, tokens // 2))
        warnings.warn(f"memory ran out: continuing with batches of {tokens // 2} tokens", stacklevel=3)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def device_of(model) -> torch.device:
    """The device of a model's input and output: its own, or where accelerate has spread the layers, that of the first GPU."""
    places = set(getattr(model, "hf_device_map", {}).values()) - {"cpu", "disk", "meta"}
    if is_spread(model):
        return torch.device(min(places, key=str) if places else "cpu")
    return model.device


def is_spread(model) -> bool:
    """Whether the layers of a model lie in several places."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def longest(model) -> int | None:
    """The maximum sequence length of a model, or None if there is no limit.

    The rotary frequencies of some models (longrope, dynamic) change when any sequence of a batch exceeds the model's
    original training length, which would also change the shorter sequences. Such models are limited to that length.
    Learned positions end with their table, whose first entries may be reserved, as RoBERTa's are for padding.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [part for part in (rope, *rope.values()) if isinstance(part, dict)]  # one for all layers, or one per layer type
    limits = [r.get("original_max_position_embeddings") for r in ropes if r.get("rope_type") in ("longrope", "dynamic")]
    for name, part in model.get_decoder().named_modules():
        if isinstance(part, torch.nn.Embedding) and name.endswith(("position_embeddings", "embed_positions")):
            reserved = part.padding_idx + 1 if part.padding_idx is not None else 0
            limits.append(part.num_embeddings - getattr(part, "offset", reserved))
    limits.append(getattr(config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit and limit > 0), default=None)


def varies(config, name: str) -> bool:
    """Whether a setting differs between layers. Transformers then refuses to read it from the whole configuration."""
    try:
        getattr(config, name, None)
    except Exception:  # not an AttributeError
        return True
    return False


def vocabulary(model) -> int:
    """The number of tokens that a model both reads and predicts."""
    sizes = (getattr(model.config.get_text_config(), "vocab_size", None), model.get_input_embeddings().num_embeddings)
    return min(size for size in sizes if size)
