"""Answers of completion servers, read token by token: the forms of several servers, by hand, and what is not accepted."""

import math

import numpy as np
import pytest

from icdpo_nb.models.completions import (
    LOWEST,
    Vocabulary,
    checked,
    choice_of,
    generated,
    of_prompt,
    sampling_body,
    scoring_body,
)
from icdpo_nb.protocol import RECOMMENDED


class Letters:
    """A tokenizer of single letters; ids 3 and 4 have the same text, as pieces of a character have."""

    texts = ("<s>", "a", "b", "?", "?", " a")

    def __len__(self):
        return len(self.texts)

    def decode(self, ids, **options):
        return "".join(self.texts[i] for i in ids)

    def batch_decode(self, rows, **options):
        return [self.decode(ids) for ids in rows]


@pytest.fixture
def vocabulary():
    return Vocabulary(Letters(), [2, 1])


def test_ids_of_texts(vocabulary):
    assert [vocabulary.id_of(t) for t in ("a", " a", "token_id:7", "<s>")] == [1, 5, 7, 0]
    for text in ("?", "c"):
        with pytest.raises(ValueError, match="which is that of no token alone"):
            vocabulary.id_of(text)
    assert vocabulary.agrees("b", 2, True)
    assert not vocabulary.agrees("b", 1, False)
    assert vocabulary.agrees("?", 3, False)
    assert not vocabulary.agrees("?", 3, True), "it could be the other"
    assert vocabulary.agrees("token_id:4", 4, True)
    assert not vocabulary.agrees("token_id:4", 3, False)


LOGPS = [-0.5, -1.25]
FORMS = {
    "vLLM": {"token_ids": [2, 5], "logprobs": {"tokens": ["token_id:2", "token_id:5"], "token_logprobs": LOGPS}},
    "vLLM before 0.10.2": {"logprobs": {"tokens": ["token_id:2", "token_id:5"], "token_logprobs": LOGPS}},
    "texts": {"logprobs": {"tokens": ["b", " a"], "token_logprobs": LOGPS}},
    "llama.cpp": {"logprobs": {"content": [{"id": 2, "logprob": -0.5}, {"id": 5, "logprob": -1.25}]}},
    "llama.cpp's own": {"completion_probabilities": [{"id": 2, "logprob": -0.5}, {"id": 5, "logprob": -1.25}]},
}


@pytest.mark.parametrize("form", FORMS)
def test_generated_tokens(vocabulary, form):
    ids, values = generated({}, {"index": 0, "text": "b a", **FORMS[form]}, vocabulary)
    assert ids == [2, 5]
    assert values.tolist() == LOGPS


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"text": "b"}, "no log-probabilities"),
        ({"token_ids": [2, 1], **{"logprobs": FORMS["texts"]["logprobs"]}}, "name different tokens"),
        ({"token_ids": [2], "logprobs": {"tokens": ["b"], "token_logprobs": LOGPS}}, "2 log-probabilities for 1 tokens"),
        ({"logprobs": {"tokens": ["?", "b"], "token_logprobs": LOGPS}}, "of no token alone"),
        ({"logprobs": {"content": [{"id": "2", "logprob": -1.0}]}}, "for 1 tokens"),
        ({"token_ids": [2, 5], "logprobs": {"tokens": ["b", " a"], "token_logprobs": [-1.0, None]}}, "log-probability None"),
    ],
)
def test_generated_tokens_that_cannot_be_told(vocabulary, choice, why):
    with pytest.raises(ValueError, match=why):
        generated({}, {"text": "x", **choice}, vocabulary)


def test_a_text_that_ended_at_once(vocabulary):
    assert generated({}, {"text": "", "logprobs": None}, vocabulary)[0] == []


def entries(*pairs):
    return [None, *({str(i): {"logprob": lp, "rank": 1, "decoded_token": "x"}, "9": {"logprob": -0.1}} for i, lp in pairs)]


def test_prompt_logprobs(vocabulary):
    """vLLM's first entry is null; each other one names the prompt's token among the likeliest."""
    choice = {"prompt_logprobs": entries((1, -1.0), (2, -2.0), (5, -3.0))}
    assert of_prompt(choice, "prompt_logprobs", [0, 1, 2, 5], [0, 1, 2, 5], 2, vocabulary).tolist() == [-2.0, -3.0]
    for ids, why in (([0, 1, 2], "for 4 tokens of a prompt of 3"), ([0, 1, 2, 1], "'1'")):
        with pytest.raises((ValueError, KeyError), match=why):
            of_prompt(choice, "prompt_logprobs", ids, ids, 2, vocabulary)
    with pytest.raises(TypeError):
        of_prompt({"prompt_logprobs": [None, None]}, "prompt_logprobs", [0, 1], [0, 1], 1, vocabulary)


def test_echo(vocabulary):
    """The prompt's tokens, the first without a log-probability, and the one that was generated."""
    echoed = {"logprobs": {"tokens": ["<s>", "a", "?", "b"], "token_logprobs": [None, -1.0, -2.0, -9.0]}}
    assert of_prompt(echoed, "echo", [0, 1, 3], [0, 1, 3], 1, vocabulary).tolist() == [-1.0, -2.0]
    with pytest.raises(ValueError, match="does not name the token 3"):
        of_prompt(echoed, "echo", "text", [0, 1, 3], 1, vocabulary)
    with pytest.raises(ValueError, match="does not name the token 2"):
        of_prompt(echoed, "echo", [0, 2, 3], [0, 2, 3], 1, vocabulary)
    with pytest.raises(ValueError, match="names 4 tokens for a prompt of 2"):
        of_prompt(echoed, "echo", [0, 1], [0, 1], 1, vocabulary)


def test_choices():
    one = {"index": 0, "prompt_token_ids": [1, 2]}
    assert choice_of({"choices": [one]}, [1, 2], 2) is one
    assert choice_of({"choices": [one], "usage": {"prompt_tokens": 9}}, "text", 9) is one
    with pytest.raises(ValueError, match="counts 3 tokens in a prompt of 2"):
        choice_of({"choices": [one], "usage": {"prompt_tokens": 3}}, [1, 2], 2)
    for choices in ([], [one, one], [{"index": 1}]):
        with pytest.raises(ValueError, match="but 0 alone was asked for"):
            choice_of({"choices": choices}, [1, 2], 2)
    with pytest.raises(ValueError, match="not those that were sent"):
        choice_of({"choices": [one]}, [1, 3], 2)


@pytest.mark.parametrize("value", [None, math.nan, -math.inf, math.inf, 0.1, "x", True, LOWEST, -9999.0, [1]])
def test_no_wrong_log_probability_is_read(value):
    with pytest.raises(ValueError, match="log-probability"):
        checked([-1.0, value])


def test_rounding_above_zero_is_zero():
    assert np.array_equal(checked([-1, 5e-4, 0]), [-1.0, 0.0, 0.0])


def test_what_is_sent_leaves_nothing_to_the_servers_defaults():
    body = sampling_body("m", [1, 2], RECOMMENDED.but(top_k=0), 2**40 + 5)
    assert (body["top_k"], body["n"], body["seed"], body["prompt"]) == (-1, 1, 5, [1, 2])
    assert {"temperature", "top_p", "min_p", "repetition_penalty", "repeat_penalty", "presence_penalty"} <= set(body)
    assert sampling_body("m", "x", RECOMMENDED.but(top_k=50), 1)["top_k"] == 50
    assert scoring_body("m", [1], "prompt_logprobs")["prompt_logprobs"] == 0
    assert scoring_body("m", [1], "echo")["echo"] is True
