"""The scores of ICDPO as pure functions of log-probabilities: S (Eq. 8), Ŝ (Eq. 11), and the expert alone (ICL).

They accept any arrays, including the columns `logp_base`, `logp_icl` and `logp_icl_rejected` of a candidates table.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from .common.errors import InputError

Logps = Mapping[str, np.ndarray]  # Σ log π over a response's tokens by context name, each of shape (n,), nats
SCORES: dict[str, Callable[[Logps], np.ndarray]] = {  # a new score is a line here
    "S": lambda logp: logp["icl"] - logp["base"],  # log π(y|[d;x]) - log π(y|x)
    "S_hat": lambda logp: logp["icl"] - logp["icl_rejected"],  # log π(y|[d+;x]) - log π(y|[d-;x])
    "ICL": lambda logp: logp["icl"],  # log π(y|[d;x]): π* alone
}


def is_empty(responses: Iterable[str]) -> np.ndarray:
    """Which responses are blank, shape (n,), regardless of their tokens and of how they ended.

    >>> is_empty(["Yes.", "", "  "])
    array([False,  True,  True])
    """
    return np.array([not text.strip() for text in responses], bool)


def score(name: str, logp: Logps, n_tokens: np.ndarray, reduction: str = "sum", *, empty: np.ndarray) -> np.ndarray:
    """The score `name` of each response in nats, or in nats per token with `reduction="mean"` (n-th root, section 4.1).

    `logp` maps each context name to Σ log π over a response's tokens, shape (n,). `n_tokens` holds the numbers of these
    tokens, shape (n,). `empty` marks the empty responses, shape (n,); see `is_empty`. They score -inf, because the sum
    over no token (0) or over a lone EOS could otherwise win.

    >>> logp = {"icl": np.array([-3.0, -1.0]), "base": np.array([-4.0, -9.0])}
    >>> score("S", logp, np.array([2, 1]), empty=is_empty(["No.", " "]))
    array([  1., -inf])
    """
    if name not in SCORES:
        raise InputError(f"score is {name!r}, but must be one of {', '.join(SCORES)}")
    if reduction not in ("sum", "mean"):
        raise InputError(f"reduction is {reduction!r}, but must be sum or mean")
    value = SCORES[name]({context: np.asarray(values, float) for context, values in logp.items()})
    if reduction == "mean":
        value = value / np.maximum(np.asarray(n_tokens, float), 1)
    return np.where(empty, -np.inf, value)
