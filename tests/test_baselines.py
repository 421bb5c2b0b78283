"""The baselines: RM-BoN and RM-Aug by hand and against a plain re-implementation, and what they reduce to."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import save_tiny_lm
from parts import Fixed
from safetensors.torch import load_file, save_file

from icdpo_nb.algorithm import candidates_table, select
from icdpo_nb.baselines import (
    base,
    blockwise,
    expected_random_choice,
    greedy,
    greedy_table,
    icl,
    icl_uni,
    one_sample,
    rm_aug,
    rm_aug_table,
    rm_bon,
)
from icdpo_nb.common.errors import InputError
from icdpo_nb.judging.rewards import TeacherReward, with_rewards
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import PROTOCOLS, RECOMMENDED, seed_of
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import StoredLM
from icdpo_nb.templates import base_context, icl_context, stop_position

SHORT = RECOMMENDED.but(max_new_tokens=12)


class Vowels:
    """A teacher made by hand: the share of vowels of a text, -inf for an empty one; it notes what it was asked."""

    name = note = fingerprint = "vowels"

    def __init__(self):
        self.asked: list[tuple[str, str]] = []

    def score(self, prompts, responses):
        self.asked += zip(prompts, responses, strict=True)
        return np.array([np.mean([c in "aeiouAEIOU" for c in y]) if y else -np.inf for y in responses])


@pytest.fixture(scope="module")
def eager_lm(tmp_path_factory):
    """A tiny Llama that ends its responses here and there: its logit of EOS varies widely."""
    folder = save_tiny_lm(tmp_path_factory.mktemp("eager"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][2] *= 6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_lm(str(folder))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher LM of another architecture and with another tokenizer, in which some pairs of letters are one token."""
    return load_lm(str(save_tiny_lm(tmp_path_factory.mktemp("teacher"), "llama", says=("er", "th", "a ", "Hu"))))


def test_rm_bon_by_hand(pairs, monkeypatch, tiny_lm):
    """Of three responses the teacher likes the second; the first of equals; an empty one never while there is another."""
    texts, expected = [["xyz", "aab", "bax"], ["", "xx", "yy"], ["", "", ""]], ["aab", "xx", ""]
    for said, chosen in zip(texts, expected, strict=True):
        given = [tiny_lm.encode_response(t) for t in said]
        monkeypatch.setattr(tiny_lm, "sample", lambda contexts, n, *rest, given=given: [given[:n] for _ in contexts])
        found = rm_bon(pairs[0].prompt, None, tiny_lm, teacher := Vowels())
        assert found.best.text == chosen
        assert teacher.asked == [(pairs[0].prompt, t) for t in said]
        assert found.demos == []
        assert base(pairs[0].prompt, None, tiny_lm).best.text == said[0]


class Shortest(Vowels):
    """A teacher that likes short texts, an empty one most."""

    def score(self, prompts, responses):
        return np.array([-float(len(y)) for y in responses])


def test_an_empty_response_is_not_chosen_by_any_teacher(pairs, monkeypatch, tiny_lm):
    """Nor by one that gives it a high score; in RM-BoN, in RM-Aug and in their table."""
    given = [tiny_lm.encode_response(t, RECOMMENDED.but(eos_scored="always")) for t in ("long", "", "ab")]
    given = [replace(y, finish="eos") for y in given]
    monkeypatch.setattr(tiny_lm, "sample", lambda contexts, n, *rest: [given[:n] for _ in contexts])
    found = rm_bon(pairs[0].prompt, None, tiny_lm, Shortest())
    assert found.best.text == "ab"
    assert found.scores.tolist() == [-4, -np.inf, -2]
    said, scores = blockwise([p.prompt for p in pairs[:2]], tiny_lm, Shortest())
    assert ([y.text for y in said], scores.tolist()) == (["ab", "ab"], [-2, -2])


def test_rm_bon_table_equals_rm_bon(pairs, tiny_lm):
    table = select(with_rewards(candidates_table(pairs, None, tiny_lm, SHORT, seed=2), teacher=Vowels()), "teacher")
    for p, text, score in zip(pairs, table["response"], table["teacher"], strict=True):
        one = rm_bon(p.prompt, None, tiny_lm, Vowels(), SHORT, seed=2)
        assert (one.best.text, one.scores.max()) == (text, score)


def test_base_is_the_first_of_n(pairs, tiny_lm):
    """So sampling n for RM-BoN leaves Base as it was."""
    alone = candidates_table(pairs, None, tiny_lm, SHORT.but(n_candidates=1), seed=4)
    first = one_sample(candidates_table(pairs, None, tiny_lm, SHORT, seed=4))
    assert first["response"].tolist() == alone["response"].tolist()
    assert [base(p.prompt, None, tiny_lm, SHORT, 4).best.text for p in pairs] == alone["response"].tolist()


