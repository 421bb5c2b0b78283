"""How large a model is and what its tokens cost, from its configuration alone: parameters, memory and operations.

The model is built without weights, on torch's `meta` device, where a pass allocates nothing and its tensors still have sizes.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from ..common.errors import InputError, first_line
from ..engine.base import vocabulary
from ..engine.engine import LOGITS_AT_A_TIME, Engine
from .devices import REACHED, Device
from .placement import FLOATS, QUANTISED

BITS = {"nf4": 4.5, "int8": 8.0}  # of a quantised weight; nf4 has a float32 scale for each 64 weights


@dataclass(frozen=True)
class Size:
    """The size of a model without weights, `lm.engine.model` on the meta device, with its numbers in `dtype`.

    `dtype` is float32, bfloat16, float16, nf4 or int8, as in `load_lm`; with the last two, activations are in bfloat16.
    """

    model: torch.nn.Module
    dtype: str

    @cached_property
    def n_parameters(self) -> int:
        """The number of weights, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def in_layers(self) -> int:
        """The number of weights of the linear layers, without the output layer: what every token is multiplied with."""
        head = self.model.get_output_embeddings()
        linear = (m for m in self.model.modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D")
        return sum(m.weight.numel() for m in linear if m is not head)

    @property
    def in_head(self) -> int:
        """The number of weights of the output layer."""
        head = self.model.get_output_embeddings()
        return 0 if head is None else head.weight.numel()

    @property
    def bytes_per_number(self) -> float:
        """Of weights that are not quantised, of activations and of the cache."""
        return 4 if self.dtype == "float32" else 2

    @property
    def weights(self) -> int:
        """Bytes of the weights. As in bitsandbytes, embeddings, the output layer and norms are not quantised."""
        bits = BITS.get(self.dtype, 8 * self.bytes_per_number)
        rest = self.n_parameters - self.in_layers
        return round(self.in_layers * bits / 8 + rest * self.bytes_per_number)

    @cached_property
    def per_token(self) -> tuple[float, float]:
        """Bytes of a token in the cache, and of a token during a pass besides; as `Engine.token_bytes` measures.

        A classifier has no cache; its passes are taken to be those of a language model of this shape.
        """
        if self.model.get_output_embeddings() is None:
            try:
                return 0.0, size_of(self.model.config, self.dtype).per_token[1]
            except InputError:  # an encoder: the tensors of one layer
                return 0.0, 16 * self.model.config.hidden_size * self.bytes_per_number
        engine = Engine(self.model)
        engine.body, engine.head = self.model.base_model, self.model.get_output_embeddings()
        engine.batch_tokens = engine.cache_tokens = engine.probe_tokens
        self.model.set_attn_implementation("icdpo_grouped")
        with engine.uncounted():
            return engine.token_bytes()

    def least_memory(self, context: int, n: int, steps: int) -> int:
        """Bytes that one context with n responses of at most `steps` tokens needs: weights, cache, longest pass and logits."""
        in_cache, in_pass = self.per_token
        logits = 3 * 4 * LOGITS_AT_A_TIME * vocabulary(self.model)  # float32, their log-softmax, and a copy
        return round(self.weights + (context + n * steps) * (in_cache + in_pass) + logits)

    def contexts_at_a_time(self, memory: float, context: int, n: int, steps: int) -> int:
        """How many contexts of this length are decoded together in so much memory, by the engine's own rule; 0 if none fits.

        Half of what the weights leave free is for batches, three quarters of that for the cache.
        """
        if self.least_memory(context, n, steps) > memory:
            return 0
        budget = (memory - self.weights) / 2 * 3 / 4
        return max(1, int(budget / max(self.per_token[0], 1) / (context + n * steps)))

    def seconds_on(self, device: Device, *, context: int, steps: int, decoded: int, scored: int, keys: float) -> float:
        """Seconds of passes by the data sheet of a device, of whose rates `REACHED` is taken to be reached.

        Tokens of contexts and scored ones are bound by products. Decoding steps are bound by the products of the decoded
        tokens or by reading the weights in each step and `keys` tokens of the cache in all, whichever takes longer.
        """
        products = self.operations(context + scored, logits=scored) / device.operations
        read = (steps * self.weights + keys * self.per_token[0]) / device.bandwidth
        return (products + max(self.operations(decoded, logits=decoded) / device.operations, read)) / REACHED

    def operations(self, tokens: int, keys: int = 0, logits: int = 0) -> int:
        """Operations of computing tokens that look at `keys` keys in all, with logits for some of them."""
        config = self.model.config.get_text_config()
        attention = 2 * config.num_hidden_layers * config.hidden_size
        return 2 * (self.in_layers * tokens + attention * keys + self.in_head * logits)


def size_of(config, dtype: str = "bfloat16", task: str = "CausalLM") -> Size:
    """The size of a model with this configuration of transformers. Raises `InputError` if it cannot be built."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    if dtype not in (*FLOATS, *QUANTISED):
        raise InputError(f"dtype is {dtype!r}, but must be {', '.join(FLOATS)}, {' or '.join(QUANTISED)}")
    number = getattr(torch, dtype if dtype in FLOATS else "bfloat16")
    try:
        with torch.device("meta"):
            model = getattr(transformers, f"AutoModelFor{task}").from_config(config, dtype=number, trust_remote_code=False)
    except Exception as error:  # transformers raises many exception types
        raise InputError(f"a {config.model_type} model cannot be built from its configuration ({first_line(error)})") from None
    return Size(model.eval(), dtype)
