"""The errors for invalid input, and what other libraries' errors say."""


class InputError(ValueError):
    """Invalid input (parameter, file or model). The message is one sentence: what is wrong, where, and how to fix it."""


def first_line(error: Exception, limit: int = 160) -> str:
    """The first line of what another library's error says, cut; the name of its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


class TooLongError(InputError):
    """A context, with the tokens that follow it, exceeds a model's window."""
