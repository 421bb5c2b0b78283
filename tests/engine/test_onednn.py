"""Packed linear layers against PyTorch's own."""

import pytest
import torch

from icdpo_nb.engine.onednn import PackedLinear, pack_linears


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
def test_packed_equals_plain(bias):
    torch.manual_seed(0)
    plain = torch.nn.Linear(96, 200, bias=bias)
    packed = PackedLinear(plain)
    for shape in [(1, 96), (3, 96), (2, 5, 96), (700, 96), (2, 0, 96)]:
        x = torch.randn(shape)
        torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(packed.weight, plain.weight)
    x = torch.randn(96, 7).T  # not contiguous
    torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)


def test_only_float32_linears_are_packed():
    model = torch.nn.ModuleDict({
        "a": torch.nn.Linear(4, 4), "bf16": torch.nn.Linear(4, 4, dtype=torch.bfloat16), "e": torch.nn.Embedding(4, 4),
        "inner": torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()),
    })  # fmt: skip
    before = model["a"], model["inner"][0]
    replaced = pack_linears(model)
    expected = PackedLinear if torch.backends.mkldnn.is_available() else torch.nn.Linear
    assert [type(m) for m in (model["a"], model["inner"][0])] == [expected] * 2
    if expected is PackedLinear:
        assert replaced == [(model, "a", before[0]), (model["inner"], "0", before[1])]
    assert [type(m) for m in (model["bf16"], model["e"])] == [torch.nn.Linear, torch.nn.Embedding]
