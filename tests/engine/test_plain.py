"""The general path gives what the model's own forward pass gives on single rows, and what the packed engine gives."""

import numpy as np
import pytest
import torch
from conftest import one_by_one, save_tiny_lm
from transformers import AutoModelForCausalLM

from icdpo_nb.common.errors import InputError, TooLongError
from icdpo_nb.engine.plain import PlainEngine
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

CONTEXTS = [
    "Human: Hi there, how are you today?\n\nAssistant:",
    "Human: Hm\n\nAssistant:",
    "Human: Hi there, how are you, again?\n\nAssistant:",  # as long as the first
]
TEXTS = [["fine", "so so, thanks", ""], ["!"], ["well, " * 4, "no"]]
PROTOCOL = RECOMMENDED.but(max_new_tokens=12)
NATS = {"mamba": 1e-3}  # its own forward pass in float32 is up to 1e-4 from that in float64; of all others it is within 1e-5


def plainly(folder, **how):
    """A model on the general path, whether it needs it or not."""
    lm = load_lm(str(folder), **how)
    lm.engine, lm.path = PlainEngine(lm.engine.model), "plain"
    return lm


@pytest.fixture(scope="module", params=["llama", "gemma3", "bloom", "llama4", "roberta", "mamba"])
def models(request, tmp_path_factory):
    folder = save_tiny_lm(tmp_path_factory.mktemp(request.param), request.param)
    return plainly(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def held(lm, model, contexts, responses, values) -> None:
    """Every value is that of a single row without padding."""
    for context, ys, row in zip(contexts, responses, values, strict=True):
        for y, logps in zip(ys, row, strict=True):
            assert logps.dtype == np.float32
            expected = one_by_one(model, lm.encode_context(context), y.token_ids)
            np.testing.assert_allclose(logps, expected, atol=NATS.get(model.config.model_type, 1e-4))


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("caches", [True, False])
def test_scores_and_samples_are_those_of_single_rows(models, pads, caches, monkeypatch):
    """With padding and the model's own cache, and without either."""
    lm, model = models
    lm.prepare()
    assert lm.engine.pads
    assert lm.engine.caches == (lm.engine.model.config.model_type != "roberta"), "its positions depend on tokens for padding"
    monkeypatch.setattr(lm.engine, "pads", pads)
    monkeypatch.setattr(lm.engine, "caches", caches and lm.engine.caches)
    ys = [[lm.encode_response(text) for text in texts] for texts in TEXTS]
    held(lm, model, CONTEXTS, ys, lm.logprobs(CONTEXTS, ys))
    sampled = lm.sample(CONTEXTS, 3, PROTOCOL, seed=1)
    held(lm, model, CONTEXTS, sampled, [[y.logps for y in row] for row in sampled])
    alone = [lm.sample([c], 3, PROTOCOL, seed=1)[0] for c in CONTEXTS]
    assert [[y.token_ids for y in row] for row in sampled] == [[y.token_ids for y in row] for row in alone]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_oss", "deepseek_v2", "cohere"])
def test_both_engines_agree(tmp_path, kind):
    """On what both serve: the same samples from the same seed, and the same scores within 1e-4 nats."""
    folder = save_tiny_lm(tmp_path, kind)
    packed, plain = load_lm(str(folder)), plainly(folder)
    first, second = (lm.sample(CONTEXTS, 3, PROTOCOL, seed=2) for lm in (packed, plain))
    assert [[(y.token_ids, y.finish) for y in ys] for ys in first] == [[(y.token_ids, y.finish) for y in ys] for ys in second]
    for ours, theirs in zip(packed.logprobs(CONTEXTS, first), plain.logprobs(CONTEXTS, first), strict=True):
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=1e-4)
    assert packed.path == f"{kind.replace('gemma3', 'gemma3_text')} runs with shared contexts"


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_half_precision(tmp_path, kind):
    lm = load_lm(str(save_tiny_lm(tmp_path, kind)), dtype="bfloat16")
    with pytest.warns(UserWarning, match=f"{kind} runs without shared contexts"):
        sampled = lm.sample(CONTEXTS, 2, PROTOCOL)
    for ys, values in zip(sampled, lm.logprobs(CONTEXTS, sampled, rescore=True), strict=True):
        for y, logps in zip(ys, values, strict=True):
            np.testing.assert_allclose(logps, y.logps, atol=0.3)


