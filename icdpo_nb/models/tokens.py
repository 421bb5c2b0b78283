"""Between text and tokens: contexts and responses as token ids, and where a response ends.

Conventions: a context ends with a colon and the space after it belongs to the response. A response's token ids are fixed once
and scored unchanged under every context, else S would compare two different sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..protocol import RECOMMENDED, Protocol
from ..templates import stop_position


@dataclass(frozen=True)
class Response:
    """A response y as text and as the tokens that are scored."""

    text: str
    token_ids: tuple[int, ...]
    finish: str = "given"  # "stop": at a stop string, "eos", "length": at max_new_tokens, "given": not sampled
    context: str | None = None  # what it was sampled from
    logps: np.ndarray | None = None  # (n_tokens,) under that context, if just these tokens were sampled
    sampled_by: str = field(default="", repr=False, compare=False)  # the `identity` of the model that sampled it


EMPTY = Response("", (), "length", logps=np.zeros(0, np.float32))  # what a response is before its first token


class Tokens:
    """The texts of a language model as its tokenizer reads them. `eos_ids`: the tokens that end a text, the usual one first."""

    def __init__(self, tokenizer, eos_ids: Sequence[int]):
        self.tokenizer, self.eos_ids = tokenizer, list(eos_ids)
        if tokenizer.is_fast:  # its file may ask for both
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()

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

    def ended(self, ids: Sequence[int], protocol: Protocol) -> str | None:
        """How a response of these tokens has ended, "eos" or "stop"; None if it goes on."""
        if ids[-1] in self.eos_ids:
            return "eos"
        return "stop" if stop_position(self.decode(ids), protocol) is not None else None

    def response(self, ids: Sequence[int], finish: str, protocol: Protocol, **sampling: object) -> Response:
        """The `Response` of sampled tokens: cut at its end, with the tokens that will be scored.

        `sampling`: the fields context, logps (of all `ids`) and sampled_by.
        """
        ids = list(ids)
        text = self.decode(ids[:-1] if finish == "eos" else ids)
        if finish == "stop":
            text = text[: stop_position(text, protocol)].rstrip()
            while ids and self.decode(ids[:-1]).startswith(text):  # the fewest tokens that hold the whole text
                ids = ids[:-1]
        logps = np.float32(sampling.pop("logps")[: len(ids)])
        return self.as_scored(Response(text.strip(), tuple(ids), finish, logps=logps, **sampling), protocol)

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


def eos_ids(model, tokenizer) -> list[int]:
    """The tokenizer's EOS first, then any other the model names (chat models end turns with their own)."""
    named = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None), model.config.eos_token_id]
    return list(dict.fromkeys(i for x in named if x is not None for i in (x if isinstance(x, list) else [x])))
