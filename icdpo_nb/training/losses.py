"""The losses of Relative Preference Optimization (Yin et al., arXiv:2402.10958), RPO, as pure functions of log-ratios.

DPO holds a chosen response against the rejected one of its own prompt; RPO against the rejected ones of all prompts in the
batch, more or less according to how alike the prompts are. The RPO of TRL (a likelihood term added to DPO's loss,
arXiv:2404.19733 and 2405.16436) and that of NeMo (reward-aware preference optimization, arXiv:2406.11704) are other methods.

Here M chosen stand in the rows and N rejected responses in the columns; the log-ratio of a response is
log π_θ - log π_ref, summed over its tokens, nats. Paired data have M = N, and row and column i of one prompt. The unknown
log Z(x) of Eq. 9 is left out, as in the paper (its Appendix A): within a prompt it cancels, between prompts it does not.
"""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch.nn.functional import logsigmoid, normalize

from ..common.errors import InputError

Vectors = torch.Tensor | np.ndarray | Sequence
WEIGHTINGS = ("embedding", "uniform", "diagonal")  # the three strategies of section 3.2


def check_weighting(name: str) -> None:
    """Raises `InputError` for what is none of `WEIGHTINGS`."""
    if name not in WEIGHTINGS:
        raise InputError(f"weighting is {name!r}, but must be {', '.join(WEIGHTINGS[:-1])} or {WEIGHTINGS[-1]}")


def prompt_weights(
    chosen_embeddings: Vectors, rejected_embeddings: Vectors, tau: float = 0.5, distance: str = "listing"
) -> torch.Tensor:
    """Weights by the likeness of prompts, shape (M, N), float64; a row sums to 1: the softmax of -d / tau (Eqs. 10 and 11).

    The embeddings are those of the prompts of the M chosen (M, D) and the N rejected responses (N, D); for paired data they
    are the same. `distance`: "listing" is d = 1 - cos, as in the paper's Listing 1 and its released code, so that like prompts
    count more; "equation" is d = cos, as Eq. 10 reads to the letter, and then like prompts count less. The default follows the
    listing, because the paper's words do ("contrast scores derived from thematically similar prompts are accentuated") and the
    equation to the letter would undo them. A vector of zeros has the cosine 0 with any other. `tau`: 0.5 for paired and 0.75
    for unpaired data in the paper; the greater, the more alike the weights. Raises `InputError` for shapes that do not fit,
    values that are not finite, a tau that is not above 0 and another distance.
    """
    if not tau > 0:
        raise InputError(f"tau is {tau}, but must be above 0; the paper takes 0.5 for paired and 0.75 for unpaired data")
    if distance not in ("listing", "equation"):
        raise InputError(f"distance is {distance!r}, but must be listing or equation")
    chosen, rejected = _embeddings("chosen", chosen_embeddings), _embeddings("rejected", rejected_embeddings)
    if chosen.shape[1] != rejected.shape[1]:
        sizes = f"{chosen.shape[1]} dimensions and rejected ones {rejected.shape[1]}"
        raise InputError(f"chosen embeddings have {sizes}; take one encoder for both")
    cosine = normalize(chosen) @ normalize(rejected).T
    d = 1 - cosine if distance == "listing" else cosine
    return torch.softmax((d.amin(1, keepdim=True) - d) / tau, 1)  # the nearest is at 0, so that no tau overflows


def uniform_weights(m: int, n: int) -> torch.Tensor:
    """1 / N for each rejected response, shape (M, N), float64: the paper's uniform strategy, for paired and unpaired data."""
    return torch.full((_count("m", m), _count("n", n)), 1 / n, dtype=torch.float64)


