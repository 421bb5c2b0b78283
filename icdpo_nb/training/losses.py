"""The losses of Relative Preference Optimization (RPO; Yin et al., arXiv:2402.10958) and IPO, as functions of log-ratios.

DPO contrasts a chosen response with the rejected response to the same prompt. RPO contrasts it with the rejected responses to
all prompts in the batch, weighted by the similarity of the prompts. Two other methods have the same abbreviation: TRL's RPO
adds a likelihood term to the loss of DPO (arXiv:2404.19733 and 2405.16436), and NeMo's RPO is reward-aware preference
optimization (arXiv:2406.11704).

The M chosen responses are the rows of the contrast matrix, the N rejected responses its columns. The log-ratio of a response is
log π_θ - log π_ref, summed over its tokens, in nats. In paired data M = N, and row i and column i belong to one prompt. The
unknown log Z(x) of Eq. 9 is omitted, as in the paper (Appendix A). It cancels within a prompt, but not between prompts.
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
    """Raise `InputError` unless the name is one of `WEIGHTINGS`."""
    if name not in WEIGHTINGS:
        raise InputError(f"weighting is {name!r}, but must be {', '.join(WEIGHTINGS[:-1])} or {WEIGHTINGS[-1]}")


def prompt_weights(
    chosen_embeddings: Vectors, rejected_embeddings: Vectors, tau: float = 0.5, distance: str = "listing"
) -> torch.Tensor:
    """Weights by the similarity of prompts: the softmax of -d / tau over each row (Eqs. 10 and 11); shape (M, N), float64.

    The embeddings are those of the prompts of the M chosen responses (M, D) and the N rejected responses (N, D); in paired data
    they are equal. The cosine with a zero vector is defined as 0. Raises `InputError` for mismatched shapes, non-finite values,
    a non-positive tau and an unknown distance.

    `tau`: the paper uses 0.5 for paired and 0.75 for unpaired data. The larger it is, the more uniform are the weights.
    `distance`: "listing" is d = 1 - cos, as in the paper's Listing 1 and its released code, and gives similar prompts more
    weight. "equation" is d = cos, as Eq. 10 is printed, and gives them less. The default follows the listing, which agrees with
    the text ("contrast scores derived from thematically similar prompts are accentuated"); the printed equation contradicts it.
    """
    if not tau > 0:
        raise InputError(f"tau is {tau}, but must be above 0; the paper uses 0.5 for paired and 0.75 for unpaired data")
    if distance not in ("listing", "equation"):
        raise InputError(f"distance is {distance!r}, but must be listing or equation")
    chosen, rejected = _embeddings("chosen", chosen_embeddings), _embeddings("rejected", rejected_embeddings)
    if chosen.shape[1] != rejected.shape[1]:
        sizes = f"{chosen.shape[1]} dimensions and rejected embeddings {rejected.shape[1]}"
        raise InputError(f"chosen embeddings have {sizes}; use the same encoder for both")
    cosine = normalize(chosen) @ normalize(rejected).T
    d = 1 - cosine if distance == "listing" else cosine
    return torch.softmax((d.amin(1, keepdim=True) - d) / tau, 1)  # shifted to a maximum of 0 to avoid overflow


def uniform_weights(m: int, n: int) -> torch.Tensor:
    """The paper's uniform strategy: 1 / N for each rejected response, paired or unpaired; shape (M, N), float64."""
    return torch.full((_count("m", m), _count("n", n)), 1 / n, dtype=torch.float64)


