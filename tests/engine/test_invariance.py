"""Batch invariance: the same bits alone and in company, in any order, with any budgets; `test_drafting.py` has drafts.

Where a processor rounds in a way that was not seen yet, `Engine.invariant` is false, and nothing is promised.
"""

import numpy as np
import pytest
import torch
from architectures import tiny_model, tokenizer
from conftest import save_tiny_lm
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from icdpo_nb.engine import attention, decoding, linear, proof
from icdpo_nb.engine.attention import _attend, _attend_causally
from icdpo_nb.engine.engine import Engine
from icdpo_nb.engine.invariance import KEYS, QUERIES, ROWS, block_end, block_of, key_width, query_multiple, up
from icdpo_nb.engine.linear import FEWEST, ONEDNN, TORCH, round_alike
from icdpo_nb.models.interface import NO_BAR
from icdpo_nb.models.lm import CausalLM, load_lm
from icdpo_nb.protocol import RECOMMENDED

CPU = torch.device("cpu")
looked_at = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="kernels that were not looked at in detail"
)
SERVED = ["llama", "qwen2", "mistral", "gemma2", "gemma3", "gpt2", "gpt_neox", "cohere"]
PROTOCOL = RECOMMENDED.but(max_new_tokens=20)
CONTEXTS = [f"Human: {'Tell me a story. ' * k}And then?\n\nAssistant:" for k in (1, 30, 3, 12, 29, 7, 18)]


@pytest.fixture(params=SERVED)
def lm(request, tmp_path):
    """A tiny model that was found to be invariant on this machine."""
    lm = load_lm(str(save_tiny_lm(tmp_path, request.param)), device="cpu")
    lm.engine.begin()
    if not lm.engine.invariant:
        pytest.skip("kernels of this machine round in another way")
    return lm


def bits(rows) -> list[list[bytes]]:
    """The bits of the log-probabilities, and with them the tokens, of rows of responses or of arrays."""
    return [[np.float32(getattr(y, "logps", y)).tobytes() for y in ys] for ys in rows]


def chosen(rows, order):
    return [rows[i] for i in order]


# ------------------------------------------------------------ widths


@given(st.integers(1, 3 * KEYS))
def test_a_width_holds_the_keys_and_is_whole(n):
    width = key_width(n, CPU)
    assert n <= width <= up(n, KEYS)
    assert (width % ROWS, key_width(width, CPU), key_width(n, torch.device("meta"))) == (0, width, n)


@looked_at
@given(st.integers(1, KEYS + 300), st.sampled_from([QUERIES[0], 5 * QUERIES[0], 64]), st.sampled_from([16, 64]))
def test_keys_beyond_the_width_change_no_bit(n, queries, dim):
    draw, width = torch.Generator().manual_seed(n), key_width(n, CPU)
    query, key, value = (torch.randn(2, 3, size, dim, generator=draw) for size in (queries, 2 * KEYS, 2 * KEYS))
    mask = torch.zeros(1, 1, queries, 2 * KEYS)
    mask[..., n:] = float("-inf")
    outputs = [
        scaled_dot_product_attention(query, key[:, :, :size], value[:, :, :size], attn_mask=mask[..., :size])
        for size in (width, key_width(width + 1, CPU), 2 * KEYS)
    ]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@given(st.integers(0, 2000), st.sampled_from([1, 64, 256]))
def test_blocks_go_on_and_end_where_no_keys_are_added(start, most):
    end = block_end(start, most, CPU)
    assert start < end <= start + most + KEYS
    assert key_width(end, CPU) == end
    assert block_end(start, most, torch.device("meta")) > start


@given(st.integers(0, 2000), st.integers(0, 2000), st.sampled_from([1, 64, 256]))
def test_a_block_holds_its_position_and_overlaps_no_other(position, other, most):
    (start, end), (other_start, other_end) = (block_of(p, most, CPU) for p in (position, other))
    assert start <= position < end == block_end(start, most, CPU)
    assert (start, end) == (other_start, other_end) or end <= other_start or other_end <= start


@looked_at
@given(st.integers(1, 70), st.integers(1, 300), st.sampled_from([8, 64, 80, 128, 256]))
def test_the_number_of_queries_changes_no_bit(n, more, dim):
    """Also of wide heads, of which MKL counts fewer queries as few."""
    draw, width = torch.Generator().manual_seed(n), 3 * ROWS
    query, key, value = (torch.randn(2, 4, size, dim, generator=draw) for size in (n + more, width, width))
    mask = torch.zeros(2, 1, n + more, width)
    whole = _attend(query, key, value, mask, None, None, None)
    for part in (slice(n), slice(more, None)):
        assert torch.equal(_attend(query[:, :, part], key, value, mask[:, :, part], None, None, None), whole[:, part])
    assert query_multiple(dim) in QUERIES


