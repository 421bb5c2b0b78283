"""RPO's losses against loops in plain Python, numbers worked by hand, DPO where one prompt is left, and the gradients."""

from math import exp, inf, log, nan, sqrt

import numpy as np
import pytest
import torch
from conftest import few
from hypothesis import given
from hypothesis import strategies as st

from icdpo_nb.common.errors import InputError
from icdpo_nb.training.losses import (
    contrast_matrix,
    diagonal_weights,
    gradient_cosine,
    gradient_of,
    ipo_loss,
    prompt_weights,
    rpo_loss,
    uniform_weights,
)

WEIGHS = ("score", "loss")


def batch(m: int, n: int, dimensions: int = 3, seed: int = 0):
    """Random embeddings (m, D) and (n, D) and log-ratios (m,) and (n,), float64."""
    random = torch.Generator().manual_seed(seed)
    sizes = [(m, dimensions), (n, dimensions), (m,), (n,)]
    return [3 * torch.randn(*size, generator=random, dtype=torch.float64) for size in sizes]


def log_sigmoid(x: float) -> float:
    return -log(1 + exp(-x))


def softmax_rows(rows: list[list[float]]) -> list[list[float]]:
    return [[exp(x) / sum(exp(y) for y in row) for x in row] for row in rows]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def mean(rows: list[list[float]]) -> float:
    return sum(sum(row) for row in rows) / sum(len(row) for row in rows)


# ---------------------------------------------------------------- against the paper


@pytest.mark.parametrize(("m", "n"), [(4, 4), (3, 5), (5, 2), (1, 4), (4, 1)])
@pytest.mark.parametrize("distance", ["listing", "equation"])
def test_the_loss_is_that_of_the_listing_and_the_equations(m, n, distance):
    """A loop over pairs: d, its softmax over j, w_ij · beta · (r_i - r_j), and the mean of -log σ (Eqs. 10-12 and 14)."""
    x, z, chosen, rejected = batch(m, n)
    d = [[(1 - cosine(a, b)) if distance == "listing" else cosine(a, b) for b in z.tolist()] for a in x.tolist()]
    w = softmax_rows([[-value / 0.5 for value in row] for row in d])
    gaps = [[a - b for b in rejected.tolist()] for a in chosen.tolist()]
    weights = prompt_weights(x, z, distance=distance)
    assert weights.numpy() == pytest.approx(np.array(w), abs=1e-12)
    scores = [[w[i][j] * 0.1 * gaps[i][j] for j in range(n)] for i in range(m)]
    assert contrast_matrix(chosen, rejected, weights).numpy() == pytest.approx(np.array(scores), abs=1e-12)
    inside = mean([[-log_sigmoid(s) for s in row] for row in scores])
    assert rpo_loss(chosen, rejected, weights).item() == pytest.approx(inside, abs=1e-12)
    outside = sum(-w[i][j] * log_sigmoid(0.1 * gaps[i][j]) for i in range(m) for j in range(n)) / m
    assert rpo_loss(chosen, rejected, weights, weigh="loss").item() == pytest.approx(outside, abs=1e-12)


def test_diagonal_emphasis_is_equation_13():
    _, _, chosen, rejected = batch(4, 4)
    gaps = [[0.3 * (a - b) for b in rejected.tolist()] for a in chosen.tolist()]
    scores = [[(0.8 if i == j else 0.2 / 3) * gaps[i][j] for j in range(4)] for i in range(4)]
    assert rpo_loss(chosen, rejected, diagonal_weights(4), beta=0.3).item() == pytest.approx(
        mean([[-log_sigmoid(s) for s in row] for row in scores]), abs=1e-12
    )


