"""Language models on this machine: `load_lm(name)` returns a `CausalLM` that samples and scores responses.

Log-probabilities are those of the unmodified policy, in nats, float32. A model's generation_config is ignored.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from uuid import uuid4

import numpy as np

from ..common.errors import InputError, TooLongError
from ..common.files import checksum
from ..engine.engine import Engine
from ..engine.plain import PlainEngine
from ..engine.proof import UnservedError
from ..protocol import RECOMMENDED, Protocol, seed_of
from .checkpoints import fingerprint, load_adapted
from .interface import NO_BAR, SECONDS, TOKENS, LanguageModel, machine, unless_sampled
from .placement import precision
from .tokens import EMPTY, Response, Tokens, eos_ids


def load_lm(name: str, *, dtype: str = "auto", device: str | Mapping = "auto", revision: str | None = None) -> "CausalLM":
    """Load a language model: `smollm2` (packaged, no network), a local folder, a hub id, or "base+folder".

    In "base+folder", the folder holds a LoRA adapter written by `finetune.fine_tune`, which is merged into the weights of
    the base model. In "base+folder+folder", the second adapter was trained on top of the first.
    `dtype` is float32, bfloat16, float16, or "auto" (float32 on a CPU, bfloat16 on a GPU); nf4 and int8 quantise the weights
    with bitsandbytes. `device` is "auto", "cpu", "cuda", "mps", and so on; "balanced", "sequential" or a device map spread the
    layers over several GPUs, main memory and disk, as accelerate does. Where they are "auto", the environment's ICDPO_DTYPE
    and ICDPO_DEVICE count. Only safetensors weights are loaded, and no remote code runs. Raises `InputError` if the model is
    missing, unreachable or incomplete.

    Any causal architecture of transformers runs. `path` of the result says in one line whether it shares contexts, and if it
    does not, why; before the first pass such a model warns in the same words.
    """
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
            self.published += _published_sampling(len(ids), n, steps, [] if start.token_ids else ys)
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
                self.published += _published_scoring(len(ids), ys)
            self.prepare()
            scored = self.engine.logprobs(encoded, [[y.token_ids for y in ys] for ys in responses], progress)
            for context, row in zip(contexts, scored, strict=True):
                self._check_finite(context, row)
            return scored

        return unless_sampled(self, contexts, responses, rescore, compute)

    def _check_finite(self, context: str, rows: Sequence[Sequence[float]]) -> None:
        if not all(np.isfinite(row).all() for row in rows):
            raise InputError(
                f"{self.name} ({self.dtype}) gives log-probabilities that are not finite for prompt {_question(context)}; "
                "try dtype float32"
            )

    # ------------------------------------------------------------ cost

    def prepare(self) -> None:
        """Choose and set up the engine and measure the available memory, once."""
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


def check_fits(lm: LanguageModel, context: str, n_context: int, n_more: int, what: str) -> None:
    """Raise `InputError` if a context and what follows it exceed the model's window."""
    limit = lm.max_length
    if limit and n_context + n_more > limit:
        raise TooLongError(
            f"the context for prompt {_question(context)} has {n_context} tokens; with {n_more} {what} it exceeds the "
            f"{limit} tokens of {lm.name}; use fewer demonstrations, a length filter or a model with a longer window"
        )


def _draws(seed: int, contexts: Sequence[str], n: int, steps: int, begun: Sequence[Response]) -> np.ndarray:
    """Uniform random numbers, shape (contexts, n, steps), one for each new token t of each response j."""
    rngs = [[np.random.default_rng(seed_of(seed, "sample", c, j)) for j in range(n)] for c in contexts]
    drawn = [[rng.random(len(b.token_ids) + steps)[-steps:] for rng in row] for row, b in zip(rngs, begun, strict=True)]
    return np.array(drawn).reshape(len(contexts), n, steps)


def _published_sampling(n_context: int, n: int, steps: int, responses: Sequence[Response]) -> int:
    """Tokens of the published procedure: context plus `steps` tokens per candidate, plus one scoring pass per response."""
    return n * (n_context + steps) + _published_scoring(n_context, [y for y in responses if y.logps is not None])


def _published_scoring(n_context: int, responses: Sequence[Response]) -> int:
    """Tokens of the published procedure: one pass over context and response for each response."""
    return sum(n_context + len(y.token_ids) for y in responses)


def _question(context: str) -> str:
    """The last human turn of a context, shortened for error messages."""
    return repr(context.rpartition("Human:")[2].strip()[:60])
