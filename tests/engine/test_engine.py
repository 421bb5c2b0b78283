"""The packed forward pass against plain one-by-one passes, on architectures built small and random."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import one_by_one, save_tiny_lm
from transformers import AutoModelForCausalLM, TopPLogitsWarper

from icdpo_nb.common.errors import InputError
from icdpo_nb.engine import sampling
from icdpo_nb.engine.attention import attention_mask
from icdpo_nb.engine.memory import CPU_BUDGET, CPU_PASS
from icdpo_nb.engine.prefix import prefix_groups
from icdpo_nb.engine.sampling import nucleus_sample
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

ARCHITECTURES = ["llama", "mistral", "qwen2", "gemma2", "gemma3", "gpt2", "gpt_neox", "gpt_oss", "deepseek_v2", "cohere"]
CONTEXTS = [
    "Human: Hi there, how are you today?\n\nAssistant:",
    "Human: Hm\n\nAssistant:",
    "Human: " + "a long story " * 9 + "\n\nAssistant:",
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def models(request, tmp_path_factory):
    """The model under our engine, and the same checkpoint under transformers' eager attention."""
    folder = save_tiny_lm(tmp_path_factory.mktemp(request.param), request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return load_lm(str(folder)), plain


def test_scoring_equals_one_by_one(models):
    lm, plain = models
    responses = [
        [lm.encode_response(t) for t in texts] for texts in (["fine", "so so, thanks", ""], ["!"], ["well, " * 8, "no"])
    ]
    got = lm.logprobs(CONTEXTS, responses)
    for context, ys, values in zip(CONTEXTS, responses, got, strict=True):
        for y, v in zip(ys, values, strict=True):
            np.testing.assert_allclose(v, one_by_one(plain, lm.encode_context(context), y.token_ids), atol=1e-4)


def test_sampled_logprobs_equal_one_by_one(models):
    lm, plain = models
    protocol = RECOMMENDED.but(max_new_tokens=24)
    for context, ys in zip(CONTEXTS, lm.sample(CONTEXTS, 3, protocol, seed=1), strict=True):
        for y in ys:
            np.testing.assert_allclose(y.logps, one_by_one(plain, lm.encode_context(context), y.token_ids), atol=1e-4)


def test_a_shared_prefix_is_computed_once_and_changes_nothing(models):
    """Three contexts that begin with the same 360 tokens, longer than a chunk of queries and than any sliding window."""
    lm, plain = models
    start = "## An instruction of some length. " * 10
    texts = [start + c for c in CONTEXTS]
    lengths = [len(lm.encode_context(c)) for c in texts]
    lm.engine.work.clear()
    sampled = lm.sample(texts, 2, RECOMMENDED.but(max_new_tokens=12))
    shared = len(lm.encode_context(start + "Human: "))
    assert lm.engine.work["prefill"] == sum(lengths) - 2 * shared
    for context, ys in zip(texts, sampled, strict=True):
        for y in ys:
            np.testing.assert_allclose(y.logps, one_by_one(plain, lm.encode_context(context), y.token_ids), atol=1e-4)
    again = lm.logprobs(texts, sampled, rescore=True)
    for ys, values in zip(sampled, again, strict=True):
        np.testing.assert_allclose(np.concatenate(values), np.concatenate([y.logps for y in ys]), atol=1e-4)
    alone = [lm.sample([c], 2, RECOMMENDED.but(max_new_tokens=12))[0] for c in texts]
    assert [[y.token_ids for y in ys] for ys in alone] == [[y.token_ids for y in ys] for ys in sampled]


def test_families_by_hand(monkeypatch):
    monkeypatch.setattr("icdpo_nb.engine.prefix.MIN_SHARED_TOKENS", 2)
    monkeypatch.setattr("icdpo_nb.engine.prefix.PASS_COST_TOKENS", 3)
    contexts = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [9, 9, 1], [1, 2, 3], [7, 7, 7]]
    assert prefix_groups(contexts, range(5)) == [([1, 2], [0, 1, 3]), ((), [2, 4])], "each keeps its last token to itself"
    assert prefix_groups(contexts, range(5), 2) == [((), [0, 1, 3, 2, 4])], "four tokens saved are less than two passes cost"
    assert prefix_groups(contexts, [0, 1, 3], 2) == [([1, 2], [0, 1, 3])], "alone it has no passes of its own"
    assert prefix_groups([[1, 2], [1, 2]], [0, 1]) == [((), [0, 1])], "one shared token is not worth a pass"


