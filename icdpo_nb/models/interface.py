"""What the workbook asks of a language model, whatever computes its log-probabilities.

`lm.CausalLM` runs one here with the packed engine; `store.stored.StoredLM` wraps any other and looks first for what was
computed before. A model behind a server, or several replicas of one, would be further implementations.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
from tqdm.auto import tqdm

from ..protocol import RECOMMENDED, Protocol
from .tokens import Response

TOKENS = ("prefill", "decode", "scored", "published")  # through the model, by kind; and those of the published procedure
SECONDS = ("sampling", "scoring")  # of the clock, by stage
NO_BAR = partial(tqdm, disable=True)


class LanguageModel(Interface):
    """A language model π that samples responses and scores them under any context. Made by `load_lm`."""

    name: str  # as for `load_lm`
    revision: str
    dtype: str
    device: str
    fingerprint: str  # what tells its weights from any other's, in this process and later ones
    identity: str  # what tells this object, and all that wrap it, from any other of this process
    n_parameters: int

    # Text and tokens: see `tokens.Tokens`.

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text."""

    def encode_context(self, text: str) -> list[int]:
        """Token ids of a context."""

    def encode_response(self, text: str, protocol: Protocol = RECOMMENDED) -> Response:
        """A given text as a `Response`."""

    def as_scored(self, sampled: Response, protocol: Protocol) -> Response:
        """A response with the tokens that the protocol scores."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    # Sampling and scoring.

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

    # What it costs.

    def prepare(self) -> None:
        """Do once what comes before the first pass, so that it is no result's cost."""

    def work(self) -> dict[str, float]:
        """What this object has computed so far: tokens by kind (`TOKENS`), and seconds of the clock by stage (`SECONDS`)."""

    def cost(self) -> Mapping[str, object]:
        """What all results that it gave cost when they were computed, by this run or an earlier one.

        As `work`, with machines (where), peak (most bytes held at a time), results (how many there are, each counted once;
        0 where they are not counted), and "without cost": those whose cost is not known.
        """


def unless_sampled(
    lm: LanguageModel,
    contexts: Sequence[str],
    responses: Sequence[Sequence[Response]],
    rescore: bool,
    compute: Callable[[list[str], list[Sequence[Response]]], list[list[np.ndarray]]],
) -> list[list[np.ndarray]]:
    """Log-probabilities as `LanguageModel.logprobs`: those of sampling where all responses were sampled so, others computed."""

    def sampled(context: str, ys: Sequence[Response]) -> bool:
        return all(y.logps is not None and y.context == context and y.sampled_by == lm.identity for y in ys)

    new = [i for i, (c, ys) in enumerate(zip(contexts, responses, strict=True)) if rescore or not sampled(c, ys)]
    found = dict(zip(new, compute([contexts[i] for i in new], [responses[i] for i in new]), strict=True))
    return [found.get(i) or [y.logps for y in ys] for i, ys in enumerate(responses)]


def machine(device: str) -> str:
    """Where something is computed: the processor's name and cores, or the GPU's name; and torch's version."""
    if device.startswith("cuda"):
        import torch

        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {os.cpu_count()} cores"
    return f"{name}, torch {version('torch')}"


def _processor() -> str:
    """The processor's name; Linux tells it in a file alone."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return " ".join(names[0].partition(":")[2].split()) if names else platform.processor() or platform.machine()
