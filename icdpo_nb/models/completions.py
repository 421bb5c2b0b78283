"""`/v1/completions` of vLLM, SGLang, llama.cpp and llama-cpp-python: what is sent, and what an answer says token by token.

A reader here raises `ValueError` for anything that is not exactly what was asked for: another number of choices, tokens that
cannot be told or are not those that were sent, a log-probability that is missing, positive or not finite. Log-probabilities
are natural logarithms, as in the policy.
"""

import math
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..protocol import Protocol

ROUNDING = 1e-3  # nats by which rounding may lift a log-probability above 0
LOWEST = -9000.0  # vLLM writes -9999 for the log-probability of an impossible token
NEUTRAL = {  # servers have defaults of their own for these, some of them the model's; here nothing shapes the distribution
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,  # vLLM's and SGLang's name
    "repeat_penalty": 1.0,  # llama.cpp's name
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
NAMED = {  # the ways to ask for the ids of tokens
    "return_token_ids": True,  # vLLM from 0.10.2
    "return_tokens_as_token_ids": True,  # vLLM: "token_id:12" in place of the token's text
}
SCORES = ("prompt_logprobs", "echo")  # the ways to ask for the log-probabilities of a prompt; vLLM's, OpenAI's

Prompt = list[int] | str


def sampling_body(model: str, prompt: Prompt, protocol: Protocol, seed: int, no_top_k: int = -1) -> dict:
    """The request for one sample with its log-probabilities. `no_top_k`: what the server takes for no top-k."""
    settings = {"temperature": protocol.temperature, "top_p": protocol.top_p, "top_k": protocol.top_k or no_top_k}
    length = {"max_tokens": protocol.max_new_tokens, "n": 1, "seed": seed % 2**31}
    probabilities = {"logprobs": 1, "n_probs": 1}  # n_probs: llama.cpp's name
    return {"model": model, "prompt": prompt, **length, **settings, **NEUTRAL, **probabilities, **NAMED}


def scoring_body(model: str, prompt: Prompt, way: str) -> dict:
    """The request for the log-probabilities of a prompt, in one of the ways of `SCORES`.

    One token is generated and thrown away: some servers refuse to generate none, others take 0 for no limit.
    """
    wanted = {"prompt_logprobs": 0} if way == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    return {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0, **wanted, **NAMED}


class Vocabulary:
    """The texts of single tokens: tells the ids of tokens that a server names by their text, where one token alone has it."""

    def __init__(self, tokenizer, before: Sequence[int]):
        self.tokenizer, self.before = tokenizer, list(before)[-1:]  # decoded alone, some tokens lose the space they begin with

    @cached_property
    def _texts(self) -> list[str]:
        decode = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        start = len(self.tokenizer.decode(self.before, **decode))
        rows = [[*self.before, i] for i in range(len(self.tokenizer))]
        return [text[start:] for text in self.tokenizer.batch_decode(rows, **decode)]

    @cached_property
    def _ids(self) -> dict[str, int | None]:
        """The id of the token with a text; None where several have it."""
        ids: dict[str, int | None] = {}
        for i, text in enumerate(self._texts):
            ids[text] = None if text in ids else i
        return ids

    def id_of(self, token: object) -> int:
        """The id of a token that is named "token_id:12" or by its text. Raises `ValueError` if it cannot be told."""
        if match := re.fullmatch(r"token_id:(\d+)", token):
            return int(match[1])
        found = self._ids.get(token)
        if found is None:
            raise ValueError(f"it names a token by the text {token!r}, which is that of no token alone")
        return found

    def agrees(self, token: object, i: int, sure: bool) -> bool:
        """Whether a token named as in `id_of` is that of id i; with `sure`, whether it can be no other."""
        if re.fullmatch(r"token_id:\d+", token):
            return token == f"token_id:{i}"
        found = self._ids.get(token)
        return found == i or found is None and not sure


def choice_of(answer: dict, prompt: Prompt, n_tokens: int) -> dict:
    """The one choice of an answer. Raises `ValueError` if there is another number, or the server read another prompt.

    `n_tokens`: of the prompt, in our tokenization.
    """
    choices, counted = answer["choices"], (answer.get("usage") or {}).get("prompt_tokens")
    if counted not in (None, n_tokens):
        raise ValueError(f"it counts {counted} tokens in a prompt of {n_tokens}")
    if len(choices) != 1 or choices[0].get("index", 0) != 0:
        raise ValueError(f"it has the choices {[c.get('index') for c in choices]}, but 0 alone was asked for")
    sent = choices[0].get("prompt_token_ids")
    if isinstance(prompt, list) and sent is not None and list(sent) != prompt:
        raise ValueError("its prompt_token_ids are not those that were sent")
    return choices[0]


def generated(answer: dict, choice: dict, vocabulary: Vocabulary) -> tuple[list[int], np.ndarray]:
    """The ids of the generated tokens and their log-probabilities, float64, shape (n_tokens,)."""
    found = choice.get("logprobs") or {}
    listed = found.get("content") or choice.get("completion_probabilities") or answer.get("completion_probabilities")
    if listed:  # llama.cpp
        ids, values = [t["id"] for t in listed], [t["logprob"] for t in listed]
    elif found:
        ids, values = choice.get("token_ids"), found["token_logprobs"]
        if ids is None:
            ids = [vocabulary.id_of(token) for token in found["tokens"]]
        elif not all(map(vocabulary.agrees, found["tokens"], ids, [False] * len(ids))):
            raise ValueError("its token_ids and its logprobs name different tokens")
    elif choice["text"]:
        raise ValueError("it has no log-probabilities")
    else:
        ids, values = [], []  # the text ended at once
    if len(ids) != len(values) or not all(type(i) is int and i >= 0 for i in ids):
        raise ValueError(f"it has {len(values)} log-probabilities for {len(ids)} tokens")
    return list(ids), checked(values)


def of_prompt(choice: dict, way: str, prompt: Prompt, ids: Sequence[int], start: int, vocabulary: Vocabulary) -> np.ndarray:
    """The log-probabilities of the prompt's tokens from `start` (at least 1) on, float64, shape (len(ids) - start,).

    `ids`: the tokens that the prompt has; where it was sent as text, every one of them has to be named beyond doubt.
    """
    if way == "prompt_logprobs":
        entries = choice["prompt_logprobs"]
        if len(entries) != len(ids):
            raise ValueError(f"it has log-probabilities for {len(entries)} tokens of a prompt of {len(ids)}")
        return checked([entry[str(i)]["logprob"] for i, entry in zip(ids[start:], entries[start:], strict=True)])
    tokens, values = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
    if not 0 <= len(tokens) - len(ids) <= 1 or len(values) != len(tokens):
        raise ValueError(f"it names {len(tokens)} tokens for a prompt of {len(ids)} and one more")
    sure = isinstance(prompt, str)
    wrong = [i for token, i in zip(tokens, ids, strict=False) if not vocabulary.agrees(token, i, sure)]
    if wrong:
        raise ValueError(f"it does not name the token {wrong[0]} where it was sent")
    return checked(values[start : len(ids)])


def checked(values: Sequence[object]) -> np.ndarray:
    """The log-probabilities as float64. Raises `ValueError` for one that is missing, not finite, or above 0."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"it gives the log-probability {value}")
        if not LOWEST < value <= ROUNDING:
            raise ValueError(f"it gives the log-probability {value:g}")
    return np.minimum(np.array(values, float), 0.0)
