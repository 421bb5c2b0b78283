"""The errors for invalid input."""


class InputError(ValueError):
    """Invalid input (parameter, file or model). The message is one sentence: what is wrong, where, and how to fix it."""


class TooLongError(InputError):
    """A context, with the tokens that follow it, exceeds a model's window."""
