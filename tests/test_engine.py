"""The packed forward pass against plain one-by-one passes, on five architectures built small and random."""

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm
from transformers import AutoModelForCausalLM, TopPLogitsWarper

from icdpo_nb.attention import attention_mask
from icdpo_nb.engine import nucleus_sample
from icdpo_nb.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

ARCHITECTURES = ["llama", "mistral", "qwen2", "gemma3", "gpt2", "gpt_neox"]
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


def one_by_one(plain, context: list[int], response: tuple[int, ...]) -> np.ndarray:
    """log π(y_t | context, y_<t) by a single unpadded forward pass with full logits."""
    ids = torch.tensor([[*context, *response]])
    with torch.no_grad():
        logp = torch.log_softmax(plain(input_ids=ids).logits[0].double(), -1)
    n = len(response)
    return logp[-n - 1 : -1].gather(-1, ids[0, -n:, None])[:, 0].numpy() if n else np.zeros(0)


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


def test_batches_and_order_change_nothing(models):
    lm, _ = models
    protocol = RECOMMENDED.but(max_new_tokens=16)
    together = lm.sample(CONTEXTS, 3, protocol)
    alone = [lm.sample([c], 3, protocol)[0] for c in CONTEXTS]
    backwards = lm.sample(CONTEXTS[::-1], 3, protocol)[::-1]
    for other in (alone, backwards):
        assert [[y.token_ids for y in ys] for ys in other] == [[y.token_ids for y in ys] for ys in together]
    scored, lm.engine.batch_tokens = lm.logprobs(CONTEXTS, together), 1
    try:
        singly = lm.logprobs(CONTEXTS, together)
    finally:
        lm.engine.batch_tokens = 8192
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
    assert lm.engine.work["scored"] == sum(lengths) - len(CONTEXTS) + sum(len(y.token_ids) for row in ys for y in row)
