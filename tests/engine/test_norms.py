"""Norms in one operation: the same values, for plain ones only."""

import pytest
import torch
from conftest import save_tiny_lm
from torch import nn
from transformers import AutoModelForCausalLM

from icdpo_nb.engine.norms import FusedNorm, fuse_norms


class Plain(nn.Module):
    """As in Llama."""

    def __init__(self, size: int = 8, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(size)), eps

    def forward(self, x):
        """In its own steps."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class FromOne(Plain):
    """As in Gemma: the weight is a difference from 1."""

    def forward(self, x):
        """One more than the weight."""
        return (1 + self.weight) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Gated(Plain):
    """As in Mamba: plain without its gate."""

    def forward(self, x, gate=None):
        """Gated, or not."""
        return super().forward(x if gate is None else x * gate)


class Biased(Plain):
    """Another parameter."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(8))


def test_plain_norms_alone_are_replaced():
    layers = [Plain(), Plain(16), FromOne(), Gated(), Biased(), nn.LayerNorm(8), nn.Linear(8, 8)]
    model = nn.Sequential(*layers)
    replaced = fuse_norms(model)
    assert [(parent, name, child) for parent, name, child in replaced] == [(model, "0", layers[0]), (model, "1", layers[1])]
    assert fuse_norms(model) == [], "nothing is left"
    for before, after, size in ((layers[0], model[0], 8), (layers[1], model[1], 16)):
        x = torch.randn(4, 5, size)
        torch.testing.assert_close(after(x), before(x))


@pytest.mark.parametrize(("kind", "norms"), [("llama", 5), ("qwen2", 5), ("gemma2", 0), ("gpt2", 0), ("cohere", 0)])
def test_a_model_is_the_same_with_them(kind, norms, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(save_tiny_lm(tmp_path, kind), dtype=torch.float32).eval()
    ids = torch.arange(4, 44)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        assert len(fuse_norms(model)) == norms
        torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-4, rtol=1e-4)
    assert sum(isinstance(m, FusedNorm) for m in model.modules()) == norms
    assert "model.norm.weight" in model.state_dict() or norms == 0