def diagonal_weights(m: int, alpha: float = 0.8) -> torch.Tensor:
    """`alpha` for a prompt's own pair, (1 - alpha) / (M - 1) for each other, shape (M, M), float64 (Eq. 13); for paired data.

    A prompt alone has the weight 1, whatever alpha, where Eq. 13 divides by 0; so paired RPO of one prompt is DPO. Raises
    `InputError` for an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}, but must lie between 0 and 1, as the share of a prompt's own pair")
    if _count("m", m) == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    weights = torch.full((m, m), (1 - alpha) / (m - 1), dtype=torch.float64)
    return weights.fill_diagonal_(alpha)


def contrast_matrix(
    chosen_logratios: Vectors, rejected_logratios: Vectors, weights: Vectors | None = None, beta: float = 0.1
) -> torch.Tensor:
    """The contrastive scores, shape (M, N): w_ij · beta · (r_i - r_j) (Eq. 12), or without weights beta · (r_i - r_j) (Eq. 9).

    Log-ratios (M,) of the chosen and (N,) of the rejected responses, nats; weights (M, N). Gradients flow through the
    log-ratios and never through the weights. Log-ratios that are not finite make scores that are not. Raises `InputError` for
    an empty batch, shapes that do not fit and a beta that is not above 0.
    """
    if not 0 < beta < float("inf"):
        raise InputError(f"beta is {beta}, but must be a number above 0; the paper takes 0.1")
    chosen, rejected = _logratios("chosen", chosen_logratios), _logratios("rejected", rejected_logratios)
    scores = beta * (chosen[:, None] - rejected[None, :])
    return scores if weights is None else _weights(weights, scores) * scores


def rpo_loss(
    chosen_logratios: Vectors, rejected_logratios: Vectors, weights: Vectors, beta: float = 0.1, weigh: str = "score"
) -> torch.Tensor:
    """The loss of RPO, a scalar in nats, for paired (M x M) and unpaired data (M x N); arguments as in `contrast_matrix`.

    `weigh` says what the weights multiply. "score": the scores, inside log σ, and the loss is the mean over all pairs of
    -log σ(w_ij · beta · (r_i - r_j)) (Eqs. 12 to 14 and Listing 1). "loss": the pairs' losses, and the loss is the mean over
    the chosen of Σ_j w_ij · -log σ(beta · (r_i - r_j)), as the released code does in its diagonal strategy.

    They differ in scale and in kind. With weights of about 1 / N, "score" divides by N twice: a log-ratio's gradient is about
    1 / N of DPO's and of "loss", so a step of plain SGD or a clipped one is not comparable (RMSprop and Adam rescale it); and
    since the scores are small, it stays in the linear part of log σ, where a pair that is already ordered counts as much as
    one that is not. With one prompt (M = N = 1, weight 1) both are DPO's loss (arXiv:2305.18290, Eq. 7). Raises `InputError`
    as `contrast_matrix` does, and for another `weigh`.
    """
    if weigh not in ("score", "loss"):
        raise InputError(f"weigh is {weigh!r}, but must be score or loss")
    if weigh == "score":
        return -logsigmoid(contrast_matrix(chosen_logratios, rejected_logratios, weights, beta)).mean()
    scores = contrast_matrix(chosen_logratios, rejected_logratios, beta=beta)
    return -(_weights(weights, scores) * logsigmoid(scores)).sum(1).mean()


def ipo_loss(chosen_logratios: Vectors, rejected_logratios: Vectors, beta: float = 0.1) -> torch.Tensor:
    """The loss of IPO, a scalar in nats squared: the mean over pairs of (r_i - r_i' - 1 / 2β)² (arXiv:2402.10958, Eq. 5).

    Log-ratios are sums over tokens, so a response is to gain 1 / 2β nats on the other: 5 at β = 0.1. TRL's `ipo` divides them
    by the number of tokens, and the same β asks for as much a token. Raises `InputError` as `contrast_matrix` does.
    """
    gaps = contrast_matrix(chosen_logratios, rejected_logratios, beta=beta).diagonal() / beta
    if len(chosen_logratios) != len(rejected_logratios):
        raise InputError(
            f"IPO needs pairs, but there are {len(chosen_logratios)} chosen and {len(rejected_logratios)} rejected"
        )
    return (gaps - 1 / (2 * beta)).square().mean()


def gradient_of(
    chosen_logratios: Vectors, rejected_logratios: Vectors, weights: Vectors, beta: float = 0.1, weigh: str = "score"
) -> torch.Tensor:
    """The gradient of `rpo_loss` by the log-ratios, chosen before rejected, shape (M + N,); arguments and errors as there."""
    sides = [
        _logratios(side, values).detach().requires_grad_()
        for side, values in (("chosen", chosen_logratios), ("rejected", rejected_logratios))
    ]
    return torch.cat(torch.autograd.grad(rpo_loss(*sides, weights, beta, weigh), sides))


def gradient_cosine(
    chosen_logratios: Vectors, rejected_logratios: Vectors, weights: Vectors, others: Vectors, beta: float = 0.1
) -> float:
    """The cosine of the gradients that two weightings give at the same log-ratios: at 1 they teach the same.

    Inside log σ the weights of a row, which sum to 1, cancel while |w_ij · β · (r_i - r_j)| is small: σ is then 1/2, and the
    gradient of a chosen response is -β/2 · Σ_j w_ij / (M N) = -β / (2 M N), whatever the weights; that of a rejected one is
    β / (2 M N) times the sum of its column, which is about 1 too, and just 1 where the weights are symmetric.
    """
    ours, theirs = (gradient_of(chosen_logratios, rejected_logratios, w, beta) for w in (weights, others))
    return float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0))


def _count(name: str, value: int) -> int:
    if not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value!r}, but must be a number of responses, at least 1")
    return value


def _embeddings(side: str, values: Vectors) -> torch.Tensor:
    """(rows, D) in float64, in which no square of a float32 overflows, on the processor and apart from any gradient."""
    vectors = torch.as_tensor(values).detach().cpu().double()
    if vectors.ndim != 2 or not vectors.numel():
        raise InputError(f"{side} embeddings have shape {tuple(vectors.shape)}, but must be (responses, dimensions), none 0")
    if not vectors.isfinite().all():
        raise InputError(f"{side} embeddings hold values that are not finite; embed the prompts again")
    return vectors


def _logratios(side: str, values: Vectors) -> torch.Tensor:
    """A vector in its own precision, but at least float32: differences of bfloat16 sums would be rounded to whole nats."""
    vector = torch.as_tensor(values)
    if vector.ndim != 1 or not len(vector):
        raise InputError(f"{side} log-ratios have shape {tuple(vector.shape)}, but must be one number for each response")
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


def _weights(values: Vectors, scores: torch.Tensor) -> torch.Tensor:
    weights = torch.as_tensor(values).detach()
    if weights.shape != scores.shape:
        m, n = scores.shape
        raise InputError(f"weights have shape {tuple(weights.shape)}, but {m} chosen and {n} rejected need ({m}, {n})")
    return weights.to(scores)