def test_a_batch_that_is_too_large_is_halved(models, monkeypatch):
    """Memory for one row at a time: the work goes on with a warning, and the results are the same."""
    lm, _ = models
    protocol = RECOMMENDED.but(max_new_tokens=6)
    expected, forward = lm.sample(CONTEXTS, 2, protocol), lm.engine.forward
    for budget in ("batch_tokens", "cache_tokens"):
        monkeypatch.setattr(lm.engine, budget, getattr(lm.engine, budget))  # put back at the end

    def scarce(ids, *args):
        if len(ids) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(ids, *args)

    monkeypatch.setattr(lm.engine, "forward", scarce)
    with pytest.warns(UserWarning, match="memory ran out"):
        got = lm.sample(CONTEXTS, 2, protocol)
    assert [[y.token_ids for y in ys] for ys in got] == [[y.token_ids for y in ys] for ys in expected]
    again = lm.logprobs(CONTEXTS, got, rescore=True)
    np.testing.assert_allclose(again[0][0], got[0][0].logps, atol=1e-4)

    def none(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(lm.engine, "forward", none)
    with pytest.raises(InputError, match="memory ran out on cpu with a single context"):
        lm.sample(CONTEXTS[:1], 2, protocol)


def test_batches_are_sized_by_measured_memory(models, monkeypatch):
    """The cache holds the keys and values of every layer; what a pass takes beside it is some vectors a token."""
    lm, plain = models
    config = plain.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    lm.engine.begin()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * CPU_BUDGET))
    monkeypatch.setattr(lm.engine, "batch_tokens", None)
    lm.engine.begin()
    in_cache, in_pass = lm.engine.token_bytes()
    latent = getattr(config, "kv_lora_rank", 0) and config.kv_lora_rank + config.qk_rope_head_dim  # one for all heads
    assert in_cache == pytest.approx((latent or 2 * heads * dim) * config.num_hidden_layers * 4, rel=0.02)
    assert 4 * config.hidden_size < in_pass < 400 * 4 * config.hidden_size
    assert lm.engine.cache_tokens == pytest.approx(0.75 * CPU_BUDGET / in_cache, rel=0.1)
    assert lm.engine.batch_tokens == pytest.approx(CPU_PASS / in_pass, rel=0.1)


def test_contexts_join_as_others_finish(models, monkeypatch):
    """With room for two or three contexts at a time, ten of different lengths give what each gives alone."""
    lm, _ = models
    protocol = RECOMMENDED.but(max_new_tokens=16)
    texts = [f"Human: Tell me about {'very ' * (3 * i % 7)}big number {i}.\n\nAssistant:" for i in range(10)]
    alone = [lm.sample([t], 3, protocol)[0] for t in texts]
    longest = max(len(lm.encode_context(t)) for t in texts)
    monkeypatch.setattr(lm.engine, "cache_tokens", 2 * (longest + 48) + 40)
    monkeypatch.setattr(lm.engine, "batch_tokens", 2 * longest)
    sizes, forward = [], lm.engine.forward
    monkeypatch.setattr(lm.engine, "forward", lambda ids, *args: sizes.append(ids.shape) or forward(ids, *args))
    together = lm.sample(texts, 3, protocol)
    assert [[y.token_ids for y in ys] for ys in together] == [[y.token_ids for y in ys] for ys in alone]
    for ys, others in zip(together, alone, strict=True):
        for y, other in zip(ys, others, strict=True):
            np.testing.assert_allclose(y.logps, other.logps, atol=1e-4)
    assert 1 < max(rows for rows, _ in sizes) <= 4
    assert sum(width > 3 for _, width in sizes) > 2, "contexts were computed in several passes"


def test_frequencies_that_change_with_the_longest_of_a_batch(tmp_path):
    """A long neighbour must not change a short context's results: beyond the change nothing is computed."""
    lm = load_lm(str(save_tiny_lm(tmp_path, "phi3")))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    short, fits, long = ("Human: " + "so " * n + "\n\nAssistant:" for n in (1, 12, 20))
    y = lm.encode_response("yes")
    for context, (values,) in zip((short, fits), lm.logprobs([short, fits], [[y], [y]]), strict=True):
        np.testing.assert_allclose(values, one_by_one(plain, lm.encode_context(context), y.token_ids), atol=1e-4)
    with pytest.raises(InputError, match="exceeds the 64 tokens"):
        lm.logprobs([short, long], [[y], [y]])


def test_batches_and_order_change_nothing(models):
    lm, _ = models
    protocol = RECOMMENDED.but(max_new_tokens=16)
    together = lm.sample(CONTEXTS, 3, protocol)
    alone = [lm.sample([c], 3, protocol)[0] for c in CONTEXTS]
    backwards = lm.sample(CONTEXTS[::-1], 3, protocol)[::-1]
    for other in (alone, backwards):
        assert [[y.token_ids for y in ys] for ys in other] == [[y.token_ids for y in ys] for ys in together]
    scored, budget = lm.logprobs(CONTEXTS, together, rescore=True), lm.engine.batch_tokens
    lm.engine.batch_tokens = 1
    try:
        singly = lm.logprobs(CONTEXTS, together, rescore=True)
    finally:
        lm.engine.batch_tokens = budget
    for a, b in zip(scored, singly, strict=True):
        np.testing.assert_allclose(np.concatenate(a), np.concatenate(b), atol=1e-4)


def test_fewer_candidates_are_a_prefix_of_more(models):
    lm, _ = models
    protocol = RECOMMENDED.but(max_new_tokens=8)
    assert [y.token_ids for y in lm.sample(CONTEXTS[:1], 5, protocol)[0]][:2] == [
        y.token_ids for y in lm.sample(CONTEXTS[:1], 2, protocol)[0]
    ]