def test_what_differs_in_a_batch_is_not_batched(tmp_path, monkeypatch):
    """A model whose padded rows or whose cache would be wrong: rows of one length, and whole rows at each step."""
    folder = save_tiny_lm(tmp_path, "bloom")
    lm, model = plainly(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    forward, seen = lm.engine.model.forward, []

    def odd(input_ids, attention_mask=None, past_key_values=None, **more):
        seen.append((attention_mask is not None and not attention_mask.all(), past_key_values is not None))
        out = forward(input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values, **more)
        out.logits[..., :40] += 9 * sum(seen[-1])
        return out

    monkeypatch.setattr(lm.engine.model, "forward", odd)
    lm.prepare()
    assert (lm.engine.pads, lm.engine.caches) == (False, False)
    seen.clear()
    sampled = lm.sample(CONTEXTS, 2, PROTOCOL)
    held(lm, model, CONTEXTS, sampled, lm.logprobs(CONTEXTS, sampled, rescore=True))
    assert {*seen} == {(False, False)}


def test_what_predicts_from_later_tokens_is_refused(tmp_path):
    lm = plainly(save_tiny_lm(tmp_path, "roberta"))
    for part in lm.engine.model.modules():
        if hasattr(part, "is_causal"):
            part.is_causal = False
    for config in (lm.engine.model.config, lm.engine.model.roberta.config):
        config.is_decoder = False
    for _ in range(2):
        with pytest.raises(InputError, match="class RobertaForCausalLM are not causal: .* use a causal language model$"):
            lm.sample(CONTEXTS, 2, PROTOCOL)


def test_learned_positions_end_with_their_table(tmp_path):
    """RoBERTa's first position is that of padding: of 64 there are 63 left, all of which can be used."""
    lm = plainly(save_tiny_lm(tmp_path, "roberta", positions=64))
    assert lm.max_length == 63
    context = "Human: " + "so " * 10 + "Assistant:"
    n = 63 - len(lm.encode_context(context))
    assert lm.sample([context], 1, RECOMMENDED.but(max_new_tokens=n))[0][0].token_ids
    y = lm.encode_response("x" * (n - 1))  # and a space
    assert len(lm.logprobs([context], [[y]])[0][0]) == n
    with pytest.raises(TooLongError, match="exceeds the 63 tokens"):
        lm.sample([context], 1, RECOMMENDED.but(max_new_tokens=n + 1))


def test_what_fails_is_one_sentence(models, monkeypatch):
    lm, _ = models
    lm.prepare()
    monkeypatch.setattr(type(lm.engine.model), "forward", lambda *a, **k: {}["tokens\nand more"])
    with pytest.raises(InputError, match=r"^models of the class \w+ fail on \d+ tokens \(.*\); try dtype float32$") as failed:
        lm.sample(CONTEXTS, 2, PROTOCOL)
    assert "\n" not in str(failed.value)


def test_a_batch_that_is_too_large_is_halved(models, monkeypatch):
    """Memory for the rows of one context at a time: the work goes on with a warning, and the results are the same."""
    lm, _ = models
    expected, forward = lm.sample(CONTEXTS, 2, PROTOCOL), lm.engine._forward
    monkeypatch.setattr(lm.engine, "batch_tokens", lm.engine.batch_tokens)
    monkeypatch.setattr(lm.engine, "cache_tokens", lm.engine.cache_tokens)

    def scarce(rows, *how, **more):
        if len({tuple(row) for row in rows}) > 1 and sum(map(len, rows)) > 100:
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows, *how, **more)

    monkeypatch.setattr(lm.engine, "_forward", scarce)
    monkeypatch.setattr(lm.engine, "caches", False)
    with pytest.warns(UserWarning, match="memory ran out"):
        got = lm.logprobs(CONTEXTS, expected, rescore=True)
    for ys, values in zip(expected, got, strict=True):
        atol = NATS.get(lm.engine.model.config.model_type, 1e-4)
        np.testing.assert_allclose(np.concatenate(values), np.concatenate([y.logps for y in ys]), atol=atol)

    def none(*args, **more):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(lm.engine, "_forward", none)
    with pytest.raises(InputError, match="memory ran out on cpu with a single context"):
        lm.sample(CONTEXTS[:1], 2, PROTOCOL)


def test_a_twin_gives_the_same_with_an_account_of_its_own(models):
    lm, _ = models
    lm.sample(CONTEXTS, 1, PROTOCOL)  # which the twin does not do
    expected, before = lm.sample(CONTEXTS, 2, PROTOCOL), lm.work()
    twin = lm.twin()
    found = twin.sample(CONTEXTS, 2, PROTOCOL)
    assert [[y.token_ids for y in ys] for ys in found] == [[y.token_ids for y in ys] for ys in expected]
    assert (twin.path, twin.engine.model) == (lm.path, lm.engine.model)
    assert lm.work() == before
    assert 0 < twin.work()["prefill"] < before["prefill"]
    lm.absorb(twin)
    assert lm.work() == {kind: n + twin.work()[kind] for kind, n in before.items()}
    unused = lm.twin()
    lm.absorb(unused)
    assert "engine" not in vars(unused), "a twin that computes nothing sets up nothing"


def test_work_is_counted(models):
    """A context once, then a token a step or, without the cache, a row; in scoring, every row but for its last token."""
    lm, _ = models
    lm.prepare()
    lm.engine.work.clear()
    ys = lm.sample(CONTEXTS, 3, PROTOCOL)
    lengths = [len(lm.encode_context(c)) for c in CONTEXTS]
    sampled = [len(y.token_ids) for row in ys for y in row]
    assert lm.engine.work["prefill"] == sum(lengths)
    row = 1 if lm.engine.caches else max(lengths) + 11
    assert 0 < lm.engine.work["decode"] <= 3 * len(CONTEXTS) * 11 * row
    lm.logprobs(CONTEXTS, ys, rescore=True)
    assert lm.engine.work["scored"] == 3 * sum(lengths) + sum(n - 1 for n in sampled)
    assert lm.work()["scored"] == lm.engine.work["scored"]
    assert min(lm.engine.seconds["sampling"], lm.engine.seconds["scoring"], lm.cost()["peak"]) > 0