@looked_at
@given(
    st.integers(16, 600),
    st.integers(1, 25).map(lambda n: ROWS * n),
    st.integers(0, 10).map(lambda n: ROWS * n),
    st.sampled_from([None, 100, 150, 300, 400]),
)
def test_neither_a_shared_prefix_nor_a_longer_row_changes_a_bit_of_attention(prefix, new, more, window):
    draw, end = torch.Generator().manual_seed(new), prefix + new
    query, key, value = (torch.randn(2, 3, end + more, 32, generator=draw) for _ in range(3))
    whole = torch.cat(_attend_causally(query, key, value, None, None, None, window), 1)
    part = _attend_causally(query[:, :, prefix:end], key[:, :, :end], value[:, :, :end], None, None, None, window)
    assert torch.equal(torch.cat(part, 1), whole[:, prefix:end])


# ------------------------------------------------------------ samples and scores


def test_samples_do_not_depend_on_company(lm, monkeypatch):
    together = lm.sample(CONTEXTS, 3, PROTOCOL, seed=1)
    for order in ([4, 2, 6], [1], [6, 5, 4, 3, 2, 1, 0]):
        assert bits(lm.sample(chosen(CONTEXTS, order), 3, PROTOCOL, seed=1)) == bits(chosen(together, order))
    monkeypatch.setattr(lm.engine, "cache_tokens", 2 * (len(CONTEXTS[1]) + 3 * PROTOCOL.max_new_tokens))
    monkeypatch.setattr(lm.engine, "batch_tokens", 100)
    assert bits(lm.sample(CONTEXTS, 3, PROTOCOL, seed=1)) == bits(together), "small budgets"


