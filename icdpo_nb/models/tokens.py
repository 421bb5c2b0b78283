"""Conversion between text and token ids for contexts and responses, and the end of a response.

A context ends with a colon; the space after it belongs to the response. With a chat template, a context ends where the
assistant's turn begins (see `chat`). The token ids of a response are fixed once and scored unchanged under every context.
Otherwise S would compare two different sequences.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..common.files import checksum
from ..protocol import RECOMMENDED, Protocol
from ..templates import STOP_STRINGS, stop_position
from .chat import ChatTemplate, Rendered


@dataclass(frozen=True)
class Response:
    """A response y: its text and the tokens that are scored."""

    text: str
    token_ids: tuple[int, ...]
    finish: str = "given"  # "stop" (stop string), "eos", "length" (max_new_tokens), or "given" (not sampled)
    context: str | None = None  # the context it was sampled from
    logps: np.ndarray | None = None  # (n_tokens,) under `context`, if exactly these tokens were sampled
    sampled_by: str = field(default="", repr=False, compare=False)  # the `identity` of the model that sampled it


TEXTS_AT_A_TIME = 4096  # whose tokens are in memory together
STOP_ENDS = {string[-1] for string in STOP_STRINGS}  # a stop string ends with the token that has one of these characters
EMPTY = Response("", (), "length", logps=np.zeros(0, np.float32))  # a response before its first token


class Tokens:
    """Tokenization of contexts and responses. `eos_ids` are the tokens that end a text, the tokenizer's EOS first."""

    def __init__(self, tokenizer, eos_ids: Sequence[int]):
        self.tokenizer, self.eos_ids = tokenizer, list(eos_ids)
        self.chat = ChatTemplate(tokenizer)
        self._completes: dict[int, bool] = {}  # whether a token may complete a stop string
        if tokenizer.is_fast:  # tokenizer.json may enable truncation and padding
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()

    def digest(self) -> str:
        """A digest of the tokenizer and its chat template."""
        fast = self.tokenizer.is_fast
        rules = self.tokenizer.backend_tokenizer.to_str() if fast else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return checksum(f"{rules}\0{getattr(self.tokenizer, 'chat_template', None)}")

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""
        return self._ids([text])[0]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, for the length filter of `load_preferences`."""
        starts = range(0, len(texts), TEXTS_AT_A_TIME)
        return [len(ids) for start in starts for ids in self._ids(texts[start : start + TEXTS_AT_A_TIME])]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not self.tokenizer.is_fast:
            return [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast  # takes half the time of `tokenizer(texts)`
        return [e.ids for e in encode(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; joined, the pieces are `decode(ids)`.

        Found by decoding one token more at a time, since a token's text may depend on the tokens before it. A character
        that several tokens spell, such as a Chinese one in a byte-level vocabulary, belongs to the last of them; the
        others have no text.
        """
        whole, ends = self.decode(ids), [0]
        for k in range(1, len(ids)):
            prefix = self.decode(ids[:k])  # ends with U+FFFD while a character is incomplete
            ends.append(max(ends[-1], len(prefix)) if whole.startswith(prefix) else ends[-1])
        return [whole[a:b] for a, b in zip(ends, [*ends[1:], len(whole)], strict=True)] if ids else []

    def render(self, messages: Sequence[dict]) -> str:
        """Chat messages as a context, by the chat template of the tokenizer. Raises `InputError` if it has none."""
        return self.chat(messages)

    def encode_context(self, text: str) -> list[int]:
        """Token ids of a context, with BOS if the tokenizer adds it, and without a final EOS.

        A context from `render` is tokenized as it stands, as by `apply_chat_template`.
        """
        if isinstance(text, Rendered):
            return self.tokenize(text)
        ids = self.tokenizer(text)["input_ids"]
        while len(ids) > 1 and ids[-1] in self.eos_ids:
            ids = ids[:-1]
        return ids

    def encode_response(self, text: str, protocol: Protocol = RECOMMENDED) -> Response:
        """A given text as a `Response`, tokenized as it follows the colon of a context and a space.

        With a chat template, as it follows the mark of an assistant's turn. `scored_tokens="retokenized"` tokenizes
        " " + text separately, as the released code does. An empty text has no tokens. `eos_scored="always"` appends EOS.
        """
        before, space, _ = self.chat.opening if protocol.template == "chat" else (":", " ", "")
        text, context = text.strip(), self.tokenize(before)
        joint = self.tokenize(before + space + text)
        separately = protocol.scored_tokens == "retokenized" or joint[: len(context)] != context
        ids = self.tokenize(space + text) if separately else joint[len(context) :]
        return Response(text, self._with_eos(ids if text else [], (), protocol))

    def _with_eos(self, ids: Sequence[int], sampled_eos: Sequence[int], protocol: Protocol) -> tuple[int, ...]:
        """Append the EOS that the protocol scores, keeping the id of a sampled EOS."""
        if protocol.eos_scored == "always":
            return (*ids, *(sampled_eos or self._end(protocol)))
        return (*ids, *(sampled_eos if protocol.eos_scored == "if_sampled" else ()))

    def _end(self, protocol: Protocol) -> list[int]:
        """The tokenizer's EOS; with a chat template, the token with which it ends an assistant's turn."""
        marks = self.tokenize(self.chat.opening[2]) if protocol.template == "chat" else []
        return marks[:1] if marks[:1] and marks[0] in self.eos_ids else self.eos_ids[:1]

    def ended(self, ids: Sequence[int], protocol: Protocol) -> str | None:
        """How a response ended with its last token, "eos" or "stop", or None if it is unfinished. It had not ended before."""
        last = ids[-1]
        if last in self.eos_ids:
            return "eos"
        if last not in self._completes:  # decoding every response at every step would take longer than a GPU's step
            self._completes[last] = not STOP_ENDS.isdisjoint(self.decode([last]))
        return "stop" if self._completes[last] and stop_position(self.decode(ids), protocol) is not None else None

    def response(self, ids: Sequence[int], finish: str, protocol: Protocol, **sampling: object) -> Response:
        """The `Response` of sampled tokens, cut at the stop string and with the tokens that the protocol scores.

        `sampling` holds the fields context, logps (of all `ids`) and sampled_by.
        """
        ids = list(ids)
        text = self.decode(ids[:-1] if finish == "eos" else ids)
        if finish == "stop":
            text = text[: stop_position(text, protocol)].rstrip()
            while ids and self.decode(ids[:-1]).startswith(text):  # keep the fewest tokens that contain the text
                ids = ids[:-1]
        logps = np.float32(sampling.pop("logps")[: len(ids)])
        return self.as_scored(Response(text.strip(), tuple(ids), finish, logps=logps, **sampling), protocol)

    def as_scored(self, sampled: Response, protocol: Protocol) -> Response:
        """Replace the sampled tokens of a response, including a sampled EOS, by the tokens that the protocol scores.

        A sampled EOS keeps its id. With `eos_scored="always"`, other responses get the tokenizer's EOS.
        """
        ids, end = sampled.token_ids, -1 if sampled.finish == "eos" else len(sampled.token_ids)
        if protocol.scored_tokens == "retokenized":
            encoded = self.encode_response(sampled.text, protocol.but(eos_scored="never"))
            return replace(encoded, token_ids=self._with_eos(encoded.token_ids, ids[end:], protocol), finish=sampled.finish)
        scored = self._with_eos(ids[:end], ids[end:], protocol)
        as_sampled = sampled.logps is not None and ids[: len(scored)] == scored
        return replace(sampled, token_ids=scored, logps=sampled.logps[: len(scored)] if as_sampled else None)


def eos_ids(model, tokenizer) -> list[int]:
    """The tokenizer's EOS, then any others of the model (chat models end turns with a token of their own)."""
    named = [tokenizer.eos_token_id, *(getattr(c, "eos_token_id", None) for c in (model.generation_config, model.config))]
    return list(dict.fromkeys(i for x in named if x is not None for i in (x if isinstance(x, list) else [x])))
