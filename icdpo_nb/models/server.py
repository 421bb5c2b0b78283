"""A language model behind an OpenAI-compatible completion server: `load_lm("http://host:8000/v1")` returns a `ServerLM`.

Contexts are tokenized here and sent as ids, and every answer is held against what was sent (`completions`), so that S compares
the same tokens under each context. What the server can do is found out first (`abilities`). Requests are independent of each
other: one for each response that is sampled, with a seed of its own, and one for each response and context that is scored.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from uuid import uuid4

import numpy as np

from ..common.endpoint import Endpoint
from ..common.errors import InputError
from ..common.escaping import visible
from ..common.files import digest
from ..protocol import RECOMMENDED, Protocol, seed_of
from ..templates import server_stops
from .abilities import PATH, check_text, find_out
from .addresses import KEY, revision_of, served_model, split_address
from .checkpoints import load_tokenizer
from .completions import Vocabulary, choice_of, generated, of_prompt, sampling_body, scoring_body
from .interface import NO_BAR, SECONDS, TOKENS, check_fits, published_sampling, published_scoring, unless_sampled
from .tokens import EMPTY, Response, Tokens, eos_ids


def load_server(name: str, model: str = "", tokenizer: str = "", revision: str | None = None, **options) -> "ServerLM":
    """The model behind a server; see `lm.load_lm`. `options` are those of `Endpoint`.

    Raises `InputError` if the server cannot be reached, does not serve the model, or does not return what it samples with ids
    and log-probabilities.
    """
    address, named, its_tokenizer = split_address(name)
    if model and named not in ("", model) or tokenizer and its_tokenizer not in ("", tokenizer):
        raise InputError(f"model {visible(name, 100)!r} names a model or tokenizer, and so does the call; name each once")
    endpoint = Endpoint(address, KEY, **options)
    entry = served_model(endpoint, model or named)
    candidates = [tokenizer or its_tokenizer] if tokenizer or its_tokenizer else [entry.get("root"), entry["id"]]
    return ServerLM(endpoint, name, entry, *load_tokenizer([*dict.fromkeys(filter(None, candidates))], revision))


class ServerLM(Tokens):
    """A `LanguageModel` behind a server. Created by `load_lm`.

    `abilities` is what the server can do. Where it cannot score, `logprobs` raises, and the model can only be a teacher.
    """

    dtype, device, products = "precision not stated", "server", {}
    at_a_time = 64  # contexts that are sampled or scored, and stored, together

    def __init__(self, endpoint: Endpoint, name: str, entry: Mapping, tokenizer, settings: SimpleNamespace):
        super().__init__(tokenizer, eos_ids(settings, tokenizer))
        self.endpoint, self.name, self.model = endpoint, name, entry["id"]
        self.revision = revision_of(entry, self.model)
        meta = entry.get("meta") or {}  # llama.cpp's
        self.n_parameters, self.max_length = meta.get("n_params", 0), entry.get("max_model_len") or meta.get("n_ctx")
        self.identity = uuid4().hex
        self.vocabulary = Vocabulary(tokenizer, self.tokenize("a"))
        self.abilities = find_out(endpoint, self.model, self, self.vocabulary)
        said = {k: v for k, v in entry.items() if k not in ("created", "permission", "object")}
        self.fingerprint = digest({"server": said, "version": self.abilities.version, "tokenizer": self.digest()})
        self._work: Counter = Counter()

    @property
    def path(self) -> str:
        """How the model runs, in one line."""
        return f"{self.model} at {self.endpoint.host}: {self.abilities.describe()}"

    # ------------------------------------------------------------ sampling

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
        """Sample n responses to each context; see `interface.LanguageModel.sample`.

        Response j has a seed of its own; whether the server returns the same tokens for it again is up to the server.
        Continuing the beginning of a response is another request, and does not give what one request would have given.
        `watch` sees a response once it is finished.
        """
        started, steps = time.monotonic(), protocol.max_new_tokens
        begun = begun or [EMPTY] * len(contexts)
        prompts = [[*self.encode_context(c), *b.token_ids] for c, b in zip(contexts, begun, strict=True)]
        for context, ids in zip(contexts, prompts, strict=True):
            check_fits(self, context, len(ids), steps, "new tokens")
        cases = [(i, j) for i in range(len(contexts)) for j in range(n)]
        bodies = [self._sampling(contexts[i], begun[i], prompts[i], j, protocol, seed) for i, j in cases]

        def read(k: int, answer: dict) -> Response:
            i = cases[k][0]
            choice = choice_of(answer, bodies[k]["prompt"], len(prompts[i]))
            return self._response(contexts[i], begun[i], answer, choice, protocol)

        with progress(total=len(contexts)) as bar:

            def done(k: int, y: Response) -> None:
                bar.update(1 / n)
                if watch:
                    watch(*cases[k], y.token_ids)

            sampled = self.endpoint.ask(PATH, bodies, read, done)
        rows = [sampled[i * n : (i + 1) * n] for i in range(len(contexts))]
        for ids, start, ys in zip(prompts, begun, rows, strict=True):
            self._work["published"] += published_sampling(len(ids), n, steps, [] if start.token_ids else ys)
            self._work["prefill"] += n * len(ids)
            self._work["decode"] += sum(len(y.token_ids) - len(start.token_ids) for y in ys)
        self._work["sampling"] += time.monotonic() - started
        return rows

    def _sampling(self, context: str, begun: Response, ids: list[int], j: int, protocol: Protocol, seed: int) -> dict:
        """The request for response j. The server's stop strings only shorten the wait; `_response` decides what ends one."""
        parts = ("sample", context, j, len(begun.token_ids)) if begun.token_ids else ("sample", context, j)
        prompt = self._prompt(context, begun.token_ids, ids)
        body = sampling_body(self.model, prompt, protocol, seed_of(seed, *parts), self.abilities.no_top_k)
        if self.abilities.names_all:
            body |= {"stop_token_ids": self.eos_ids, "include_stop_str_in_output": True}
            body |= {"stop": stops} if (stops := server_stops(protocol)) else {}
        return body

    def _response(self, context: str, begun: Response, answer: dict, choice: dict, protocol: Protocol) -> Response:
        """The response in an answer, ended by our own rule. Raises `ValueError` if the answer is not what was asked for."""
        new, logps = generated(answer, choice, self.vocabulary)
        check_text(self, new, choice)
        known = np.full(len(begun.token_ids), np.nan) if begun.logps is None else begun.logps
        ids, logps = [*begun.token_ids, *new], [*known, *logps]
        if len(new) > protocol.max_new_tokens:
            raise ValueError(f"it has {len(new)} tokens where {protocol.max_new_tokens} at most were asked for")
        end, finish, eos = self._ending(ids, len(begun.token_ids), choice, protocol)
        ids, logps = [*ids[:end], *eos], [*logps[:end], *[np.nan] * len(eos)]
        y = self.response(ids, finish, protocol, logps=logps, context=context, sampled_by=self.identity)
        sure = self.abilities.of_policy and y.logps is not None and not np.isnan(y.logps).any()
        return y if sure else replace(y, logps=None)

    def _ending(self, ids: list[int], n_begun: int, choice: dict, protocol: Protocol) -> tuple[int, str, list[int]]:
        """How many of the tokens belong to the response, how it ended, and the EOS that the server did not name."""
        finish, why = choice["finish_reason"], choice.get("stop_reason")
        if finish not in ("stop", "length"):
            raise ValueError(f"it ended by {finish!r}")
        for end in range(n_begun + 1, len(ids) + 1):
            if how := self.ended(ids[:end], protocol):
                return end, how, []
        if finish == "length" and len(ids) - n_begun == protocol.max_new_tokens:
            return len(ids), "length", []
        if finish == "stop" and len(ids) > n_begun and self._is_special(ids[-1]):
            return len(ids), "eos", []  # the server knows an EOS that the tokenizer's files do not name
        if finish == "stop" and self.eos_ids and not isinstance(why, str):
            return len(ids), "eos", [why if why in self.eos_ids else self.eos_ids[0]]
        raise ValueError(f"it ended by {finish!r} after {len(ids) - n_begun} tokens, where none of them ends a response")

    def _is_special(self, token: int) -> bool:
        return not self.decode([token]) and bool(self.tokenizer.decode([token]))

    # ------------------------------------------------------------ scoring

    def logprobs(
        self,
        contexts: Sequence[str],
        responses: Sequence[Sequence[Response]],
        progress: Callable = NO_BAR,
        rescore: bool = False,
    ) -> list[list[np.ndarray]]:
        """Token log-probabilities, float32, nats; see `interface.LanguageModel.logprobs`.

        Raises `InputError` where the server gives no log-probabilities of a prompt.
        """
        return unless_sampled(self, contexts, responses, rescore, partial(self._scored, progress))

    def _scored(self, progress: Callable, contexts: list[str], responses: list[Sequence[Response]]) -> list[list[np.ndarray]]:
        started, way = time.monotonic(), self.abilities.scores
        if contexts and not way:
            raise InputError(
                f"{self.name} cannot score: it gives no log-probabilities of a prompt ({self.abilities.why_not}); use a "
                "server that does, such as vLLM, or let it only be a teacher (icdpo-nb teach)"
            )
        cases, bodies, prompts = [], [], [self.encode_context(c) for c in contexts]
        for i, ys in enumerate(responses):
            longest = max((len(y.token_ids) + 1 for y in ys), default=0)  # one token is generated after it
            check_fits(self, contexts[i], len(prompts[i]), longest, "response tokens")
            self._work["published"] += published_scoring(len(prompts[i]), ys)
            for j, y in enumerate(ys):
                if y.token_ids:
                    cases.append((i, j, [*prompts[i], *y.token_ids]))
                    bodies.append(scoring_body(self.model, self._prompt(contexts[i], y.token_ids, cases[-1][2]), way))

        def read(k: int, answer: dict) -> np.ndarray:
            prompt, (i, _, ids) = bodies[k]["prompt"], cases[k]
            return of_prompt(choice_of(answer, prompt, len(ids)), way, prompt, ids, len(prompts[i]), self.vocabulary)

        with progress(total=len(bodies)) as bar:
            found = self.endpoint.ask(PATH, bodies, read, lambda k, value: bar.update(1)) if bodies else []
        scored = [[np.zeros(0, np.float32) for _ in ys] for ys in responses]
        for (i, j, ids), values in zip(cases, found, strict=True):
            scored[i][j] = values.astype(np.float32)
            self._work["prefill"] += len(prompts[i])
            self._work["scored"] += len(ids) - len(prompts[i])
        self._work["scoring"] += time.monotonic() - started
        return scored

    def _prompt(self, context: str, more: Sequence[int], ids: list[int]) -> list[int] | str:
        """A context and the tokens after it as the server takes them. Raises `InputError` if it would read other tokens."""
        if self.abilities.takes_ids:
            return ids
        text = context + self.tokenizer.decode(more, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self.encode_context(type(context)(text)) != ids:
            raise InputError(
                f"the server at {self.endpoint.host} takes text only, and would read other tokens than those of the response "
                f"{self.decode(more)[:60]!r}; use a server that takes token ids, such as vLLM"
            )
        return text

    # ------------------------------------------------------------ cost

    def twin(self) -> "ServerLM":
        """Itself: the server takes several requests at a time."""
        return self

    def prepare(self) -> None:
        """Nothing: the server is set up."""

    def work(self) -> dict[str, float]:
        """Tokens and seconds so far; see `interface.LanguageModel.work`. What a server has in its cache is counted, too."""
        return {kind: self._work[kind] for kind in (*TOKENS, *SECONDS)}

    def cost(self) -> Mapping[str, object]:
        """Work and server so far; peak memory is not known. See `interface.LanguageModel.cost`."""
        return {**self.work(), "machines": [f"server {self.endpoint.host}"], "peak": 0, "results": 0, "without cost": 0}