def test_icl_takes_expected_random_choice(pairs, tiny_lm):
    found = [icl(pairs[4].prompt, Fixed(pairs), tiny_lm, SHORT, seed=s) for s in range(10)]
    assert {int(np.argmax(f.scores)) for f in found} == {0, 1, 2}, "each of them, some time"
    again = icl(pairs[4].prompt, Fixed(pairs), tiny_lm, SHORT, seed=7)
    assert again.best.text == found[7].best.text
    assert icl_uni(pairs[4].prompt, Fixed(pairs), tiny_lm, SHORT, 7).best.text == found[7].responses[0].text
    assert found[0].demos == pairs[:2]
    table = candidates_table(pairs[4:5], {"harmless": Fixed(pairs)}, tiny_lm, SHORT).assign(reward=[1.0, 2.0, 6.0])
    assert expected_random_choice(table)["reward"].tolist() == [3.0], "what a random choice gives on average"


@pytest.mark.parametrize("demos", [0, 2])
def test_greedy_is_that_of_transformers(pairs, tiny_lm, demos):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_lm.engine.model.name_or_path)
    retriever = Fixed(pairs) if demos else None
    table = greedy_table(pairs[4:], {"harmless": retriever} if demos else None, tiny_lm, SHORT)
    for p, text in zip(pairs[4:], table["response"], strict=True):
        context = icl_context(pairs[:2], p.prompt) if demos else base_context(p.prompt)
        ids = torch.tensor([tiny_lm.encode_context(context)])
        theirs = plain.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
        ours = greedy(p.prompt, retriever, tiny_lm, SHORT).best
        assert list(ours.token_ids) == theirs.tolist()[: len(ours.token_ids)]
        assert len(ours.token_ids) == 12 or ours.finish != "length"
        assert ours.text == text


# ---------------------------------------------------------------- RM-Aug


def next_token(lm, ids: list[int], u: float, top_p: float) -> int:
    """Nucleus sampling as it is defined, from one uniform number."""
    with torch.no_grad():
        probs = torch.softmax(lm.engine.model(input_ids=torch.tensor([ids])).logits[0, -1].double(), -1)
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    nucleus, mass = [], 0.0
    for i in order:
        if mass >= top_p:
            break
        nucleus.append(i)
        mass += float(probs[i])
    reached = np.cumsum([float(probs[i]) for i in nucleus])
    return nucleus[int(np.sum(reached <= u * reached[-1]))]


def plain_rm_aug(prompt, lm, teacher, m, k, longest, seed) -> tuple[str, list[str]]:
    """RM-Aug one prompt, one candidate and one token at a time: the text, and how each of its blocks ended."""
    context, kept, ends = base_context(prompt), [], []
    uniform = [np.random.default_rng(seed_of(seed, "sample", context, j)).random(longest) for j in range(k)]
    while True:
        found = []
        for j in range(k):
            ids, end = list(kept), None
            while end is None and len(ids) < min(len(kept) + m, longest):
                ids.append(next_token(lm, lm.encode_context(context) + ids, uniform[j][len(ids)], RECOMMENDED.top_p))
                end = "eos" if ids[-1] in lm.eos_ids else "stop" if stop_position(lm.decode(ids)) is not None else None
            text = lm.decode(ids)
            text = (text[: stop_position(text)] if end == "stop" else text).strip()
            found.append((teacher.score([prompt], [text])[0], ids, end, text))
        _, kept, end, text = max(found, key=lambda f: f[0])  # the first of equals
        ends.append(end)
        if end or len(kept) == longest:
            return text, ends