def test_weighing_losses_is_the_diagonal_strategy_of_the_released_code():
    """alpha times the loss of the own pair, and 1 - alpha times the mean loss of the others, averaged over the prompts."""
    _, _, chosen, rejected = batch(4, 4)
    losses = [[-log_sigmoid(0.1 * (a - b)) for b in rejected.tolist()] for a in chosen.tolist()]
    others = [sum(row[:i] + row[i + 1 :]) / 3 for i, row in enumerate(losses)]
    expected = sum(0.8 * losses[i][i] + 0.2 * others[i] for i in range(4)) / 4
    assert rpo_loss(chosen, rejected, diagonal_weights(4), weigh="loss").item() == pytest.approx(expected, abs=1e-12)


def test_two_prompts_by_hand():
    """Prompts at a right angle: d = 0 and 1, w = 1 / (1 + e^-2) = 0.880797 and 0.119203.

    Log-ratios 2, 0 and -1, 1 differ by [[3, 1], [1, -1]]; beta 0.1 makes the scores [[0.3, 0.1], [0.1, -0.1]], weighted
    [[0.264239, 0.011920], [0.011920, -0.088080]], whose -log σ are [[0.569730, 0.687205], [0.687205, 0.738156]], mean 0.670574.
    Unweighted, -log σ is [[0.554355, 0.644397], [0.644397, 0.744397]]; the rows' weighted sums are 0.565088 and 0.732477,
    their mean 0.648782.
    """
    weights = prompt_weights([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 3.0]])
    assert weights.flatten().tolist() == pytest.approx([0.880797, 0.119203, 0.119203, 0.880797], abs=1e-6)
    chosen, rejected = torch.tensor([2.0, 0.0]).double(), torch.tensor([-1.0, 1.0]).double()
    assert contrast_matrix(chosen, rejected).flatten().tolist() == pytest.approx([0.3, 0.1, 0.1, -0.1])
    assert rpo_loss(chosen, rejected, weights).item() == pytest.approx(0.670574, abs=1e-6)
    assert rpo_loss(chosen, rejected, weights, weigh="loss").item() == pytest.approx(0.648782, abs=1e-6)


@pytest.mark.parametrize("weigh", WEIGHS)
@pytest.mark.parametrize("name", ["listing", "equation", "uniform", "diagonal"])
def test_one_prompt_alone_is_dpo(name, weigh):
    x, _, chosen, rejected = batch(1, 1)
    weights = {
        "listing": lambda: prompt_weights(x, x),
        "equation": lambda: prompt_weights(x, x, distance="equation"),
        "uniform": lambda: uniform_weights(1, 1),
        "diagonal": lambda: diagonal_weights(1, 0.3),
    }[name]()
    dpo = -log_sigmoid(0.1 * (chosen.item() - rejected.item()))
    assert rpo_loss(chosen, rejected, weights, weigh=weigh).item() == pytest.approx(dpo, abs=1e-12)


@pytest.mark.parametrize("weigh", WEIGHS)
def test_all_weight_on_the_diagonal_is_dpo_only_outside(weigh):
    """With alpha = 1 "loss" is the mean of DPO's losses; "score" adds log 2 for each pair of weight 0, and divides by M."""
    _, _, chosen, rejected = batch(3, 3)
    dpo = mean([[-log_sigmoid(0.1 * (a - b)) for a, b in zip(chosen.tolist(), rejected.tolist(), strict=True)]])
    found = rpo_loss(chosen, rejected, diagonal_weights(3, 1.0), weigh=weigh).item()
    assert found == pytest.approx(dpo if weigh == "loss" else (dpo + 2 * log(2)) / 3, abs=1e-12)


def test_ipo_is_equation_5():
    """Log-ratios 2 and 0 against -1 and 1: gaps 3 and -1; at β = 0.1 the target is 5 nats, so (4 + 36) / 2."""
    assert ipo_loss([2.0, 0.0], [-1.0, 1.0]).item() == pytest.approx(20)
    _, _, chosen, rejected = batch(4, 4)
    expected = mean([[(a - b - 1 / (2 * 0.3)) ** 2 for a, b in zip(chosen.tolist(), rejected.tolist(), strict=True)]])
    assert ipo_loss(chosen, rejected, 0.3).item() == pytest.approx(expected, abs=1e-9)
    assert ipo_loss([0.0], [0.0]).item() == pytest.approx(25), "before the first step"


