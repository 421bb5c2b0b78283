"""Weights in several places and in other precisions: the scores of the model's own forward pass, and what is said of them."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import one_by_one, save_tiny_lm

from icdpo_nb.common.errors import InputError
from icdpo_nb.models import placement
from icdpo_nb.models.lm import load_lm
from icdpo_nb.models.placement import checked_device, precision, weight_options
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import stored

CONTEXTS = ["Human: Hi\n\nAssistant:", "Human: How do I boil rice?\n\nAssistant:"]
needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
EVERYWHERE = {
    "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu",
    "model.rotary_emb": "cpu", "lm_head": "disk",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(save_tiny_lm(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> str:
    """A model whose weights fill the blocks of 64 numbers that are quantised together."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = save_tiny_lm(tmp_path_factory.mktemp("wide"))
    config = LlamaConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model.save_pretrained(folder)
    return str(folder)


def scores(lm) -> list[np.ndarray]:
    """Log-probabilities of two responses under two contexts."""
    said = [lm.encode_response(t) for t in ("Gladly: with water.", "No!")]
    return [v for row in lm.logprobs(CONTEXTS, [said, said]) for v in row]


def own_scores(lm) -> list[np.ndarray]:
    """The same by the model's own forward pass, one row at a time."""
    found = []
    for context in CONTEXTS:
        for text in ("Gladly: with water.", "No!"):
            found.append(one_by_one(lm.engine.model, lm.encode_context(context), lm.encode_response(text).token_ids))
    return found


@needs_accelerate
@pytest.mark.filterwarnings("ignore:.*without shared contexts")
def test_layers_on_disk_score_and_sample_as_those_in_memory(folder):
    whole, spread = load_lm(folder), load_lm(folder, device=EVERYWHERE)
    assert spread.device == "cpu"
    assert spread.path == "llama runs without shared contexts: layers in several places"
    for ours, theirs in zip(scores(spread), scores(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    short = RECOMMENDED.but(max_new_tokens=6)
    sampled = ([[y.token_ids for y in ys] for ys in lm.sample(CONTEXTS, 2, short)] for lm in (spread, whole))
    assert next(sampled) == next(sampled)


@needs_accelerate
def test_a_map_with_one_place_shares_contexts(folder):
    lm = load_lm(folder, device={"": "cpu"})
    assert lm.path == "llama runs with shared contexts"
    for ours, theirs in zip(scores(lm), scores(load_lm(folder)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "bits"), [("nf4", 4), ("int8", 8)])
def test_quantised_weights(wide, dtype, bits, tmp_path):
    lm, whole = load_lm(wide, dtype=dtype), load_lm(wide)
    assert lm.dtype == f"float32, bitsandbytes {bits} bits"
    ours, exact = scores(lm), scores(whole)
    for values, own in zip(ours, own_scores(load_lm(wide, dtype=dtype)), strict=True):
        np.testing.assert_allclose(values, own, atol=0.1 if dtype == "int8" else 1e-4)  # int8 rounds what it multiplies
    assert max(np.abs(a - b).max() for a, b in zip(ours, exact, strict=True)) > 1e-4, "the weights are coarser"
    store = Store(tmp_path / "s.sqlite")
    results = [scores(stored(model, store=store)) for model in (whole, lm)]
    assert not np.allclose(results[0][0], results[1][0], atol=1e-5), "a store keeps the precisions apart"


def test_the_environment_says_what_is_auto(monkeypatch):
    monkeypatch.setenv("ICDPO_DTYPE", "bfloat16")
    monkeypatch.setenv("ICDPO_DEVICE", "nowhere")
    assert weight_options("auto", "cpu") == {"dtype": torch.bfloat16}
    assert weight_options("float32", "cpu") == {"dtype": torch.float32}
    with pytest.raises(InputError, match="device is 'nowhere', but torch has no such device here"):
        weight_options("auto", "auto")


def test_weights_go_straight_to_their_device(monkeypatch):
    monkeypatch.setattr(placement, "checked_device", lambda device: device)
    monkeypatch.setattr(placement, "find_spec", lambda package: True)
    assert weight_options("auto", "cuda:1") == {"dtype": torch.bfloat16, "device_map": {"": "cuda:1"}}
    spread = weight_options("float16", "balanced")
    assert (spread["dtype"], spread["device_map"]) == (torch.float16, "balanced")
    assert spread["offload_folder"].endswith("offload")
    monkeypatch.setattr(placement, "find_spec", lambda package: None)
    with pytest.raises(InputError, match="device 'balanced' needs accelerate; run: pip install accelerate"):
        weight_options("auto", "balanced")
    with pytest.raises(InputError, match="dtype nf4 needs bitsandbytes; run: pip install bitsandbytes"):
        weight_options("nf4", "cpu")


def test_apples_gpu_is_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert checked_device("auto") == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert checked_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (None, "float16"),
        ({"quant_method": "gptq", "bits": 4}, "float16, gptq 4 bits"),
        ({"quant_method": "fp8"}, "float16, fp8"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "float16, bitsandbytes 8 bits"),
    ],
)
def test_the_precision_of_a_checkpoint(settings, says):
    config = SimpleNamespace(**({"quantization_config": settings} if settings else {}))
    assert precision(SimpleNamespace(dtype=torch.float16, config=config)) == says
