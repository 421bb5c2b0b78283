"""The interface of a language model.

`lm.CausalLM` runs a model in this process, `replicas.ReplicatedLM` in several others, and `server.ServerLM` asks one behind
a server. `store.stored.StoredLM` wraps another language model and caches its results.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Protocol as Interface

import numpy as np
from tqdm.auto import tqdm

from ..common.errors import TooLongError
from ..common.machine import processor
from ..protocol import RECOMMENDED, Protocol
from .tokens import Response

TOKENS = ("prefill", "decode", "scored", "published")  # computed tokens by kind; "published": by the published procedure
SECONDS = ("sampling", "scoring")  # wall-clock seconds by stage
NO_BAR = partial(tqdm, disable=True)


class LanguageModel(Interface):
    """A language model π that samples responses and scores them under any context. Created by `load_lm`."""

    name: str  # the name passed to `load_lm`
    revision: str
    dtype: str
    device: str
    fingerprint: str  # identifies the weights across processes
    identity: str  # identifies this object, and its wrappers, within the process
    n_parameters: int
    products: Mapping[str, int]  # linear layers by the product chosen for them; none before the first pass, or without a choice
    max_length: int | None  # the longest context and response together, in tokens; None if there is no limit

    # Text and tokens: see `tokens.Tokens`.

    eos_ids: Sequence[int]  # the tokens that end a text

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text."""

    def render(self, messages: Sequence[dict]) -> str:
        """Chat messages as a context, by the chat template of the tokenizer."""

    def encode_context(self, text: str) -> list[int]:
        """Token ids of a context."""

    def encode_response(self, text: str, protocol: Protocol = RECOMMENDED) -> Response:
        """A given text as a `Response`."""

    def as_scored(self, sampled: Response, protocol: Protocol) -> Response:
        """Replace the sampled tokens of a response by the tokens that the protocol scores."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; joined, the pieces are `decode(ids)`."""

    # Sampling and scoring.

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
        """Sample n responses to each context by nucleus sampling with the protocol's top-p, top-k and temperature.

        Response j to a context depends only on the seed, the context and j, not on batch size or order. `progress` creates
        a progress bar and is called like tqdm, `progress(total=…)`. Raises `InputError` if a context plus `max_new_tokens`
        exceeds the model's maximum length.

        `begun` holds one partial response per context, with its tokens as sampled. All n responses continue it by at most
        `max_new_tokens` tokens and include its tokens. Token t of response j always uses the same random number, so
        continuing the beginning of response j yields the response that one call would have sampled.

        `watch(i, j, ids)` is called with the tokens so far of response j to context i, after each of them, where the model
        samples here and now: not for results that are stored already. Replicas call it once for each finished response.
        """

    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """Token log-probabilities log π(y_t | context, y_<t) of `responses[i]` under `contexts[i]`.

        Returns float32 arrays of shape (n_tokens,), in nats. Each context is computed once for all its responses. Responses
        sampled from the context reuse the log-probabilities of sampling; `rescore=True` recomputes them, and both agree.
        Raises `InputError` if a context and a response exceed the model's maximum length.
        """

    # Threads.

    def twin(self) -> "LanguageModel":
        """The same model for another thread, with an account of its own; itself where calls side by side would gain nothing."""

    def absorb(self, twin: "LanguageModel") -> None:
        """Add the account of a twin, if it is another object, to this one when its thread has ended."""

    # Cost.

    def prepare(self) -> None:
        """Do the one-time setup before the first pass, so that no result is charged for it."""

    def work(self) -> dict[str, float]:
        """The work of this object so far: tokens by kind (`TOKENS`) and wall-clock seconds by stage (`SECONDS`)."""

    def cost(self) -> Mapping[str, object]:
        """The cost of computing all results returned so far, including those that an earlier run computed.

        The keys of `work`, plus "machines", "peak" (bytes), "results" (the number of distinct results, or 0 if they are
        not counted) and "without cost" (results of unknown cost).
        """


def unless_sampled(
    lm: LanguageModel,
    contexts: Sequence[str],
    responses: Sequence[Sequence[Response]],
    rescore: bool,
    compute: Callable[[list[str], list[Sequence[Response]]], list[list[np.ndarray]]],
) -> list[list[np.ndarray]]:
    """Implement `LanguageModel.logprobs`: reuse the values of sampling where possible, and `compute` the others.

    A context is computed with `rescore`, or unless `lm` sampled all its responses from it.
    """

    def sampled(context: str, ys: Sequence[Response]) -> bool:
        return all(y.logps is not None and y.context == context and y.sampled_by == lm.identity for y in ys)

    new = [i for i, (c, ys) in enumerate(zip(contexts, responses, strict=True)) if rescore or not sampled(c, ys)]
    computed = dict(zip(new, compute([contexts[i] for i in new], [responses[i] for i in new]), strict=True))
    return [computed.get(i) or [y.logps for y in ys] for i, ys in enumerate(responses)]


def check_fits(lm: LanguageModel, context: str, n_context: int, n_more: int, what: str) -> None:
    """Raise `TooLongError` if a context of so many tokens, with those that follow it, exceeds the model's window."""
    if lm.max_length and n_context + n_more > lm.max_length:
        raise TooLongError(
            f"the context for prompt {question_of(context)} has {n_context} tokens; with {n_more} {what} it exceeds the "
            f"{lm.max_length} tokens of {lm.name}; use fewer demonstrations, a length filter or a model with a longer window"
        )


def published_sampling(n_context: int, n: int, steps: int, responses: Sequence[Response]) -> int:
    """Tokens of the published procedure: context plus `steps` tokens per candidate, plus one scoring pass per response."""
    return n * (n_context + steps) + published_scoring(n_context, [y for y in responses if y.logps is not None])


def published_scoring(n_context: int, responses: Sequence[Response]) -> int:
    """Tokens of the published procedure: one pass over context and response for each response."""
    return sum(n_context + len(y.token_ids) for y in responses)


def question_of(context: str) -> str:
    """The last human turn of a context, shortened for error messages."""
    return repr(context.rpartition("Human:")[2].strip()[:60])


@cache
def machine(device: str) -> str:
    """A description of the hardware (GPU name, or CPU name and number of cores) with the torch version."""
    if device.startswith("cuda"):
        import torch

        name = torch.cuda.get_device_name(device)
    else:
        name = f"{processor()}, {os.cpu_count()} cores"
    return f"{name}, torch {version('torch')}"
