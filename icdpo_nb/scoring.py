"""The scores of ICDPO as pure functions of log-probabilities: S (Eq. 8), Ŝ (Eq. 11), and the expert alone (ICL).

They take any arrays, so the columns `logp_base`, `logp_icl`, `logp_icl_rejected` of a candidates table as well.
"""

from collections.abc import Mapping

import numpy as np

from .protocol import InputError

SCORES = {
    "S": ("icl", "base"),  # log π(y|[d;x]) - log π(y|x)
    "S_hat": ("icl", "icl_rejected"),  # log π(y|[d+;x]) - log π(y|[d-;x])
    "ICL": ("icl", None),  # log π(y|[d;x]): π* alone
}


def score(name: str, logp: Mapping[str, np.ndarray], n_tokens: np.ndarray, reduction: str = "sum") -> np.ndarray:
    """The score `name` of each response, nats (or nats per token with `reduction="mean"`, the n-th root of section 4.1).

    `logp`: Σ log π over a response's tokens under each context, by context name, shape (n,); `n_tokens`: (n,).
    A response without tokens scores -inf: nothing was said that could be preferred, and its empty sum of 0 could win.

    >>> score("S", {"icl": np.array([-3.0, -5.0]), "base": np.array([-4.0, -9.0])}, np.array([2, 4]))
    array([1., 4.])
    """
    if name not in SCORES:
        raise InputError(f"score is {name!r}, but must be one of {', '.join(SCORES)}")
    if reduction not in ("sum", "mean"):
        raise InputError(f"reduction is {reduction!r}, but must be sum or mean")
    expert, amateur = SCORES[name]
    n_tokens = np.asarray(n_tokens, float)
    value = np.asarray(logp[expert], float) - (np.asarray(logp[amateur], float) if amateur else 0.0)
    value = value / np.maximum(n_tokens, 1) if reduction == "mean" else value
    return np.where(n_tokens > 0, value, -np.inf)
