"""The errors for invalid input, and what other libraries' errors say."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Invalid input (parameter, file or model). The message is one sentence: what is wrong, where, and how to fix it."""


def hint(name: str, known: Iterable[str], there_are: str = "there are", cutoff: float = 0.5) -> str:
    """The end of a complaint about an unknown name: the nearest known one, or all of them.

    >>> hint("n_prompt", ["n_prompts", "seed"])
    "did you mean 'n_prompts'?"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, cutoff)
    return f"did you mean {near[0]!r}?" if near else f"{there_are} {', '.join(known) or 'none'}"


def first_line(error: Exception, limit: int = 160) -> str:
    """The first line of what another library's error says, cut; the name of its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


class TooLongError(InputError):
    """A context, with the tokens that follow it, exceeds a model's window."""
