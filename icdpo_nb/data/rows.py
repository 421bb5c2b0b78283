"""The shapes of a raw row: HH-RLHF's whole dialogues, prompt/chosen/rejected columns, chat messages, TL;DR comparisons.

A row that has none of these shapes is an `InputError`; of one whose texts cannot serve, `unusable` says why.
"""

import re
from collections.abc import Sequence

from ..common.errors import InputError
from .sources import SPLITS


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


def split_dialogue(text: str) -> tuple[str, str]:
    r"""Split an HH-RLHF dialogue at its last `Assistant:` into prompt and response; paragraphs are kept.

    "\n\nHuman: Hi\n\nAssistant: Hello\n\nBye" -> ("Human: Hi", "Hello\n\nBye"). Raises `InputError` without such a turn.
    """
    prompt, marker, response = ("\n\n" + text.lstrip()).rpartition("\n\nAssistant:")
    if not marker:
        raise InputError(r"a dialogue without a \n\nAssistant: turn; add it, or give the prompt in a column 'prompt'")
    return prompt.strip(), response.strip()


def named_split(row: dict) -> str | None:
    """The split that a row names: support, dev or test."""
    name = row.get("split")
    if name in (None, ""):
        return None
    if not isinstance(name, str) or name not in SPLITS:
        raise InputError(f"split is {str(name)[:40]!r}, but must be one of {', '.join(SPLITS)}")
    return SPLITS[name]


def label(row: dict, name: str) -> str | None:
    """An id or a domain as text; None where there is none."""
    value = row.get(name)
    if value in (None, ""):
        return None
    if type(value) not in (str, int):
        raise InputError(f"column {name!r} holds {type(value).__name__}, but must hold text or whole numbers")
    if broken(str(value)):
        raise InputError(f"its {name} holds characters that are none (half a surrogate pair, or NUL); give it another")
    return str(value)


def sides(row: dict) -> tuple[str | None, str, str]:
    """Prompt, chosen and rejected of a raw row of any known shape; prompt is None where the two sides' contexts differ."""
    if "summaries" in row and "choice" in row:
        return _tldr(row)
    whole = "prompt" not in row
    (before, chosen), (other, rejected) = response(row, "chosen", whole), response(row, "rejected", whole)
    if before is not None or other is not None:  # whole dialogues on both sides, as in HH-RLHF
        return (before if before == other else None), chosen, rejected
    prompt = _column(row, "prompt")
    if isinstance(prompt, list):
        return _context(prompt), chosen, rejected
    prompt = prompt.strip()
    if prompt and not prompt.startswith("Human:"):
        prompt = f"Human: {prompt}"
    return prompt.removesuffix("\n\nAssistant:"), chosen, rejected


def response(row: dict, name: str, whole: bool) -> tuple[str | None, str]:
    """A response, and the context that stands before it in the same column; a text is a whole dialogue or none."""
    said = _column(row, name)
    if isinstance(said, str):
        return split_dialogue(said) if whole else (None, said.strip())
    dialogue(said)  # complains of what is no message
    if said[-1]["role"] != "assistant":
        raise InputError(f"column {name!r} ends with a message of {said[-1]['role']}, but must end with one of assistant")
    return (_context(said[:-1]) if said[1:] else None), said[-1]["content"].strip()


def _context(messages: Sequence[dict]) -> str:
    text = dialogue(messages)
    if messages[-1]["role"] not in ("user", "human"):
        raise InputError(f"the prompt ends with a message of {messages[-1]['role']}, but must end with one of user")
    return text


def _column(row: dict, name: str) -> str | list:
    """The text or the chat messages of a column."""
    if name not in row:
        columns = [str(c)[:40] if str(c).isprintable() else repr(c)[:40] for c in row][:12]
        raise InputError(f"no column {name!r}; the columns are {', '.join(columns) or 'none'}")
    if isinstance(row[name], str) or isinstance(row[name], list) and row[name]:
        return row[name]
    kind = "an empty list" if row[name] == [] else type(row[name]).__name__
    raise InputError(f"column {name!r} holds {kind}, but must hold text or a list of chat messages")


def _tldr(row: dict) -> tuple[str, str, str]:
    """A TL;DR comparison: the post in `info`, two `summaries`, and the index of the better one in `choice`.

    Its rows about news articles have no post; their prompt is empty.
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
    """Why the texts of a row cannot serve, or None; `responses` by column, `chosen` and `rejected` among them."""
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
    """Whether a text holds NUL or half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    return re.search("[\0\ud800-\udfff]", text) is not None