def test_hugging_face_loss_agrees(models):
    lm, plain = models
    y = lm.encode_response("it is what it is")
    context = lm.encode_context(CONTEXTS[0])
    ids = torch.tensor([[*context, *y.token_ids]])
    labels = ids.clone()
    labels[:, : len(context)] = -100
    loss = plain(input_ids=ids, labels=labels).loss.item()
    assert lm.logprobs(CONTEXTS[:1], [[y]])[0][0].sum() == pytest.approx(-loss * len(y.token_ids), abs=1e-3)


def test_mask_by_hand():
    """Context of two tokens, responses a and b of two each: a never sees b, nobody sees what comes later or the padding."""
    owner = torch.tensor([[0, 0, 1, 1, 2, 2, -1]])
    pos = torch.tensor([[0, 1, 2, 3, 2, 3, 0]])
    mask = attention_mask(owner, pos, owner, pos, torch.float32, None)[0, 0] == 0
    assert mask[:6].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
    ]
    assert mask.any(-1).all(), "a padding query that sees nothing would make NaN"


def test_sliding_window_hides_what_is_far():
    owner, pos = torch.zeros(1, 5, dtype=int), torch.arange(5)[None]
    mask = attention_mask(owner, pos, owner, pos, torch.float32, 2)[0, 0] == 0
    assert mask.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_nucleus_is_that_of_transformers(top_p):
    """The set of tokens that can be drawn is the one TopPLogitsWarper keeps."""
    torch.manual_seed(1)
    logits = torch.randn(4, 300) * 3
    kept = torch.isfinite(TopPLogitsWarper(top_p)(None, logits.clone()))
    for row in range(4):
        uniform = torch.linspace(0, 1 - 1e-9, 4001, dtype=torch.float64)
        drawn, logps = nucleus_sample(logits[row].expand(4001, -1), uniform, top_p, 0, 1.0)
        assert set(drawn.tolist()) <= set(kept[row].nonzero()[:, 0].tolist())
        torch.testing.assert_close(logps, torch.log_softmax(logits[row], -1)[drawn])
        if top_p <= 0.95:  # with 4,000 draws every token of the nucleus turns up, apart from rare ones
            weight = torch.softmax(logits[row], -1) * kept[row]
            assert set(drawn.tolist()) >= set((weight > 1e-3).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_flat_and_peaked_rows_sort_as_many_tokens_as_each_needs(top_p, monkeypatch):
    """Whatever is sorted first, and beside whichever rows, the same tokens are drawn."""
    torch.manual_seed(1)
    logits = torch.randn(60, 3000) * torch.linspace(0.1, 9, 60)[torch.randperm(60), None]
    uniform = torch.rand(60, dtype=torch.float64)
    drawn, logps = nucleus_sample(logits, uniform, top_p, 0, 1.0)
    alone = [nucleus_sample(logits[i : i + 1], uniform[i : i + 1], top_p, 0, 1.0) for i in range(60)]
    assert (drawn.tolist(), logps.tolist()) == ([int(t) for t, _ in alone], [float(p) for _, p in alone])
    monkeypatch.setattr(sampling, "SORTED", 3000)
    everything = nucleus_sample(logits, uniform, top_p, 0, 1.0)
    assert (drawn.tolist(), logps.tolist()) == (everything[0].tolist(), everything[1].tolist())


def test_nucleus_frequencies_follow_the_policy():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    uniform = torch.linspace(0, 1 - 1e-9, 8001, dtype=torch.float64)
    drawn, _ = nucleus_sample(logits.expand(8001, -1), uniform, 0.79, 0, 1.0)
    shares = torch.bincount(drawn, minlength=4) / 8001
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0, 0]), atol=1e-3, rtol=0)  # 0.5 and 0.3, renormalised


def test_top_k_and_temperature():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    uniform = torch.linspace(0, 1 - 1e-9, 999, dtype=torch.float64)
    assert nucleus_sample(logits.expand(999, -1), uniform, 1.0, 3, 1.0)[0].max() == 2
    cold, logps = nucleus_sample(logits.expand(999, -1), uniform, 1.0, 0, 0.01)
    assert cold.max() == 0
    torch.testing.assert_close(logps[0], torch.tensor(0.5).log())  # of the policy itself, not the tempered one


def test_work_is_counted(models):
    """Prefill once a context, a token a step and unfinished response; in scoring each context once for all its responses."""
    lm, _ = models
    lm.engine.work.clear()
    ys = lm.sample(CONTEXTS, 3, RECOMMENDED.but(max_new_tokens=8))
    lengths = [len(lm.encode_context(c)) for c in CONTEXTS]
    assert lm.engine.work["prefill"] == sum(lengths)
    assert lm.engine.work["decode"] <= 3 * len(CONTEXTS) * 7  # the last token of each is never fed back
    lm.logprobs(CONTEXTS, ys)
    assert lm.engine.work["scored"] == 0, "the log-probabilities of sampling serve"
    lm.logprobs(CONTEXTS, ys, rescore=True)
    assert lm.engine.work["scored"] == sum(lengths) - len(CONTEXTS) + sum(len(y.token_ids) for row in ys for y in row)
