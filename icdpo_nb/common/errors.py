"""The error for invalid input."""


class InputError(ValueError):
    """Invalid input (parameter, file or model). The message is one sentence: what is wrong, where, and how to fix it."""
