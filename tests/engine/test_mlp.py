"""Gated MLPs in blocks of rows: the same values, for small ones that consist of nothing else."""

import pytest
import torch
from torch import nn

from icdpo_nb.engine.linear import choose_products
from icdpo_nb.engine.mlp import VALUES, split_mlps


class GatedMLP(nn.Module):
    """As in Llama; counts its calls and their rows."""

    def __init__(self, hidden: int = 8, inner: int = 16):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(hidden, inner), nn.Linear(hidden, inner)
        self.down_proj, self.act_fn = nn.Linear(inner, hidden), nn.SiLU()
        self.calls = []

    def forward(self, x):
        """down(act(gate(x)) * up(x))."""
        self.calls.append(x.shape[:-1].numel())
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Routed(GatedMLP):
    """With a router."""

    def __init__(self):
        super().__init__()
        self.router = nn.Embedding(2, 8)


class Masked(GatedMLP):
    """Takes a mask as well."""

    def forward(self, x, mask=None):
        """Of unmasked rows."""
        return super().forward(x)


class Plain(nn.Module):
    """Without a gate."""

    def __init__(self):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(8, 16), nn.Linear(16, 8)


@pytest.mark.parametrize("inner", [16, 300])
@pytest.mark.parametrize("blocks", [0.2, 1.4, 2, 3.3])
@torch.inference_mode()
def test_blocks_hold_all_rows_and_give_the_same_values(inner, blocks):
    model = nn.Sequential(GatedMLP(inner=inner))
    rows = VALUES // inner
    x = torch.randn(2, int(blocks * rows / 2), 8)
    expected = model(x)
    assert [name for _, name, _ in split_mlps(model)] == ["forward"]
    assert split_mlps(model) == [], "once"
    model[0].calls.clear()
    torch.testing.assert_close(model(x), expected)
    assert (len(model[0].calls), sum(model[0].calls)) == (max(1, round(blocks)), 2 * x.shape[1])
    assert max(model[0].calls) < 1.5 * rows


def test_what_was_replaced_can_be_put_back():
    model = nn.Sequential(GatedMLP())
    for module, name, own in split_mlps(model):
        setattr(module, name, own)
    model(torch.zeros(3 * VALUES // 16, 8))
    assert len(model[0].calls) == 1


@pytest.mark.parametrize("other", [Routed(), Masked(), Plain(), GatedMLP(inner=513), nn.Linear(8, 8)])
def test_others_stay_as_they_are(other):
    assert split_mlps(nn.Sequential(other)) == []


def test_packed_products_count_as_well(monkeypatch):
    monkeypatch.setattr("icdpo_nb.engine.linear.faster_product", lambda layer: "oneDNN")
    model = nn.Sequential(GatedMLP())
    if not choose_products(model):
        pytest.skip("PyTorch without oneDNN")
    assert len(split_mlps(model)) == 1
