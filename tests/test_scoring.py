"""The scores by hand."""

import numpy as np
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st

from icdpo_nb.common.errors import InputError
from icdpo_nb.scoring import SCORES, is_empty, score

LOGP = {"base": np.array([-10.0, -20.0]), "icl": np.array([-8.0, -12.0]), "icl_rejected": np.array([-7.0, -15.0])}
N, SAID = np.array([4, 8]), np.zeros(2, bool)


def test_equations_8_and_11():
    assert score("S", LOGP, N, empty=SAID).tolist() == [2, 8]
    assert score("S_hat", LOGP, N, empty=SAID).tolist() == [-1, 3]
    assert score("ICL", LOGP, N, empty=SAID).tolist() == [-8, -12]


def test_mean_reduction_is_the_root_of_the_probability():
    assert score("S", LOGP, N, "mean", empty=SAID).tolist() == [0.5, 1]


@pytest.mark.parametrize("n_tokens", [0, 1, 3])
def test_an_empty_response_never_wins(n_tokens):
    """Whether nothing of it is scored, an EOS alone, or white space and an EOS; for a sum and a mean."""
    logp = {name: np.append(values, {"base": -30.0, "icl": -0.1, "icl_rejected": -30.0}[name]) for name, values in LOGP.items()}
    for name in SCORES:
        for reduction in ("sum", "mean"):
            found = score(name, logp, np.append(N, n_tokens), reduction, empty=np.append(SAID, True))
            assert found[2] == -np.inf
            assert np.isfinite(found[:2]).all()


def test_emptiness_is_of_the_text():
    assert is_empty(["Yes.", "", " ", "\n\t", ".", " a "]).tolist() == [False, True, True, True, False, False]
    assert is_empty([]).shape == (0,)


def test_unknown_reduction():
    with pytest.raises(InputError, match="reduction is 'max', but must be sum or mean"):
        score("S", {"icl": np.zeros(1), "base": np.zeros(1)}, np.ones(1), "max", empty=np.zeros(1, bool))


def test_unknown_score():
    with pytest.raises(InputError, match="score is 'S-hat', but must be one of S, S_hat, ICL"):
        score("S-hat", LOGP, N, empty=SAID)


# ---------------------------------------------------------------- properties

NATS = st.floats(-1e4, 0)
ROWS = st.lists(st.tuples(NATS, NATS, NATS, st.integers(0, 500)), min_size=1, max_size=8).map(lambda rows: np.array(rows).T)
CASES = st.tuples(ROWS, st.sampled_from(["sum", "mean"]))


def scored(name: str, columns, n, reduction: str) -> np.ndarray:
    """Scores where a response without tokens is the empty one."""
    return score(name, dict(zip(("base", "icl", "icl_rejected"), columns, strict=True)), n, reduction, empty=n == 0)


@few(100)
@given(CASES)
def test_swapping_expert_and_amateur_turns_the_sign(case):
    (base, icl, rejected, n), reduction = case
    said = n > 0
    for name, swapped in (("S", (icl, base, rejected)), ("S_hat", (base, rejected, icl))):
        there, back = scored(name, (base, icl, rejected), n, reduction), scored(name, swapped, n, reduction)
        assert (there[said] == -back[said]).all()


@few(100)
@given(CASES, st.floats(-100, 100))
def test_what_both_contexts_share_does_not_count(case, shift):
    (base, icl, rejected, n), reduction = case
    for name in ("S", "S_hat"):
        moved = scored(name, (base + shift, icl + shift, rejected + shift), n, reduction)
        np.testing.assert_allclose(moved, scored(name, (base, icl, rejected), n, reduction), rtol=0, atol=1e-8)


@few(100)
@given(CASES)
def test_mean_is_sum_by_length_and_nothing_said_is_last(case):
    (*columns, n), _ = case
    for name in SCORES:
        total, mean = (scored(name, columns, n, reduction) for reduction in ("sum", "mean"))
        np.testing.assert_allclose(mean[n > 0] * n[n > 0], total[n > 0], rtol=1e-12, atol=1e-12)
        assert (total[n == 0] == -np.inf).all()
        assert (mean[n == 0] == -np.inf).all()
        assert np.isfinite(total[n > 0]).all()


@few(100)
@given(CASES, st.randoms(use_true_random=False))
def test_a_score_belongs_to_its_response(case, random):
    """The order of the responses does not matter, and neither do the others."""
    (*columns, n), reduction = case
    order = list(range(len(n)))
    random.shuffle(order)
    for name in SCORES:
        values = scored(name, columns, n, reduction)
        assert scored(name, [c[order] for c in columns], n[order], reduction).tolist() == values[order].tolist()
        assert scored(name, [c[:1] for c in columns], n[:1], reduction).tolist() == values[:1].tolist()
