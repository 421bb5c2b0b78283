"""The one error that a user is to see: bad input, said in a sentence."""


class InputError(ValueError):
    """Bad input from outside (parameter, file, model): one sentence that says what, where and how to mend it."""