def test_scores_do_not_depend_on_company(lm, monkeypatch):
    rng, vocab = np.random.default_rng(0), lm.engine.model.get_input_embeddings().num_embeddings
    contexts = [rng.integers(vocab // 4, vocab // 2, n).tolist() for n in (5, 300, 17, 290, 301, 90, 301)]
    responses = [[rng.integers(vocab // 4, vocab // 2, n).tolist() for n in (1 + i, 40, 9)] for i in range(len(contexts))]
    together = lm.engine.logprobs(contexts, responses, NO_BAR)
    for order in ([4, 2, 6], [1], [6, 5, 4, 3, 2, 1, 0]):
        got = lm.engine.logprobs(chosen(contexts, order), chosen(responses, order), NO_BAR)
        assert bits(got) == bits(chosen(together, order))
    monkeypatch.setattr(lm.engine, "batch_tokens", 100)
    assert bits(lm.engine.logprobs(contexts, responses, NO_BAR)) == bits(together), "small budgets"


def test_a_shared_prefix_changes_no_bit(lm):
    start = "## An instruction of some length. " * 10
    texts = [start + c for c in CONTEXTS[:3]]
    lm.engine.work.clear()
    together = lm.sample(texts, 2, PROTOCOL)
    assert lm.engine.work["prefill"] < sum(len(lm.encode_context(c)) for c in texts)
    assert [bits(lm.sample([c], 2, PROTOCOL))[0] for c in texts] == bits(together)


@pytest.mark.parametrize("product", [ONEDNN, TORCH])
def test_a_step_computes_no_padding_but_for_products_that_need_rows(product, tmp_path, monkeypatch):
    """Few responses beside each other, as many as there are, with the bits that each has alone."""
    monkeypatch.setattr(linear, "product_times", lambda layer: {product: dict.fromkeys(("512", "16", "6"), 1.0)})
    lm = load_lm(str(save_tiny_lm(tmp_path, "llama")), device="cpu")
    lm.engine.begin()
    if not lm.engine.invariant:
        pytest.skip("kernels of this machine round in another way")
    computed, forward = [], Engine.forward

    def counted(engine, ids, pos, queries, keys, cache, cells=None):
        if cells is not None:
            computed.append((ids.numel(), len(set(cells.tolist()))))
        return forward(engine, ids, pos, queries, keys, cache, cells)

    monkeypatch.setattr(Engine, "forward", counted)
    together = lm.sample(CONTEXTS[:3], 3, PROTOCOL, seed=1)
    least = {ONEDNN: FEWEST, TORCH: ROWS}[product]
    assert all(n == max(least, real) for n, real in computed)
    assert min(real for _, real in computed) < QUERIES[0], "few at the end"
    assert [bits(lm.sample([c], 3, PROTOCOL, seed=1))[0] for c in CONTEXTS[:3]] == bits(together)


@pytest.mark.parametrize("dim", [80, 128, 256])
def test_wide_heads_and_uneven_layers_change_no_bit(dim):
    """As in models of 7B: MKL counts more queries as few; and a width that fills no whole vectors."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()) + 8, hidden_size=256, intermediate_size=200, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=dim, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.ndim > 1 else 1  # as in `save_tiny_lm`
    lm = CausalLM(model, tokenizer(), "wide")
    lm.prepare()
    if not lm.engine.invariant:
        assert torch.backends.cpu.get_cpu_capability() != "AVX512", "where it was seen to hold"
        pytest.skip("kernels of this machine round in another way")
    together = lm.sample(CONTEXTS, 3, PROTOCOL, seed=1)
    assert [bits(lm.sample([c], 3, PROTOCOL, seed=1))[0] for c in CONTEXTS] == bits(together)
    again = lm.logprobs(CONTEXTS, together, rescore=True)
    alone = [lm.logprobs([c], [ys], rescore=True)[0] for c, ys in zip(CONTEXTS, together, strict=True)]
    assert bits(alone) == bits(again)


# ------------------------------------------------------------ where it does not hold


class Uneven(torch.nn.Linear):
    """A product that rounds in another way for some numbers of rows."""

    rows = range(600, 10**9)

    def forward(self, x):
        return super().forward(x) * (1 + 1e-6 * (x.numel() // x.shape[-1] in self.rows))


@pytest.mark.parametrize("rows", [16, 28])
def test_a_layer_that_rounds_by_its_rows_is_found_out(rows, monkeypatch):
    monkeypatch.setattr(Uneven, "rows", [rows])
    assert not round_alike(torch.nn.Sequential(Uneven(8, 8)))
    assert not round_alike(torch.nn.Sequential(torch.nn.Linear(8, 8), Uneven(8, 9)))


@pytest.mark.parametrize(("name", "dtype"), [("qwen3_moe", torch.float32), ("llama", torch.bfloat16)])
def test_mixtures_of_experts_and_other_precisions_are_excepted(name, dtype):
    lm = CausalLM(tiny_model(name).to(dtype), tokenizer(), name)
    lm.prepare()
    assert isinstance(lm.engine, Engine)
    assert not lm.engine.invariant


@pytest.mark.parametrize("seen_by_the_layers", [True, False])
def test_products_that_round_by_their_rows_are_found_out_and_have_no_drafts(seen_by_the_layers, tmp_path, monkeypatch):
    lm = load_lm(str(save_tiny_lm(tmp_path, "llama")), device="cpu")
    mlp = lm.engine.model.model.layers[0].mlp
    mlp.down_proj = Uneven(mlp.down_proj.in_features, mlp.down_proj.out_features, bias=False)
    monkeypatch.setattr(Engine, "choose_layers", lambda engine: [])
    monkeypatch.setattr(decoding.DraftModel, "guess", lambda model, ids, most: [(0.9, 7)] * most and pytest.fail("a guess"))
    if not seen_by_the_layers:
        monkeypatch.setattr(proof, "round_alike", lambda model: True)
    lm.engine.begin()
    assert not lm.engine.invariant
    lm.sample(CONTEXTS[:2], 2, PROTOCOL)


def test_a_function_with_other_last_digits_at_the_end_of_a_pass_is_found_out(tmp_path, monkeypatch):
    """As PyTorch's own have for widths that are no multiple of 32 with AVX-512, where a model calls them directly."""

    def by_place(x):
        x = x.clone()
        x.view(-1)[x.numel() // 64 * 64 :] *= 1 + 1e-3  # a last digit may get lost in this model's sums
        return x

    lm = load_lm(str(save_tiny_lm(tmp_path, "llama")), device="cpu")
    for layer in lm.engine.model.model.layers:
        monkeypatch.setattr(layer.mlp.act_fn, "forward", by_place)
    monkeypatch.setattr("icdpo_nb.engine.engine.even_activations", lambda model: [])
    lm.engine.begin()
    assert not lm.engine.invariant


def test_attention_that_rounds_by_the_number_of_queries_is_found_out(tmp_path, monkeypatch):
    def by_queries(query, *args):
        return _attend(query, *args) * (1 + 1e-6 * (query.shape[2] < 5))

    lm = load_lm(str(save_tiny_lm(tmp_path, "llama")), device="cpu")
    monkeypatch.setattr(attention, "_attend", by_queries)
    lm.engine.begin()
    assert not lm.engine.invariant


def test_attention_that_rounds_by_the_prefix_is_found_out(tmp_path, monkeypatch):
    def by_prefix(query, key, *args):
        return [part * (1 + 1e-6 * (key.shape[2] > query.shape[2])) for part in _attend_causally(query, key, *args)]

    lm = load_lm(str(save_tiny_lm(tmp_path, "llama")), device="cpu")
    monkeypatch.setattr(attention, "_attend_causally", by_prefix)
    lm.engine.begin()
    assert not lm.engine.invariant
