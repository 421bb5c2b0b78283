"""Language models on this machine: `load_lm(name)` returns a `CausalLM` that samples and scores responses.

Log-probabilities are those of the unmodified policy, in nats, float32. A model's generation_config is ignored.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import RLock
from uuid import uuid4

import numpy as np

from ..common.errors import InputError
from ..common.files import checksum
from ..engine.base import BaseEngine
from ..engine.engine import Engine
from ..engine.plain import PlainEngine
from ..engine.proof import UnservedError
from ..protocol import RECOMMENDED, Protocol, seed_of
from .addresses import is_address
from .checkpoints import fingerprint, load_adapted
from .interface import (
    NO_BAR,
    SECONDS,
    TOKENS,
    LanguageModel,
    check_fits,
    machine,
    published_sampling,
    published_scoring,
    question_of,
    unless_sampled,
)
from .placement import precision
from .server import load_server
from .tokens import EMPTY, Response, Tokens, eos_ids

SMALL = 50_000_000  # parameters of a model that uses one core better than two: calls side by side take less time


def load_lm(
    name: str,
    *,
    dtype: str = "auto",
    device: str | Mapping = "auto",
    revision: str | None = None,
    model: str = "",
    tokenizer: str = "",
) -> LanguageModel:
    """Load a language model: `smollm2` (packaged, no network), a local folder, a hub id, "base+folder", or a server's address.

    In "base+folder", the folder holds a LoRA adapter written by `finetune.fine_tune`, which is merged into the weights of
    the base model. In "base+folder+folder", the second adapter was trained on top of the first.
    `dtype` is float32, bfloat16, float16, or "auto" (float32 on a CPU, bfloat16 on a GPU); nf4 and int8 quantise the weights
    with bitsandbytes. `device` is "auto", "cpu", "cuda", "mps", and so on; "balanced", "sequential" or a device map spread the
    layers over several GPUs, main memory and disk, as accelerate does. Where they are "auto", the environment's ICDPO_DTYPE
    and ICDPO_DEVICE count. Only safetensors weights are loaded, and no remote code runs. Raises `InputError` if the model is
    missing, unreachable or incomplete.

    Any causal architecture of transformers runs. `path` of the result says in one line whether it shares contexts, and if it
    does not, why; before the first pass such a model warns in the same words.

    A server is named `http://host:8000/v1`, `http://host:8000/v1#model` or `http://host:8000/v1#model#tokenizer`, or by `model`
    and `tokenizer`. With one served model its name may be left out; the tokenizer is that of the model's name or path if that
    is a packaged name, a folder or a hub id. See `server.ServerLM`.
    """
    if is_address(name):
        if (dtype, device) != ("auto", "auto"):
            raise InputError(
                f"model {name.partition('#')[0]!r} is a server, which chooses dtype and device itself; leave them out"
            )
        return load_server(name, model, tokenizer, revision)
    if model or tokenizer:
        raise InputError(
            f"model {name[:200]!r} is not a server's address, so it takes no model and no tokenizer; leave them out"
        )
    return CausalLM(*load_adapted(name, dtype, device, revision))


class CausalLM(Tokens):
    """A `LanguageModel` that runs a transformers model. Created by `load_lm`.

    `engine` is the packed engine until the first pass, and then the one that serves the model; see `path`.
    """

    def __init__(self, model, tokenizer, name: str, revision: str = "local", adapters: Sequence[str] = ()):
        super().__init__(tokenizer, eos_ids(model, tokenizer))
        self.engine = Engine(model)
        self.name, self.revision = name, revision
        self.adapters = adapters
        self.dtype, self.device = precision(model), str(self.engine.device)
        self.n_parameters, self.max_length = self.engine.n_parameters, self.engine.max_length
        self.identity = uuid4().hex
        self.setup = RLock()
        self.published = 0  # tokens that the published procedure would have computed for the same results

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the model's files and adapters; for a hub model without adapters, its id and commit."""
        result = fingerprint(self.engine.model.name_or_path, self.revision)
        for folder in self.adapters:
            result = checksum(f"{result}+{fingerprint(folder, '')}")
        return result

    @property
    def products(self) -> Mapping[str, int]:
        """The number of linear layers with each product; see `engine.linear`."""
        return self.engine.products

    @cached_property
    def path(self) -> str:
        """How the model runs, in one line: with shared contexts, or why without them, which also issues a warning.

        Checks the model when it is first needed. Raises `InputError` if it is not causal.
        """
        kind = self.engine.model.config.model_type
        try:
            self.engine.take()
        except UnservedError as reason:
            plain = PlainEngine(self.engine.model, self.engine.batch_tokens)
            plain.take()
            self.engine = plain
            line = f"{kind} runs without shared contexts: {reason.why}"
            warnings.warn(line, stacklevel=3)
            return line
        return f"{kind} runs with shared contexts"

    # ------------------------------------------------------------ sampling and scoring

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        protocol: Protocol = RECOMMENDED,
        seed: int = 0,
        progress: Callable = NO_BAR,
        begun: Sequence[Response] | None = None,
        watch: Callable[[int, int, Sequence[int]], None] | None = None,
    ) -> list[list[Response]]:
        """Sample n responses to each context; see `interface.LanguageModel.sample`."""
        begun, steps = begun or [EMPTY] * len(contexts), protocol.max_new_tokens
        encoded = [[*self.encode_context(c), *b.token_ids] for c, b in zip(contexts, begun, strict=True)]
        for context, ids in zip(contexts, encoded, strict=True):
            check_fits(self, context, len(ids), steps, "new tokens")
        uniform = _draws(seed, contexts, n, steps, begun)
        self.prepare()

        def ended(i: int, j: int, new: list[int]) -> str | None:
            ids = [*begun[i].token_ids, *new]
            if watch:
                watch(i, j, ids)
            return self.ended(ids, protocol)

        sampled = self.engine.sample(
            encoded,
            uniform,
            ended,
            protocol.top_p,
            protocol.top_k,
            protocol.temperature,
            progress=progress,
        )
        responses = []
        for context, ids, start, row in zip(contexts, encoded, begun, sampled, strict=True):
            self._check_finite(context, [s.logps for s in row])
            origin = {"context": context, "sampled_by": self.identity}
            ys = [
                self.response([*start.token_ids, *s.ids], s.finish, protocol, logps=[*start.logps, *s.logps], **origin)
                for s in row
            ]
            self.published += published_sampling(len(ids), n, steps, [] if start.token_ids else ys)
            responses.append(ys)
        return responses

    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """Token log-probabilities, float32, nats; see `interface.LanguageModel.logprobs`."""

        def compute(contexts: list[str], responses: list[Sequence[Response]]) -> list[list[np.ndarray]]:
            encoded = [self.encode_context(c) for c in contexts]
            for context, ids, ys in zip(contexts, encoded, responses, strict=True):
                check_fits(self, context, len(ids), max((len(y.token_ids) for y in ys), default=0), "response tokens")
                self.published += published_scoring(len(ids), ys)
            self.prepare()
            scored = self.engine.logprobs(encoded, [[y.token_ids for y in ys] for ys in responses], progress)
            for context, row in zip(contexts, scored, strict=True):
                self._check_finite(context, row)
            return scored

        return unless_sampled(self, contexts, responses, rescore, compute)

    def _check_finite(self, context: str, rows: Sequence[Sequence[float]]) -> None:
        if not all(np.isfinite(row).all() for row in rows):
            raise InputError(
                f"{self.name} ({self.dtype}) gives log-probabilities that are not finite for prompt {question_of(context)}; "
                "try dtype float32"
            )

    # ------------------------------------------------------------ threads

    def twin(self) -> "CausalLM":
        """This model for another thread, if it is small and on a CPU; see `interface.LanguageModel.twin`."""
        return Twin(self) if self.device == "cpu" and self.n_parameters <= SMALL else self

    def absorb(self, twin: "CausalLM") -> None:
        """Add the account of a twin to this one."""
        self.published += twin.published
        if "engine" in vars(twin):
            self.engine.absorb(twin.engine)

    # ------------------------------------------------------------ cost

    def prepare(self) -> None:
        """Choose and set up the engine and measure the available memory, once."""
        with self.setup:
            _ = self.path  # chooses the engine
            self.engine.begin()

    def work(self) -> dict[str, float]:
        """Tokens and seconds so far; see `interface.LanguageModel.work`."""
        tokens = {**self.engine.work, "published": self.published}
        return {**{kind: tokens.get(kind, 0) for kind in TOKENS}, **{s: self.engine.seconds[s] for s in SECONDS}}

    def cost(self) -> Mapping[str, object]:
        """Work, machine and peak memory so far; results are not counted. See `interface.LanguageModel.cost`."""
        work, peak = self.work(), max(self.engine.peak.values(), default=0)
        machines = [machine(self.device)] if any(work[kind] for kind in TOKENS) else []
        return {**work, "machines": machines, "peak": peak, "results": 0, "without cost": 0}


class Twin(CausalLM):
    """A `CausalLM` with the weights of another one, for another thread, and with an account of its own."""

    def __init__(self, lm: CausalLM):
        vars(self).update(vars(lm))
        del self.engine
        self.original, self.published = lm, 0

    @property
    def path(self) -> str:
        """As the original's."""
        return self.original.path

    @cached_property
    def engine(self) -> BaseEngine:
        """A twin of the original's engine, which is set up by the first that needs it."""
        self.original.prepare()
        return self.original.engine.twin()


def _draws(seed: int, contexts: Sequence[str], n: int, steps: int, begun: Sequence[Response]) -> np.ndarray:
    """Uniform random numbers, shape (contexts, n, steps), one for each new token t of each response j."""
    rngs = [[np.random.default_rng(seed_of(seed, "sample", c, j)) for j in range(n)] for c in contexts]
    drawn = [[rng.random(len(b.token_ids) + steps)[-steps:] for rng in row] for row, b in zip(rngs, begun, strict=True)]
    return np.array(drawn).reshape(len(contexts), n, steps)
