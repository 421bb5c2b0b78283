"""A chat model behind `/v1/chat/completions`: it replies to conversations, and neither scores nor names tokens.

Enough for a teacher, and all that many hosted models offer. The server applies the model's own chat template.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..common.endpoint import OPENAI, Endpoint, host_of
from .addresses import KEY, revision_of, served_model, split_address

PATH = "/chat/completions"


class Reply(NamedTuple):
    """A reply to a conversation."""

    text: str  # "" if the server filtered it
    finish: str  # "stop", "length", or "content_filter"


class ChatServer:
    """A chat model at ADDRESS#MODEL. `options` are those of `Endpoint`.

    Raises `InputError` if the server cannot be reached or does not serve the model.
    """

    def __init__(self, name: str, **options):
        address, model, _ = split_address(name)
        self.endpoint, self.name = Endpoint(address, KEY, **options), name
        entry = served_model(self.endpoint, model)
        self.model = entry["id"]
        self.revision = revision_of(entry, "not stated")

    def request(self, messages: Sequence[dict], settings: dict) -> dict:
        """The body of a request. `settings`: max_new_tokens, temperature, top_p and seed.

        Nothing else is sent, since hosted models refuse what they do not know; other settings are the server's defaults.
        """
        limit = "max_completion_tokens" if self.endpoint.host == host_of(OPENAI, "", KEY) else "max_tokens"
        return {
            "model": self.model, "messages": list(messages), "n": 1, limit: settings["max_new_tokens"],
            "temperature": settings["temperature"], "top_p": settings["top_p"], "seed": settings["seed"] % 2**31,
        }  # fmt: skip

    def replies(self, bodies: Sequence[dict], done: Callable[[int, Reply], None] = lambda i, reply: None) -> list[Reply]:
        """A reply to each request. Raises `InputError` where the server refuses one, cannot be reached, or answers unusably."""
        return self.endpoint.ask(PATH, bodies, lambda i, answer: _read(answer), done)


def _read(answer: dict) -> Reply:
    """The one reply of an answer. Raises `ValueError` if it has no text, another number of replies or an unknown ending."""
    (choice,) = answer["choices"]
    finish, message = choice["finish_reason"], choice["message"]
    text = message.get("content") or message.get("refusal") or ""
    if not isinstance(text, str) or finish not in ("stop", "length", "content_filter"):
        raise ValueError(f"it has a reply of {type(text).__name__} that ended by {finish!r}")
    return Reply("" if finish == "content_filter" else text.strip(), finish)