# ---------------------------------------------------------------- weights


def test_like_prompts_count_more_but_not_by_the_letter_of_equation_10():
    prompt, like, unlike = [1.0, 0.0], [0.9, 0.1], [-1.0, 0.2]
    near, far = prompt_weights([prompt], [like, unlike])[0].tolist()
    assert near > far
    near, far = prompt_weights([prompt], [like, unlike], distance="equation")[0].tolist()
    assert near < far


def test_weights_of_special_batches():
    x, z, _, _ = batch(3, 4)
    assert prompt_weights(x, z, tau=inf).tolist() == uniform_weights(3, 4).tolist() == [[0.25] * 4] * 3
    assert prompt_weights(x, z, tau=1e9).numpy() == pytest.approx(0.25, abs=1e-8)
    nearest = torch.tensor([[cosine(a, b) for b in z.tolist()] for a in x.tolist()]).argmax(1)
    for tau in (1e-6, 5e-324):
        assert prompt_weights(x, z, tau).tolist() == torch.eye(4)[nearest].tolist(), "all on the most alike"
    twice = prompt_weights(x, torch.cat([z[:1], z[1:2], z[:1]]))
    assert twice[:, 0].numpy() == pytest.approx(twice[:, 2].numpy(), abs=1e-15), "the same prompt twice"
    assert prompt_weights(x[:1].expand(5, 3), x[:1].expand(5, 3)).numpy() == pytest.approx(0.2, abs=1e-12)
    assert diagonal_weights(1, 0).tolist() == [[1.0]]
    assert diagonal_weights(3).numpy() == pytest.approx(0.1 + 0.7 * np.eye(3))
    assert diagonal_weights(2, 0).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("distance", ["listing", "equation"])
def test_a_vector_of_zeros_is_at_a_right_angle_to_all(distance):
    weights = prompt_weights([[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], distance=distance)
    assert weights[0].tolist() == pytest.approx([1 / 3] * 3)
    assert weights[1, 1].item() == weights[1, 2].item()


def test_embeddings_may_be_large_and_of_any_type():
    x, z, _, _ = batch(3, 4)
    expected = prompt_weights(x, z).numpy()
    assert prompt_weights(x.numpy(), z.numpy()).numpy() == pytest.approx(expected, abs=1e-15)
    assert prompt_weights(x.float() * 1e30, z.float() * 1e-3).numpy() == pytest.approx(expected, abs=1e-6)
    assert prompt_weights(x.bfloat16(), z.requires_grad_()).requires_grad is False


@few(60)
@given(
    m=st.integers(1, 6),
    n=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    tau=st.floats(0.01, 100),
    weigh=st.sampled_from(WEIGHS),
)
def test_rows_sum_to_one_and_the_order_of_responses_is_nothing(m, n, seed, tau, weigh):
    x, z, chosen, rejected = batch(m, n, seed=seed)
    for distance in ("listing", "equation"):
        weights = prompt_weights(x, z, tau, distance)
        assert weights.sum(1).numpy() == pytest.approx(1.0)
        assert (weights >= 0).all()
        loss = rpo_loss(chosen, rejected, weights, weigh=weigh).item()
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        moved = rpo_loss(chosen, rejected[order], prompt_weights(x, z[order], tau, distance), weigh=weigh).item()
        assert moved == pytest.approx(loss, rel=1e-12)
    for weights in (uniform_weights(m, n), diagonal_weights(m, tau / 100)):
        assert weights.sum(1).numpy() == pytest.approx(1.0)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("weigh", WEIGHS)
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (1, 1)])
def test_gradients_are_those_of_the_loss(m, n, weigh):
    x, z, chosen, rejected = batch(m, n)
    weights = prompt_weights(x, z)
    inputs = (chosen.requires_grad_(), rejected.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: rpo_loss(a, b, weights, 0.7, weigh), inputs)