def diagonal_weights(m: int, alpha: float = 0.8) -> torch.Tensor:
    """Weights for paired data: `alpha` on the diagonal and (1 - alpha) / (M - 1) elsewhere (Eq. 13); shape (M, M), float64.

    For a single prompt, where Eq. 13 divides by 0, the weight is 1, so that paired RPO of one prompt equals DPO. Raises
    `InputError` for an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}, but must lie between 0 and 1; it is the weight of the prompt's own pair")
    if _count("m", m) == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    weights = torch.full((m, m), (1 - alpha) / (m - 1), dtype=torch.float64)
    return weights.fill_diagonal_(alpha)


def contrast_matrix(
    chosen_logratios: Vectors, rejected_logratios: Vectors, weights: Vectors | None = None, beta: float = 0.1
) -> torch.Tensor:
    """The contrastive scores w_ij · beta · (r_i - r_j) (Eq. 12), or beta · (r_i - r_j) without weights (Eq. 9); shape (M, N).

    Log-ratios have shape (M,) for the chosen and (N,) for the rejected responses, in nats; weights have shape (M, N). Gradients
    flow through the log-ratios, not through the weights. Non-finite log-ratios give non-finite scores. Raises `InputError` for
    an empty batch, mismatched shapes and a non-positive beta.
    """
    if not 0 < beta < float("inf"):
        raise InputError(f"beta is {beta}, but must be a number above 0; the paper uses 0.1")
    chosen, rejected = _logratios("chosen", chosen_logratios), _logratios("rejected", rejected_logratios)
    scores = beta * (chosen[:, None] - rejected[None, :])
    return scores if weights is None else _weights(weights, scores) * scores


def rpo_loss(
    chosen_logratios: Vectors, rejected_logratios: Vectors, weights: Vectors, beta: float = 0.1, weigh: str = "score"
) -> torch.Tensor:
    """The loss of RPO, a scalar in nats, for paired (M x M) and unpaired (M x N) data; arguments as in `contrast_matrix`.

    `weigh` determines what the weights multiply. With "score" they multiply the scores inside log σ, and the loss is the mean
    of -log σ(w_ij · beta · (r_i - r_j)) over all pairs (Eqs. 12 to 14 and Listing 1). With "loss" they multiply the losses of
    the pairs, and the loss is the mean of Σ_j w_ij · -log σ(beta · (r_i - r_j)) over the chosen responses, as in the diagonal
    strategy of the released code.

    The two differ in scale and in kind. With weights of about 1 / N, "score" divides by N twice. The gradient of a log-ratio is
    then about 1 / N of that of "loss" or DPO, so steps of plain SGD or with gradient clipping are not comparable (RMSprop and
    Adam rescale them). Since the scores are small, log σ remains in its linear range, in which correctly ordered pairs
    contribute as much as the others. For a single prompt (M = N = 1, weight 1) both equal the loss of DPO (arXiv:2305.18290,
    Eq. 7). Raises `InputError` as `contrast_matrix` does, and for an unknown `weigh`.
    """
    if weigh not in ("score", "loss"):
        raise InputError(f"weigh is {weigh!r}, but must be score or loss")
    if weigh == "score":
        return -logsigmoid(contrast_matrix(chosen_logratios, rejected_logratios, weights, beta)).mean()
    scores = contrast_matrix(chosen_logratios, rejected_logratios, beta=beta)
    return -(_weights(weights, scores) * logsigmoid(scores)).sum(1).mean()


def ipo_loss(chosen_logratios: Vectors, rejected_logratios: Vectors, beta: float = 0.1) -> torch.Tensor:
    """The loss of IPO, a scalar in nats squared: the mean over pairs of (r_i - r_i' - 1 / 2β)² (arXiv:2402.10958, Eq. 5).

    Log-ratios are sums over tokens, so the target for the difference is 1 / 2β nats per pair, 5 for β = 0.1. TRL's `ipo`
    divides log-ratios by the number of tokens, so that the same β sets this target per token. Raises `InputError` as
    `contrast_matrix` does.
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
    """The gradient of `rpo_loss` with respect to the log-ratios, chosen before rejected, shape (M + N,).

    Arguments and errors are those of `rpo_loss`.
    """
    chosen = _logratios("chosen", chosen_logratios).detach().requires_grad_()
    rejected = _logratios("rejected", rejected_logratios).detach().requires_grad_()
    return torch.cat(torch.autograd.grad(rpo_loss(chosen, rejected, weights, beta, weigh), (chosen, rejected)))


def gradient_cosine(
    chosen_logratios: Vectors, rejected_logratios: Vectors, weights: Vectors, others: Vectors, beta: float = 0.1
) -> float:
    """The cosine between the gradients of two weightings at the same log-ratios; at 1 both train the same policy.

    The weights of a row sum to 1 and cancel inside log σ if |w_ij · β · (r_i - r_j)| is small. σ is then 1/2, and the gradient
    of a chosen response is -β/2 · Σ_j w_ij / (M N) = -β / (2 M N) for all weights. The gradient of a rejected response is
    β / (2 M N) times the sum of its column, which is also about 1, and exactly 1 for symmetric weights.
    """
    first, second = (gradient_of(chosen_logratios, rejected_logratios, w, beta) for w in (weights, others))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def _count(name: str, value: int) -> int:
    if not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value!r}, but must be a number of responses, at least 1")
    return value


def _embeddings(side: str, values: Vectors) -> torch.Tensor:
    """Detached embeddings on the CPU, shape (rows, D), in float64 so that squares of float32 values do not overflow."""
    vectors = torch.as_tensor(values).detach().cpu().double()
    if vectors.ndim != 2 or not vectors.numel():
        raise InputError(f"{side} embeddings have shape {tuple(vectors.shape)}, but must be (responses, dimensions), none 0")
    if not vectors.isfinite().all():
        raise InputError(f"{side} embeddings contain non-finite values; embed the prompts again")
    return vectors


def _logratios(side: str, values: Vectors) -> torch.Tensor:
    """A vector in at least float32, since differences of bfloat16 sums would be rounded to whole nats."""
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
