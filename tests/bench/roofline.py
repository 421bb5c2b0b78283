"""The least time that counted work can take here: its operations at the rate of a large product, its bytes at that of a copy.

Both rates are measured in the process that is judged. Scoring and prefill are bound by operations: the model's layers,
attention over the keys that each token may see, and the output layer where logits are needed. A decoding step is bound by
whichever takes longer, its operations or reading the weights and the keys and values of all unfinished rows once. Each
token of a response counts as a step of its own: a step that also computes drafts, as the engine's do, may need less reading.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from icdpo_nb.engine.linear import PackedLinear
from icdpo_nb.engine.prefix import prefix_groups

Ids = Sequence[int]
SIDE, SIDE_ON_GPU, COPIED = 2048, 8192, 2**27  # rows and columns of the product, numbers that are copied
REPEATS = 5


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def rates(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Operations a second of the faster of two products, and bytes a second (read and written) of a copy; medians."""
    device = torch.device(device)
    side = SIDE_ON_GPU if device.type == "cuda" else SIDE
    plain = torch.nn.Linear(side, side, bias=False, device=device, dtype=dtype)
    layers = [plain]
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        layers.append(PackedLinear(plain))
    x = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.randn(COPIED, device=device)
    target = torch.empty_like(source)

    def timed(run: Callable[[], object]) -> float:
        def whole() -> None:
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()

        whole()
        return statistics.median(seconds(whole) for _ in range(REPEATS))

    product = max(2 * side**3 / timed(lambda layer=layer: layer(x)) for layer in layers)
    return {"product": product, "copy": 2 * source.nbytes / timed(lambda: target.copy_(source))}


class Work:
    """Operations and bytes of a model's passes; a multiplication and an addition are two operations."""

    def __init__(self, lm):
        config = lm.engine.model.config
        self.layers = sum(size(m) for m in linears(lm))
        self.head = config.vocab_size * config.hidden_size
        self.attention = 2 * config.num_hidden_layers * config.hidden_size  # q k' and p v, for each key
        head_dim = config.hidden_size // config.num_attention_heads
        self.cached = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim  # numbers for each token
        self.width = lm.engine.model.dtype.itemsize

    def operations(self, positions: Sequence[int], logits: int) -> int:
        """Of tokens at these positions, which look at one key more than that, with the logits of some of them."""
        return 2 * (self.layers * len(positions) + self.attention * sum(p + 1 for p in positions) + self.head * logits)

    def scoring(self, contexts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> int:
        """Operations of scoring responses under their contexts; a shared prefix is computed once."""
        positions: list[int] = []
        for prefix, members in prefix_groups(contexts, range(len(contexts))):
            positions += range(len(prefix))
            for i in members:
                rows = (range(len(contexts[i]) - 1, len(contexts[i]) - 1 + len(y)) for y in responses[i])
                positions += [*range(len(prefix), len(contexts[i]) - 1), *(p for row in rows for p in row)]
        return self.operations(positions, sum(len(y) for ys in responses for y in ys))

    def prefill(self, contexts: Sequence[Ids], steps: int) -> int:
        """Operations of computing contexts before `steps` decoding steps."""
        positions: list[int] = []
        for prefix, members in prefix_groups(contexts, range(len(contexts)), steps):
            positions += [*range(len(prefix)), *(p for i in members for p in range(len(prefix), len(contexts[i])))]
        return self.operations(positions, len(contexts))

    def decoding(self, contexts: Sequence[Ids], responses: Sequence[Sequence[Ids]], product: float, copy: float) -> float:
        """Seconds of the decoding steps, all rows together; the first token of a response comes from its context."""
        took = 0.0
        for step in range(1, max((len(y) for ys in responses for y in ys), default=0)):
            rows = [(len(c), sum(len(y) > step for y in ys)) for c, ys in zip(contexts, responses, strict=True)]
            rows = [(length, live) for length, live in rows if live]
            positions = [length + step - 1 for length, live in rows for _ in range(live)]
            read = self.layers + self.head + self.cached * sum(length + live * step for length, live in rows)
            took += max(self.operations(positions, len(positions)) / product, read * self.width / copy)
        return took


def size(layer: torch.nn.Module) -> int:
    """The number of weights of a linear layer."""
    return layer.packed.numel() if isinstance(layer, PackedLinear) else layer.weight.numel()


def linears(lm) -> list:
    """The linear layers of a model's body."""
    return [m for m in lm.engine.body.modules() if isinstance(m, PackedLinear | torch.nn.Linear)]


def least_seconds(
    lm, contexts: Sequence[dict[str, Ids]], responses: Sequence[Sequence[Ids]], steps: int, found: dict[str, float]
) -> dict[str, float]:
    """The least time of each stage of ICDPO at the rates `found`: sampling from the context "icl", scoring under each other.

    The log-probabilities under "icl" come with the samples.
    """
    work, sampled_from = Work(lm), [c["icl"] for c in contexts]
    decoding = work.decoding(sampled_from, responses, found["product"], found["copy"])
    least = {"sample": work.prefill(sampled_from, steps) / found["product"] + decoding, "icl": 0.0}
    for name in (name for name in contexts[0] if name != "icl"):
        least[name] = work.scoring([c[name] for c in contexts], responses) / found["product"]
    return least