@pytest.mark.parametrize("weigh", WEIGHS)
def test_no_gradient_reaches_the_weights(weigh):
    x, z, chosen, rejected = (t.requires_grad_() for t in batch(3, 4))
    free = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    (rpo_loss(chosen, rejected, prompt_weights(x, z), weigh=weigh) + rpo_loss(chosen, rejected, free, weigh=weigh)).backward()
    assert x.grad is z.grad is free.grad is None
    assert (chosen.grad < 0).all(), "a chosen response becomes more likely"
    assert (rejected.grad > 0).all()


def test_weighing_scores_shrinks_the_first_gradients_by_n():
    """Where the policy is still the reference, all log-ratios are 0: β / 2M for each chosen response, or that over N."""
    weights, found = uniform_weights(4, 8), {}
    for weigh in WEIGHS:
        chosen = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        rpo_loss(chosen, torch.zeros(8), weights, weigh=weigh).backward()
        found[weigh] = chosen.grad.tolist()
    assert found["loss"] == pytest.approx([-0.1 / 8] * 4)
    assert found["score"] == pytest.approx([-0.1 / 64] * 4)


@pytest.mark.parametrize("weigh", WEIGHS)
def test_the_gradient_by_log_ratios_is_that_of_differences(weigh):
    """Central differences of the loss, chosen before rejected."""
    x, z, chosen, rejected = batch(3, 4)
    weights, step = prompt_weights(x, z), 1e-5
    expected = []
    for side, values in enumerate((chosen, rejected)):
        for i in range(len(values)):
            moved = [[chosen.clone(), rejected.clone()] for _ in range(2)]
            moved[0][side][i] += step
            moved[1][side][i] -= step
            up, down = (rpo_loss(*sides, weights, 0.4, weigh).item() for sides in moved)
            expected.append((up - down) / (2 * step))
    assert gradient_of(chosen, rejected, weights, 0.4, weigh).tolist() == pytest.approx(expected, abs=1e-8)


def test_weightings_teach_the_same_while_the_scores_are_small():
    """Symmetric weights that sum to 1: the same gradient where log σ is straight, another one where it is not (B1)."""
    _, _, chosen, rejected = batch(8, 8)
    uniform, diagonal = uniform_weights(8, 8), diagonal_weights(8, 0.8)
    cosines = [gradient_cosine(scale * chosen, scale * rejected, diagonal, uniform) for scale in (1e-6, 1.0, 30.0)]
    assert cosines[0] == pytest.approx(1, abs=1e-9)
    assert cosines[0] > cosines[1] > 0.99
    assert cosines[2] < 0.9
    first = gradient_of(1e-6 * chosen, 1e-6 * rejected, uniform)
    assert first.tolist() == pytest.approx([-0.1 / 128] * 8 + [0.1 / 128] * 8, rel=1e-4)


def test_precision_and_size():
    _, _, chosen, rejected = batch(3, 4)
    weights, loss = uniform_weights(3, 4), {}
    for kind in (torch.bfloat16, torch.float32, torch.float64):
        loss[kind] = rpo_loss(chosen.to(kind), rejected.to(kind), weights)
    assert [v.dtype for v in loss.values()] == [torch.float32, torch.float32, torch.float64]
    assert loss[torch.float32].item() == pytest.approx(loss[torch.float64].item(), rel=1e-6)
    for weigh in WEIGHS:
        assert rpo_loss([1e6], [-1e6], [[1.0]], weigh=weigh).item() == 0
        assert rpo_loss([-1e6], [1e6], [[1.0]], weigh=weigh).item() == pytest.approx(2e5), "no overflow"


# ---------------------------------------------------------------- what does not fit

