"""The language model: `load_lm(name)` gives a `CausalLM` that samples responses and scores them under any context.

Conventions: a context ends with a colon and the space after it belongs to the response. A response's token ids are fixed once
and scored unchanged under every context, else S would compare two different sequences. Log-probabilities are of the
unmodified policy, in nats, float32. Nothing is inherited from a model's generation_config.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..common.errors import InputError
from ..common.files import checksum
from ..engine.decoding import Sampled
from ..engine.engine import NO_BAR, Engine
from ..protocol import RECOMMENDED, Protocol, seed_of
from ..templates import stop_position
from .checkpoints import fingerprint, load_adapted


@dataclass(frozen=True)
class Response:
    """A response y as text and as the tokens that are scored."""

    text: str
    token_ids: tuple[int, ...]
    finish: str = "given"  # "stop": at a stop string, "eos", "length": at max_new_tokens, "given": not sampled
    context: str | None = None  # what it was sampled from
    logps: np.ndarray | None = None  # (n_tokens,) under that context, if just these tokens were sampled
    engine: Engine | None = field(default=None, repr=False, compare=False)  # whose sampling that was


UNBEGUN = Response("", (), "length", logps=np.zeros(0, np.float32))  # what a response is before its first token


def load_lm(name: str, *, dtype: str = "auto", device: str = "auto", revision: str | None = None) -> "CausalLM":
    """Load a language model: `smollm2` (packaged, no network), a local folder, or a hub id, or "base+folder".

    The folder after a plus holds a LoRA adapter, as `finetune.fine_tune` leaves it; it is added to the base model's weights. A
    second one ("base+folder+folder") was trained on top of the first.
    `dtype`: float32, bfloat16, float16; "auto" is float32 on a CPU and bfloat16 on a GPU. `device`: "auto", "cpu", "cuda", ….
    Only safetensors weights, no remote code. Raises `InputError` for a model that is missing, unreachable or incomplete.
    """
    return CausalLM(*load_adapted(name, dtype, device, revision))


class CausalLM:
    """A causal language model with its tokenizer. Made by `load_lm`."""

    def __init__(self, model, tokenizer, name: str, revision: str = "local", adapters: Sequence[str] = ()):
        self.engine, self.tokenizer, self.name, self.revision = Engine(model), tokenizer, name, revision
        self.adapters = adapters
        self.eos_ids = _eos_ids(model, tokenizer)
        if tokenizer.is_fast:  # its file may ask for both
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        self.dtype, self.device = str(model.dtype).removeprefix("torch."), str(model.device)

    @cached_property
    def fingerprint(self) -> str:
        """What tells this model from any other: a digest of its files, or hub id and commit."""
        found = fingerprint(self.engine.model.name_or_path, self.revision)
        for folder in self.adapters:
            found = checksum(f"{found}+{fingerprint(folder, '')}")
        return found

    # ------------------------------------------------------------ text and tokens

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""
        return self._ids([text])[0]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, for the length filter of `load_preferences`."""
        return [len(ids) for ids in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not self.tokenizer.is_fast:
            return [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast  # half the time of `tokenizer(texts)`, which makes more
        return [e.ids for e in encode(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def encode_context(self, text: str) -> list[int]:
        """Token ids of a context, with BOS where the tokenizer adds one, never with EOS at its end."""
        ids = self.tokenizer(text)["input_ids"]
        while len(ids) > 1 and ids[-1] in self.eos_ids:
            ids = ids[:-1]
        return ids

    def encode_response(self, text: str, protocol: Protocol = RECOMMENDED) -> Response:
        """A given text as a `Response`: its tokens as they stand after a context's colon and a space.

        `scored_tokens="retokenized"` tokenises " " + text alone, as the released code does. An empty text has no tokens of its
        own. EOS is added with `eos_scored="always"`.
        """
        text, colon = text.strip(), self.tokenize(":")
        joint = self.tokenize(f": {text}")
        alone = protocol.scored_tokens == "retokenized" or joint[: len(colon)] != colon
        ids = self.tokenize(f" {text}") if alone else joint[len(colon) :]
        return Response(text, self._with_eos(ids if text else [], (), protocol))

    def _with_eos(self, ids: Sequence[int], sampled: Sequence[int], protocol: Protocol) -> tuple[int, ...]:
        """Tokens with the EOS that is scored: the one that was `sampled`, if any, whichever of the model's it is."""
        ends = {"never": (), "if_sampled": sampled, "always": sampled or self.eos_ids[:1]}[protocol.eos_scored]
        return (*ids, *ends)

    # ------------------------------------------------------------ sampling and scoring

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        protocol: Protocol = RECOMMENDED,
        seed: int = 0,
        progress: Callable = NO_BAR,
        begun: Sequence[Response] | None = None,
    ) -> list[list[Response]]:
        """n responses for each context, by nucleus sampling with the protocol's top-p, top-k and temperature.

        Response j of a context depends on the seed, the context and j only, not on batch size or order. `progress(total=…)`
        makes a progress bar, as tqdm does. Raises `InputError` if a context and `max_new_tokens` exceed the model's window.

        `begun`: for each context a response sampled from it, with all its tokens as they were sampled, that the n go on from;
        they hold its tokens, and at most `max_new_tokens` more. Token t of response j comes of the same random number either
        way, so response j goes on from its own beginning to what it would have been at once.
        """
        return self._sample(contexts, n, protocol, seed, progress, begun or [UNBEGUN] * len(contexts))

    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """Token log-probabilities log π(y_t | context, y_<t) of `responses[i]` under `contexts[i]`.

        float32 arrays of shape (n_tokens,), in nats. A context is computed once for all its responses, and not at all where
        they were sampled from it: then the log-probabilities of sampling serve (`rescore=True` computes them anew, and the
        two agree). Raises `InputError` if a context does not fit the model's window.
        """
        new = [i for i, (c, ys) in enumerate(zip(contexts, responses, strict=True)) if rescore or not self.knows(c, ys)]
        found = dict(zip(new, self._score([contexts[i] for i in new], [responses[i] for i in new], progress), strict=True))
        return [found.get(i) or [y.logps for y in ys] for i, ys in enumerate(responses)]

    def knows(self, context: str, responses: Sequence[Response]) -> bool:
        """Whether the log-probabilities of all these responses under this context are those of their sampling."""
        return all(y.logps is not None and y.context == context and y.engine is self.engine for y in responses)

    def _sample(
        self, contexts: Sequence[str], n: int, protocol: Protocol, seed: int, progress: Callable, begun: Sequence[Response]
    ) -> list[list[Response]]:
        """What `sample` computes; `kept.StoredLM` looks it up first, and so it does with `_score`."""
        encoded = [[*self.encode_context(c), *b.token_ids] for c, b in zip(contexts, begun, strict=True)]
        steps = protocol.max_new_tokens
        for context, ids in zip(contexts, encoded, strict=True):
            self._check_fits(context, len(ids), steps, "new tokens")
        rngs = [[np.random.default_rng(seed_of(seed, "sample", c, j)) for j in range(n)] for c in contexts]
        drawn = [[rng.random(len(b.token_ids) + steps)[-steps:] for rng in row] for row, b in zip(rngs, begun, strict=True)]
        uniform = np.array(drawn).reshape(len(contexts), n, steps)
        ended = lambda i, ids: self._ended([*begun[i].token_ids, *ids], protocol)  # noqa: E731
        how = (protocol.top_p, protocol.top_k, protocol.temperature)
        sampled = self.engine.sample(encoded, uniform, ended, *how, progress=progress)
        for context, row in zip(contexts, sampled, strict=True):
            self._check_finite(context, [s.logps for s in row])
        responses = [
            [self._response(c, Sampled([*b.token_ids, *s.ids], [*b.logps, *s.logps], s.finish), protocol) for s in row]
            for c, b, row in zip(contexts, begun, sampled, strict=True)
        ]
        for ids, b, ys in zip(encoded, begun, responses, strict=True):
            self.engine.work["published"] += n * (len(ids) + steps)
            if not b.token_ids:  # the published procedure scores what it sampled once more
                self.engine.work["published"] += sum(len(ids) + len(y.token_ids) for y in ys if y.logps is not None)
        return responses

    def _score(
        self, contexts: Sequence[str], responses: Sequence[Sequence[Response]], progress: Callable
    ) -> list[list[np.ndarray]]:
        """What `logprobs` computes: a pass over each context with its responses."""
        encoded = [self.encode_context(c) for c in contexts]
        for context, ids, ys in zip(contexts, encoded, responses, strict=True):
            self._check_fits(context, len(ids), max((len(y.token_ids) for y in ys), default=0), "response tokens")
            self.engine.work["published"] += sum(len(ids) + len(y.token_ids) for y in ys)
        scored = self.engine.logprobs(encoded, [[y.token_ids for y in ys] for ys in responses], progress)
        for context, row in zip(contexts, scored, strict=True):
            self._check_finite(context, row)
        return scored

    def _ended(self, ids: list[int], protocol: Protocol) -> str | None:
        if ids[-1] in self.eos_ids:
            return "eos"
        return "stop" if stop_position(self.decode(ids), protocol) is not None else None

    def _response(self, context: str, sampled: Sampled, protocol: Protocol) -> Response:
        """Cut a sampled sequence at its end and fix the tokens that will be scored."""
        ids, finish = sampled.ids, sampled.finish
        text = self.decode(ids[:-1] if finish == "eos" else ids)
        if finish == "stop":
            text = text[: stop_position(text, protocol)].rstrip()
            while ids and self.decode(ids[:-1]).startswith(text):  # the fewest tokens that hold the whole text
                ids = ids[:-1]
        whole = Response(text.strip(), tuple(ids), finish, context, np.float32(sampled.logps[: len(ids)]), self.engine)
        return self.as_scored(whole, protocol)

    def as_scored(self, sampled: Response, protocol: Protocol) -> Response:
        """A response that holds its tokens as they were sampled, EOS included, with those that the protocol scores instead.

        A sampled EOS keeps its own id; `eos_scored="always"` gives a response that ended otherwise the tokenizer's.
        """
        ids, end = sampled.token_ids, -1 if sampled.finish == "eos" else len(sampled.token_ids)
        if protocol.scored_tokens == "retokenized":
            text = self.encode_response(sampled.text, protocol.but(eos_scored="never"))
            return replace(text, token_ids=self._with_eos(text.token_ids, ids[end:], protocol), finish=sampled.finish)
        scored = self._with_eos(ids[:end], ids[end:], protocol)
        as_sampled = sampled.logps is not None and ids[: len(scored)] == scored
        return replace(sampled, token_ids=scored, logps=sampled.logps[: len(scored)] if as_sampled else None)

    def _check_fits(self, context: str, n_context: int, n_more: int, what: str) -> None:
        limit = self.engine.max_length
        if limit and n_context + n_more > limit:
            raise InputError(
                f"the context for prompt {_question(context)} has {n_context} tokens; with {n_more} {what} it exceeds the "
                f"{limit} tokens of {self.name}; use fewer demonstrations, a length filter or a model with a longer window"
            )

    def _check_finite(self, context: str, rows: Sequence[Sequence[float]]) -> None:
        if not all(np.isfinite(row).all() for row in rows):
            raise InputError(
                f"{self.name} ({self.dtype}) gives log-probabilities that are not finite for prompt {_question(context)}; "
                "try dtype float32"
            )


def _question(context: str) -> str:
    """The last human turn of a context, shortened, for a message."""
    return repr(context.rpartition("Human:")[2].strip()[:60])


def _eos_ids(model, tokenizer) -> list[int]:
    """The tokenizer's EOS first, then any other the model names (chat models end turns with their own)."""
    named = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None), model.config.eos_token_id]
    return list(dict.fromkeys(i for x in named if x is not None for i in (x if isinstance(x, list) else [x])))
