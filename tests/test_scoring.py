"""The scores by hand."""

import numpy as np
import pytest

from icdpo_nb.protocol import InputError
from icdpo_nb.scoring import SCORES, score

LOGP = {"base": np.array([-10.0, -20.0]), "icl": np.array([-8.0, -12.0]), "icl_rejected": np.array([-7.0, -15.0])}
N = np.array([4, 8])


def test_equations_8_and_11():
    assert score("S", LOGP, N).tolist() == [2, 8]
    assert score("S_hat", LOGP, N).tolist() == [-1, 3]
    assert score("ICL", LOGP, N).tolist() == [-8, -12]


def test_mean_reduction_is_the_root_of_the_probability():
    assert score("S", LOGP, N, "mean").tolist() == [0.5, 1]


def test_an_empty_response_never_wins():
    empty = {name: np.append(values, 0.0) for name, values in LOGP.items()}
    for name in SCORES:
        assert np.argmax(score(name, empty, np.append(N, 0))) != 2


def test_unknown_score():
    with pytest.raises(InputError, match="score is 'S-hat', but must be one of S, S_hat, ICL"):
        score("S-hat", LOGP, N)