TWO, THREE = torch.ones(2), torch.ones(3)
BAD = [
    (lambda: prompt_weights(torch.ones(2, 3), torch.ones(2, 3), 0), "tau is 0, but must be above 0"),
    (lambda: prompt_weights(torch.ones(2, 3), torch.ones(2, 3), nan), "tau is nan, but must be above 0"),
    (lambda: prompt_weights(torch.ones(2, 3), torch.ones(2, 3), -0.5), "tau is -0.5, but must be above 0"),
    (
        lambda: prompt_weights(torch.ones(2, 3), torch.ones(2, 3), distance="cos"),
        "distance is 'cos', but must be listing or equation",
    ),
    (lambda: prompt_weights(torch.ones(2, 3), torch.ones(2, 4)), "3 dimensions and rejected embeddings 4; use the same"),
    (lambda: prompt_weights(TWO, torch.ones(2, 3)), r"chosen embeddings have shape \(2,\), but must be \(responses, dim"),
    (lambda: prompt_weights(torch.ones(2, 3), torch.ones(0, 3)), r"rejected embeddings have shape \(0, 3\)"),
    (lambda: prompt_weights(torch.ones(2, 3), torch.full((2, 3), nan)), "rejected embeddings contain non-finite values"),
    (lambda: uniform_weights(0, 2), "m is 0, but must be a number of responses, at least 1"),
    (lambda: uniform_weights(2, 0), "n is 0, but must be a number of responses"),
    (lambda: uniform_weights(2, 1.5), "n is 1.5, but must be a number of responses"),
    (lambda: diagonal_weights(-1), "m is -1, but must be"),
    (lambda: diagonal_weights(2, 1.01), "alpha is 1.01, but must lie between 0 and 1"),
    (lambda: diagonal_weights(2, -0.01), "alpha is -0.01, but must lie between 0 and 1"),
    (lambda: diagonal_weights(1, nan), "alpha is nan, but must lie between 0 and 1"),
    (lambda: rpo_loss(TWO, THREE, diagonal_weights(2)), r"shape \(2, 2\), but 2 chosen and 3 rejected need \(2, 3\)"),
    (lambda: rpo_loss(TWO, THREE, uniform_weights(3, 2), weigh="loss"), r"shape \(3, 2\), but 2 chosen and 3 rejected"),
    (lambda: rpo_loss(TWO, THREE, 0.5), r"weights have shape \(\), but"),
    (lambda: rpo_loss([], TWO, torch.ones(0, 2)), r"chosen log-ratios have shape \(0,\), but must be one number for each"),
    (lambda: rpo_loss(TWO, torch.ones(2, 1), uniform_weights(2, 2)), r"rejected log-ratios have shape \(2, 1\)"),
    (lambda: rpo_loss(torch.tensor(1.0), TWO, uniform_weights(1, 2)), r"chosen log-ratios have shape \(\)"),
    (lambda: rpo_loss(TWO, TWO, uniform_weights(2, 2), beta=0), "beta is 0, but must be a number above 0"),
    (lambda: rpo_loss(TWO, TWO, uniform_weights(2, 2), beta=-0.1), "beta is -0.1, but must be"),
    (lambda: rpo_loss(TWO, TWO, uniform_weights(2, 2), beta=inf), "beta is inf, but must be"),
    (lambda: rpo_loss(TWO, TWO, uniform_weights(2, 2), weigh="scores"), "weigh is 'scores', but must be score or loss"),
    (lambda: contrast_matrix(TWO, TWO, beta=nan), "beta is nan, but must be"),
    (lambda: ipo_loss(TWO, THREE), "IPO needs pairs, but there are 2 chosen and 3 rejected"),
    (lambda: ipo_loss(TWO, TWO, beta=0), "beta is 0, but must be"),
]


@pytest.mark.parametrize(("call", "sentence"), BAD)
def test_what_does_not_fit_is_said(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
