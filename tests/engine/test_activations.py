"""Activation functions of which a number has the same bits wherever it stands; `test_invariance.py` has whole models."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from icdpo_nb.engine.activations import GRAIN, LANES, EvenActivation, even_activations, even_size

FUNCTIONS = ["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "sigmoid", "tanh", "mish", "relu2"]


@given(st.integers(0, 20 * GRAIN), st.integers(1, 70))
def test_every_thread_has_whole_vectors(n, threads):
    """For PyTorch's number of threads, one for each `GRAIN` numbers begun, and for all of them."""
    size = even_size(n, threads)
    at_work = min(threads, -(-size // GRAIN)) or 1
    assert n <= size < n + threads * GRAIN
    assert threads > 2 or size < n + 2 * LANES * threads
    assert size % at_work == size % threads == (size // at_work) % LANES == (size // threads) % LANES == 0


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("threads", [1, 2, 3])
@torch.inference_mode()
def test_a_number_has_the_same_bits_wherever_it_stands(name, threads):
    """In tensors of few tokens and many, of even widths and others, whole or part of a wider one."""
    function, before = EvenActivation(ACT2FN[name]), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for width in (48, 224, 33):
            wide = torch.randn(700, 2 * width, generator=torch.Generator().manual_seed(0)) * 3
            x = wide[:, :width].contiguous()
            whole = function(x)
            torch.testing.assert_close(whole, ACT2FN[name](x))
            assert torch.equal(function(wide[:, :width]), whole)
            for n in (1, 2, 3, 5, 17, 75, 147, 149, 301, 433):
                assert torch.equal(function(x[:n]), whole[:n])
                assert torch.equal(function(x[None, -n:]), whole[None, -n:])
    finally:
        torch.set_num_threads(before)


def test_functions_are_replaced_once_and_those_with_parameters_stay():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU(), torch.nn.PReLU(), torch.nn.Sequential(ACT2FN["gelu"]))
    before = model[1], model[3][0]
    assert even_activations(model) == [(model, "1", before[0]), (model[3], "0", before[1])]
    assert even_activations(model) == []
    assert [type(m).__name__ for m in model] == ["Linear", "EvenActivation", "PReLU", "Sequential"]
    x = torch.randn(3, 4)
    assert torch.equal(model[1](x)[:1], model[1](x[:1]))