@pytest.mark.parametrize("model", ["tiny_lm", "eager_lm"])
@pytest.mark.parametrize("judged", ["vowels", "teacher"])
def test_rm_aug_equals_a_plain_one(pairs, model, judged, teacher, request):
    lm = request.getfixturevalue(model)
    judge = Vowels() if judged == "vowels" else TeacherReward(teacher)
    some, protocol = pairs[::2], RECOMMENDED.but(max_new_tokens=11)
    table = rm_aug_table(some, lm, judge, protocol, seed=1, block_tokens=3, n_blocks=3)
    plain = [plain_rm_aug(p.prompt, lm, judge, 3, 3, 11, seed=1) for p in some]
    assert table["response"].tolist() == [text for text, _ in plain]
    assert max(len(ends) for _, ends in plain) == 4, "some take all four blocks"
    assert model == "tiny_lm" or {len(ends) for _, ends in plain if ends[-1]} & {1, 2, 3}, "some end before"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_one_block_is_rm_bon(pairs, eager_lm, name):
    protocol = PROTOCOLS[name].but(max_new_tokens=10, n_candidates=4)
    table = select(with_rewards(candidates_table(pairs, None, eager_lm, protocol, seed=3), teacher=Vowels()), "teacher")
    for m in (10, 99):
        one_block = rm_aug_table(pairs, eager_lm, Vowels(), protocol, seed=3, block_tokens=m)
        columns = ["prompt_id", "response", "n_tokens", "finish", "teacher"]
        assert one_block[columns].equals(table[columns])
        np.testing.assert_allclose(one_block["logp_base"], table["logp_base"], atol=1e-4)
    one, other = (f(pairs[0].prompt, None, eager_lm, Vowels(), protocol, 3) for f in (partial(rm_aug, block_tokens=10), rm_bon))
    assert one.best.token_ids == other.best.token_ids
    assert one.logp["base"] == pytest.approx(other.logp["base"].max(initial=-np.inf, where=other.scores == other.scores.max()))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_one_continuation_a_block_is_base(pairs, eager_lm, name):
    """K = 1: response 0 goes on from its own beginning to what it would have been at once, with the same log-probabilities."""
    protocol = PROTOCOLS[name].but(max_new_tokens=13, n_candidates=1)
    at_once = candidates_table(pairs, None, eager_lm, protocol, seed=5)
    in_blocks = rm_aug_table(pairs, eager_lm, Vowels(), protocol, seed=5, block_tokens=3)
    columns = ["prompt_id", "response", "n_tokens", "finish"]
    assert in_blocks[columns].equals(at_once[columns])
    np.testing.assert_allclose(in_blocks["logp_base"], at_once["logp_base"], atol=1e-4)


def test_neither_batch_nor_order_changes_a_response(pairs, eager_lm):
    together = rm_aug_table(pairs, eager_lm, Vowels(), SHORT, seed=1, block_tokens=4)["response"].tolist()
    backwards = rm_aug_table(pairs[::-1], eager_lm, Vowels(), SHORT, seed=1, block_tokens=4)["response"].tolist()
    alone = [rm_aug(p.prompt, None, eager_lm, Vowels(), SHORT, 1, 4).best.text for p in pairs]
    assert together == backwards[::-1] == alone
    assert together != rm_aug_table(pairs, eager_lm, Vowels(), SHORT, seed=2, block_tokens=4)["response"].tolist()


def test_a_teacher_with_another_tokenizer(pairs, tiny_lm, teacher):
    """It reads the text with its own tokens: its mean log-probability, by one plain pass over prompt and response."""
    assert teacher.tokenize("there") != tiny_lm.tokenize("there")
    said, scores = blockwise([p.prompt for p in pairs], tiny_lm, TeacherReward(teacher), SHORT, block_tokens=4)
    for p, y, score in zip(pairs, said, scores, strict=True):
        context, mine = teacher.encode_context(base_context(p.prompt)), teacher.tokenize(f" {y.text}")
        ids = torch.tensor([context + mine])
        with torch.no_grad():
            logp = torch.log_softmax(teacher.engine.model(input_ids=ids).logits[0].double(), -1)
        given = logp[len(context) - 1 : -1].gather(-1, torch.tensor(mine)[:, None])
        assert score == pytest.approx(float(given.mean()), abs=1e-4)


def test_what_is_stored_is_what_was_computed(pairs, tmp_path, eager_lm, monkeypatch):
    plain = rm_aug_table(pairs, eager_lm, Vowels(), SHORT, block_tokens=4)
    stored = StoredLM(eager_lm, Store(tmp_path))
    columns = ["prompt_id", "response", "n_tokens", "finish", "teacher"]
    assert rm_aug_table(pairs, stored, Vowels(), SHORT, block_tokens=4)[columns].equals(plain[columns])
    monkeypatch.setattr(eager_lm.engine, "sample", None)
    monkeypatch.setattr(eager_lm.engine, "logprobs", None)
    again = rm_aug_table(pairs, stored, Vowels(), SHORT, block_tokens=4)
    assert again[columns].equals(plain[columns])
    np.testing.assert_allclose(again["logp_base"], plain["logp_base"], atol=1e-4)


def test_columns_are_those_of_the_candidates_table(pairs, tiny_lm):
    table = rm_aug_table(pairs[:2], tiny_lm, Vowels(), SHORT)
    assert list(table) == [*candidates_table(pairs[:2], None, tiny_lm, SHORT), "teacher"]
    assert table["logp_base"].notna().all()


@pytest.mark.parametrize("wrong", [{"block_tokens": 0}, {"n_blocks": 0}])
def test_bad_input_is_one_sentence(pairs, tiny_lm, wrong):
    with pytest.raises(InputError, match=f"RM-Aug: {next(iter(wrong))} is 0, but must be at least 1"):
        rm_aug(pairs[0].prompt, None, tiny_lm, Vowels(), SHORT, **wrong)
