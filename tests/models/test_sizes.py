"""Sizes of models from their configurations, against the models themselves and the published numbers of the paper's models."""

import pytest
import torch
from conftest import save_tiny_lm
from transformers import AutoConfig, GPTNeoXConfig, LlamaConfig, MistralConfig

from icdpo_nb.common.errors import InputError
from icdpo_nb.engine import attention
from icdpo_nb.models.devices import DEVICES, named_device
from icdpo_nb.models.lm import load_lm
from icdpo_nb.models.sizes import size_of

SEVEN = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
PAPER = {  # configuration of each base model and of the reward model, and its number of weights as published
    "LLaMA": (LlamaConfig(**SEVEN, vocab_size=32_000, intermediate_size=11_008), 6_738_415_616),
    "Mistral": (
        MistralConfig(**SEVEN, vocab_size=32_000, intermediate_size=14_336, num_key_value_heads=8), 7_241_732_096,
    ),
    "Pythia": (
        GPTNeoXConfig(**SEVEN, vocab_size=50_432, intermediate_size=16_384, tie_word_embeddings=False), 6_857_302_016,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_weights_of_the_papers_models(name):
    config, n = PAPER[name]
    size = size_of(config)
    assert size.n_parameters == n
    assert size.weights == 2 * n
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    assert size.per_token[0] == 2 * 32 * heads * 128 * 2  # keys and values, layers, heads, head width, bytes


def test_quantised_layers_by_hand():
    """LLaMA-7B: 6.476 G weights in layers, the rest (embeddings, output layer, norms) in bfloat16."""
    config, n = PAPER["LLaMA"]
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    assert size_of(config, "int8").weights == layers + 2 * (n - layers)
    assert size_of(config, "nf4").weights == layers * 4.5 / 8 + 2 * (n - layers)


def test_each_stage_of_the_paper_fits_on_a_card_of_24_gb():
    """Two models do not fit side by side in bfloat16; each of them does alone, at the paper's lengths."""
    sizes = [size_of(config) for config, _ in PAPER.values()]
    memory = DEVICES["RTX-4090"].memory
    assert sum(size.weights for size in sizes[:2]) > memory
    assert all(size.least_memory(2 * 448 + 448, 3, 128) < memory for size in sizes)
    quantised = size_of(PAPER["LLaMA"][0], "nf4")
    shape = (1344, 3, 128)
    assert quantised.contexts_at_a_time(memory, *shape) > sizes[0].contexts_at_a_time(memory, *shape) > 0
    assert sizes[0].contexts_at_a_time(12e9, *shape) == 0


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "cohere"])
def test_sizes_equal_those_of_the_loaded_model(kind, tmp_path, monkeypatch):
    """With blocks of attention as on a GPU: those of a CPU depend on its kernels."""
    monkeypatch.setattr(attention, "key_width", lambda n, device: n)
    monkeypatch.setattr(attention, "block_of", lambda position, most, device: (position, position + most))
    folder = save_tiny_lm(tmp_path, kind)
    size, lm = size_of(AutoConfig.from_pretrained(folder), "float32"), load_lm(str(folder))
    assert size.n_parameters == lm.n_parameters
    assert size.weights == sum(p.nbytes for p in lm.engine.model.parameters())
    lm.engine.take()
    lm.engine.batch_tokens = lm.engine.cache_tokens = 256
    assert size.per_token[0] == lm.engine.token_bytes()[0]
    assert size.per_token[1] == pytest.approx(lm.engine.token_bytes()[1], rel=0.2)  # kernels' workspaces differ


def test_operations_by_hand():
    config = LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=20, tie_word_embeddings=True
    )
    size = size_of(config, "float32")
    layers = 4 * 8 * 8 + 3 * 8 * 12
    assert size.in_layers == layers
    assert size.operations(5, keys=15, logits=2) == 2 * (layers * 5 + 2 * 8 * 15 + 20 * 8 * 2)


def test_a_reward_model_has_a_size():
    config = GPTNeoXConfig(**SEVEN, vocab_size=50_288, intermediate_size=16_384, num_labels=1)
    size = size_of(config, task="SequenceClassification")
    assert size.weights == pytest.approx(2 * 6.65e9, rel=0.01)
    assert size.per_token[0] == 0
    assert size.weights < size.least_memory(1024, 0, 0) < size.weights + 2e9


def test_bad_input():
    with pytest.raises(InputError, match="dtype is 'fp8', but must be"):
        size_of(PAPER["LLaMA"][0], "fp8")
    with pytest.raises(InputError, match="did you mean H100"):
        named_device("h-100")
    assert named_device("a100") is DEVICES["A100"]


def test_nothing_is_allocated():
    size = size_of(PAPER["LLaMA"][0])
    assert {p.device for p in size.model.parameters()} == {torch.device("meta")}
