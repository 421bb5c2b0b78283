"""The protocol's values and its refusals."""

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.protocol import PAPER, RECOMMENDED, REFERENCE, Protocol, named_protocol, seed_of


def test_the_three_differ_where_they_should():
    assert (RECOMMENDED.n_demos, RECOMMENDED.n_candidates, RECOMMENDED.top_p) == (2, 3, 0.8)  # Appendix B
    assert [p.eos_scored for p in (PAPER, REFERENCE, RECOMMENDED)] == ["never", "always", "never"]
    assert RECOMMENDED.but(eos_scored="if_sampled").eos_scored == "if_sampled"
    assert (PAPER.support, REFERENCE.support) == ("mixed", "domain")
    assert (PAPER.totals, REFERENCE.totals) == ("macro", "micro")
    assert len({tuple(p.settings().items()) for p in (PAPER, REFERENCE, RECOMMENDED)}) == 3


def test_a_changed_protocol_says_so():
    assert RECOMMENDED.but(n_demos=4).name == "RECOMMENDED*"
    assert RECOMMENDED.but(n_demos=2) is RECOMMENDED
    assert PAPER.but(n_demos=4).but(top_k=5).name == "PAPER*"


@pytest.mark.parametrize(
    "bad",
    [
        {"eos_scored": "sometimes"}, {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": 0.0}, {"n_candidates": 0}, {"n_demos": -1},
        {"max_new_tokens": 0}, {"top_k": -1}, {"bm25_window": 0}, {"n_demos": "2"}, {"n_demos": 2.0}, {"most_similar_last": 1},
        {"top_p": float("nan")},
    ],
)  # fmt: skip
def test_values_out_of_range(bad):
    with pytest.raises(InputError, match=f"protocol: {next(iter(bad))} is"):
        Protocol(**bad)


def test_unknown_protocol():
    with pytest.raises(InputError, match="must be one of PAPER, REFERENCE, RECOMMENDED"):
        named_protocol("paper")


def test_seeds_are_the_same_everywhere():
    assert seed_of(0, "sample", "x") == 12103370953622399093  # sha256 of '0\\0sample\\0x'
    assert seed_of(0, "a") != seed_of(0, "b") != seed_of(1, "b")
    assert seed_of(0, "ab", "c") != seed_of(0, "a", "bc")
