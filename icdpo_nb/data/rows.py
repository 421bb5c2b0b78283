"""Parsers for the formats of a row: HH-RLHF dialogues, prompt/chosen/rejected columns, chat messages, TL;DR comparisons.

A row in none of these formats raises `InputError`. For a row with unusable texts, `unusable` returns the reason.
"""

import re
from collections.abc import Sequence

from ..common.errors import InputError
from .sources import SPLITS

BROKEN = re.compile("[\0\ud800-\udfff]")


def dialogue(messages: Sequence[dict]) -> str:
    """Chat messages as dialogue text: [{"role": "user", "content": "Hi"}] -> "Human: Hi"."""
    speakers = {"user": "Human: ", "human": "Human: ", "assistant": "Assistant: ", "system": ""}
    turns = []
    for m in messages:
        role, content = (m.get("role"), m.get("content")) if isinstance(m, dict) else (None, None)
        if not isinstance(role, str) or role not in speakers or not isinstance(content, str):
            raise InputError(f'a chat message must be {{"role": user | assistant | system, "content": text}}, not {m!r:.80}')
        turns.append(speakers[role] + content.strip())
    return "\n\n".join(turns)


def messages(text: str) -> list[dict]:
    """A prompt's text as chat messages, the inverse of `dialogue`: "Human: Hi" -> [{"role": "user", "content": "Hi"}].

    What stands before the first turn is a system message. A message that itself holds a line such as "Human: …" after a blank
    line cannot be told from two.
    """
    before, *turns = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    said = [{"role": "system", "content": before.strip()}] if before.strip() else []
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return said + [{"role": roles[speaker], "content": content.strip()} for speaker, content in pairs]


def split_dialogue(text: str) -> tuple[str, str]:
    r"""Split an HH-RLHF dialogue at its last `Assistant:` turn into prompt and response.

    "\n\nHuman: Hi\n\nAssistant: Hello\n\nBye" -> ("Human: Hi", "Hello\n\nBye"). Raises `InputError` if there is no such turn.
    """
    prompt, marker, response = ("\n\n" + text.lstrip()).rpartition("\n\nAssistant:")
    if not marker:
        raise InputError(r"a dialogue without a \n\nAssistant: turn; add it, or give the prompt in a column 'prompt'")
    return prompt.strip(), response.strip()


def named_split(row: dict) -> str | None:
    """The split named by a row (support, dev or test), or None."""
    name = row.get("split")
    if name in (None, ""):
        return None
    if not isinstance(name, str) or name not in SPLITS:
        raise InputError(f"split is {str(name)[:40]!r}, but must be one of {', '.join(SPLITS)}")
    return SPLITS[name]


def label(row: dict, name: str) -> str | None:
    """An id or a domain as text, or None if the row has none."""
    value = row.get(name)
    if value in (None, ""):
        return None
    if type(value) not in (str, int):
        raise InputError(f"column {name!r} holds {type(value).__name__}, but must hold text or whole numbers")
    if broken(str(value)):
        raise InputError(f"its {name} holds invalid characters (an unpaired surrogate or NUL); change it")
    return str(value)


def sides(row: dict) -> tuple[str | None, str, str]:
    """Prompt, chosen and rejected of a row in any known format. The prompt is None if the two contexts differ."""
    if "summaries" in row and "choice" in row:
        return _tldr(row)
    whole = "prompt" not in row
    chosen_context, chosen = response(row, "chosen", whole)
    rejected_context, rejected = response(row, "rejected", whole)
    if chosen_context is not None or rejected_context is not None:  # whole dialogues, as in HH-RLHF
        return (chosen_context if chosen_context == rejected_context else None), chosen, rejected
    prompt = _column(row, "prompt")
    if isinstance(prompt, list):
        return _context(prompt), chosen, rejected
    prompt = prompt.strip()
    if prompt and not prompt.startswith("Human:"):
        prompt = f"Human: {prompt}"
    return prompt.removesuffix("\n\nAssistant:"), chosen, rejected


def response(row: dict, name: str, whole: bool) -> tuple[str | None, str]:
    """The context (or None) and the response in a column. With `whole`, a text is a dialogue, otherwise a response."""
    value = _column(row, name)
    if isinstance(value, str):
        return split_dialogue(value) if whole else (None, value.strip())
    dialogue(value)  # validates the messages
    if value[-1]["role"] != "assistant":
        raise InputError(f"column {name!r} ends with a message of {value[-1]['role']}, but must end with one of assistant")
    return (_context(value[:-1]) if value[1:] else None), value[-1]["content"].strip()


def _context(messages: Sequence[dict]) -> str:
    text = dialogue(messages)
    if messages[-1]["role"] not in ("user", "human"):
        raise InputError(f"the prompt ends with a message of {messages[-1]['role']}, but must end with one of user")
    return text


def _column(row: dict, name: str) -> str | list:
    """The text or the chat messages in a column."""
    if name not in row:
        columns = [str(c)[:40] if str(c).isprintable() else repr(c)[:40] for c in row][:12]
        raise InputError(f"no column {name!r}; the columns are {', '.join(columns) or 'none'}")
    if isinstance(row[name], str) or isinstance(row[name], list) and row[name]:
        return row[name]
    kind = "an empty list" if row[name] == [] else "no value" if row[name] is None else type(row[name]).__name__
    raise InputError(f"column {name!r} holds {kind}, but must hold text or a list of chat messages")


def _tldr(row: dict) -> tuple[str, str, str]:
    """Parse a TL;DR comparison: the post in `info`, two `summaries`, and the index of the better one in `choice`.

    Rows about news articles have no post and get an empty prompt.
    """
    if type(row["choice"]) is not int or row["choice"] not in (0, 1):
        raise InputError(f"not a TL;DR comparison: choice is {str(row['choice'])[:40]!r}, but must be 0 or 1")
    try:
        first, second = (s["text"].strip() for s in row["summaries"])
        subreddit, title, post = ((row["info"][name] or "").strip() for name in ("subreddit", "title", "post"))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            "not a TL;DR comparison: it needs two summaries with a text each, and info with the texts subreddit, title and post"
        ) from None
    prompt = f"Human: Summarize this post.\n\nSUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}" if post else ""
    return prompt, *((second, first) if row["choice"] else (first, second))


def unusable(prompt: str | None, responses: dict[str, str]) -> str | None:
    """Why the texts of a row are unusable, or None. `responses` maps columns, including chosen and rejected, to texts."""
    if prompt is None:
        return "unequal context"
    if any(map(broken, (prompt, *responses.values()))):
        return "broken characters"
    if not prompt.removeprefix("Human:").strip():
        return "empty prompt"
    empty = [side for side, text in responses.items() if not text]
    if empty:
        return f"empty {empty[0]}"
    return "identical responses" if responses["chosen"] == responses["rejected"] else None


def broken(text: str) -> bool:
    """Whether a text contains NUL or an unpaired surrogate, which JSON can express but UTF-8 cannot."""
    return BROKEN.search(text) is not None
