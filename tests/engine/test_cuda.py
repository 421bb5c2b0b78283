"""On a GPU: the results of the CPU, few waits, graphs, and models that take turns. Skipped where there is none."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm

from icdpo_nb.engine.turns import is_aside, turns_on
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
PROTOCOL = RECOMMENDED.but(max_new_tokens=40)
CONTEXTS = [f"Human: {'Tell me a story. ' * k}\n\nAssistant:" for k in (1, 30, 3, 20, 5, 14, 2)]


def both(folder, kind: str, dtype: str = "float32"):
    """A tiny model on the CPU and on the GPU."""
    name = str(save_tiny_lm(folder, kind))
    return load_lm(name, device="cpu"), load_lm(name, device="cuda", dtype=dtype)


def wide_llama(folder, dtype: str):
    """As `both`, with heads wide enough for flash attention; four query heads share two of keys and values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    save_tiny_lm(folder)
    config = LlamaConfig.from_pretrained(folder, hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return load_lm(str(folder), device="cpu"), load_lm(str(folder), device="cuda", dtype=dtype)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gpt_neox", "gpt_oss", "cohere", "mamba"])
def test_a_gpu_gives_the_results_of_the_cpu(kind, tmp_path):
    cpu, gpu = both(tmp_path, kind)
    sampled = cpu.sample(CONTEXTS, 3, PROTOCOL)
    again = gpu.sample(CONTEXTS, 3, PROTOCOL)
    same = [y.token_ids == z.token_ids for ys, zs in zip(sampled, again, strict=True) for y, z in zip(ys, zs, strict=True)]
    assert np.mean(same) > 0.9, "rounding may change a token now and then, which changes those after it"
    for ys, values in zip(sampled, gpu.logprobs(CONTEXTS, sampled), strict=True):
        for y, v in zip(ys, values, strict=True):
            np.testing.assert_allclose(v, y.logps, atol=1e-3)


@pytest.mark.parametrize("start", ["", "## An instruction of some length. " * 10], ids=["apart", "with a prefix"])
def test_contexts_in_16_bits_agree_without_a_mask(start, tmp_path):
    cpu, gpu = wide_llama(tmp_path, "bfloat16")
    contexts = [start + c for c in CONTEXTS]
    sampled = gpu.sample(contexts, 3, PROTOCOL)
    for ys, values in zip(sampled, cpu.logprobs(contexts, sampled), strict=True):
        np.testing.assert_allclose(np.concatenate([y.logps for y in ys]), np.concatenate(values), atol=0.1)
    for ys, values in zip(sampled, gpu.logprobs(contexts, sampled, rescore=True), strict=True):
        np.testing.assert_allclose(np.concatenate([y.logps for y in ys]), np.concatenate(values), atol=0.1)


def test_recorded_steps_give_the_same_samples(tmp_path):
    _, gpu = both(tmp_path, "llama")
    recorded = gpu.sample(CONTEXTS, 3, PROTOCOL)
    assert gpu.engine.records, "no step failed to be recorded"
    gpu.engine.records = False
    plain = gpu.sample(CONTEXTS, 3, PROTOCOL)
    same = [y.token_ids == z.token_ids for ys, zs in zip(recorded, plain, strict=True) for y, z in zip(ys, zs, strict=True)]
    assert np.mean(same) > 0.9
    np.testing.assert_allclose(recorded[0][0].logps[:8], plain[0][0].logps[:8], atol=1e-4)


def test_steps_that_wait_are_not_recorded_and_go_on(tmp_path, monkeypatch):
    cpu, gpu = both(tmp_path, "llama")
    gpu.prepare()
    forward = gpu.engine.forward

    def waits(*args):
        hidden = forward(*args)
        hidden.sum().item()
        return hidden

    monkeypatch.setattr(gpu.engine, "forward", waits)
    sampled = gpu.sample(CONTEXTS, 3, PROTOCOL)
    assert not gpu.engine.records
    for ys, values in zip(sampled, cpu.logprobs(CONTEXTS, sampled), strict=True):
        np.testing.assert_allclose(np.concatenate([y.logps for y in ys]), np.concatenate(values), atol=1e-3)


def test_a_step_waits_once(tmp_path):
    _, gpu = both(tmp_path, "llama")
    protocol = PROTOCOL.but(top_k=10)  # a nucleus that needs more than the 64 best tokens is looked for again
    gpu.sample(CONTEXTS, 3, protocol)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            gpu.sample(CONTEXTS[:1], 3, protocol)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [w for w in waits if "synchroniz" in str(w.message)]
    where = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in found)
    assert len(found) < PROTOCOL.max_new_tokens + 12, where


def test_models_take_turns(tmp_path, monkeypatch):
    _, one = both(tmp_path / "one", "llama")
    _, two = both(tmp_path / "two", "llama")
    turns = turns_on("cuda")
    monkeypatch.setattr(turns, "memory", 0)
    expected = one.sample(CONTEXTS, 2, PROTOCOL)
    two.sample(CONTEXTS, 2, PROTOCOL)
    assert [is_aside(lm.engine.model) for lm in (one, two)] == [True, False]
    again = one.sample(CONTEXTS, 2, PROTOCOL)
    assert [[y.token_ids for y in ys] for ys in again] == [[y.token_ids for y in ys] for ys in expected]


def test_weights_go_to_the_gpu_by_themselves(tmp_path):
    lm = load_lm(str(save_tiny_lm(tmp_path)))
    assert (lm.device.split(":")[0], lm.dtype) == ("cuda", "bfloat16")
