"""What a completion server can do, found out with a short known text before anything rests on it.

Does it take token ids? Does it name the tokens that it samples? Does it give the log-probabilities of a prompt, and do they
belong to our tokenization? Are those of sampled tokens the policy's, or were they changed by temperature and top-p?
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..common.endpoint import Endpoint, RefusedError
from ..common.errors import InputError
from ..protocol import RECOMMENDED
from .completions import SCORES, Prompt, Vocabulary, choice_of, generated, of_prompt, sampling_body, scoring_body
from .tokens import Tokens

TEXT = "Human: Which way is it to the sea?\n\nAssistant: Over the hill with the two old trees, and then always down"
SETTINGS = RECOMMENDED.but(temperature=2.0, top_p=0.9, max_new_tokens=16)  # far from the policy itself
NEAR = 0.05  # nats, in the median, by which the arithmetic of sampling and of scoring may differ
PATH = "/completions"
RETRIES = 2  # few: some servers answer what they do not know with a status of 500


@dataclass(frozen=True)
class Abilities:
    """What a server can do."""

    takes_ids: bool  # a prompt may be token ids; otherwise text, where the server's tokens are ours
    no_top_k: int  # what it takes for no top-k
    names_all: bool  # it returns every token that it sampled, also those of a stop string
    scores: str  # one of `completions.SCORES`, or "" if it gives no log-probabilities of a prompt
    why_not: str  # then why not
    of_policy: bool  # the log-probabilities of sampled tokens are the policy's
    version: str  # what it says of itself in its answers, or ""

    def describe(self) -> str:
        """The abilities in one line."""
        prompt = "token ids" if self.takes_ids else "text"
        if not self.scores:
            return f"takes {prompt}, cannot score ({self.why_not})"
        sampled = "of sampling are the policy's" if self.of_policy else "are not taken from sampling, but scored again"
        return f"takes {prompt}, scores through {self.scores}; log-probabilities {sampled}"


def find_out(endpoint: Endpoint, model: str, tokens: Tokens, vocabulary: Vocabulary) -> Abilities:
    """Ask a server for a sample and for scores. Raises `InputError` if it cannot sample with log-probabilities and ids."""
    ids = tokens.encode_context(TEXT)
    takes_ids, no_top_k, answer = _sample(endpoint, model, ids)
    prompt = ids if takes_ids else TEXT
    counted = (answer.get("usage") or {}).get("prompt_tokens", len(ids))
    if counted != len(ids):
        raise InputError(
            f"the server at {endpoint.host} counts {counted} tokens where the tokenizer gives {len(ids)}; name the tokenizer "
            "of its model, http://host/v1#model#tokenizer"
        )
    try:
        choice = choice_of(answer, prompt, len(ids))
        new, logps = generated(answer, choice, vocabulary)
        check_text(tokens, new, choice)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        why = f"lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"the server at {endpoint.host} does not return what it samples with ids and log-probabilities ({why}); use vLLM, "
            "let this one be a teacher (icdpo-nb teach), or name another tokenizer, http://host/v1#model#tokenizer"
        ) from None
    scores, values, why_not = _scores(endpoint, model, prompt, [*ids, *new] if takes_ids else ids, len(ids), vocabulary)
    of_policy = takes_ids and len(new) > 0 and bool(scores) and float(np.median(np.abs(values - logps))) < NEAR
    named = (choice.get("logprobs") or {}).get("tokens") or []
    names_all = choice.get("token_ids") is not None or bool(named) and str(named[0]).startswith("token_id:")
    version = answer.get("system_fingerprint")
    return Abilities(takes_ids, no_top_k, names_all, scores, why_not, of_policy, version if isinstance(version, str) else "")


def _sample(endpoint: Endpoint, model: str, ids: list[int]) -> tuple[bool, int, dict]:
    """Sample in the first way that the server accepts: whether as ids, what stands for no top-k, and the answer."""
    for takes_ids, no_top_k in product((True, False), (-1, 0)):
        body = sampling_body(model, ids if takes_ids else TEXT, SETTINGS, 0, no_top_k)
        try:
            return takes_ids, no_top_k, _asked(endpoint, body, dict)
        except RefusedError as error:
            why = error.why
    raise InputError(
        f"the server at {endpoint.host} refuses to complete a text with log-probabilities ({why}); use a completion server "
        "such as vLLM, or let this one be a teacher by its chat template (icdpo-nb teach)"
    )


def _scores(
    endpoint: Endpoint, model: str, prompt: Prompt, ids: list[int], n_prompt: int, vocabulary: Vocabulary
) -> tuple[str, np.ndarray, str]:
    """The first way in which the server scores, the log-probabilities of what follows the prompt, or why it does not."""
    start, why = (n_prompt, "") if isinstance(prompt, list) else (n_prompt // 2, "")
    sent = ids if isinstance(prompt, list) else prompt
    for way in SCORES:

        def read(answer: dict, way: str = way) -> np.ndarray:
            return of_prompt(choice_of(answer, sent, len(ids)), way, sent, ids, start, vocabulary)

        try:
            return way, _asked(endpoint, scoring_body(model, sent, way), read), ""
        except RefusedError as error:
            why = why or error.why
    return "", np.zeros(0), why


def _asked(endpoint: Endpoint, body: dict, read: Callable[[dict], object]):
    return endpoint.ask(PATH, [body], lambda i, answer: read(answer), retries=RETRIES)[0]


def check_text(tokens: Tokens, ids: list[int], choice: dict) -> None:
    """Check the text of a choice against its tokens. Raises `ValueError` if they are not of the same tokenizer.

    White space at either end and an incomplete character may differ; a text that was stopped may lack its last tokens.
    """
    ours, theirs = _bare(tokens.decode(ids)), _bare(choice["text"])
    if ours != theirs and not (choice.get("finish_reason") == "stop" and ours.startswith(theirs)):
        raise ValueError(f"its text {theirs[:40]!r} is not that of its tokens, {ours[:40]!r}")


def _bare(text: str) -> str:
    return text.strip("\ufffd \n\t\r")
