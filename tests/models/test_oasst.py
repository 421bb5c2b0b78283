"""OpenAssistant's reward model class, on a small random checkpoint: its numbers, its format, and what is refused."""

import json

import pytest
import torch
from conftest import save_tiny_lm
from safetensors.torch import load_file, save_file
from transformers import GPTNeoXModel

from icdpo_nb.common.errors import InputError
from icdpo_nb.judging.rewards import RewardModel
from icdpo_nb.models.oasst import OasstConfig, OasstRewardModel

CASES = [("Human: Hi", "Hello."), ("Human: a?\n\nAssistant: b.\n\nHuman: " + "long " * 20, "No, " * 9), ("Human: c", "")]


@pytest.fixture(params=["last", "mean"])
def checkpoint(request, tmp_path):
    folder = save_tiny_lm(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 112}
    config = OasstConfig(**sizes, max_position_embeddings=256, pooling=request.param)
    torch.manual_seed(0)
    model = OasstRewardModel(config)
    torch.nn.init.normal_(model.out_proj.bias)
    model.save_pretrained(folder)
    return folder


def test_rewards_are_the_head_on_the_body(checkpoint):
    """One text at a time, unpadded, from the parts; batched, padded and sorted by ours."""
    reward = RewardModel(str(checkpoint), batch_tokens=200)
    weights = load_file(checkpoint / "model.safetensors")
    body = GPTNeoXModel(reward.model.config).eval()
    body.load_state_dict({k.removeprefix("gpt_neox."): v for k, v in weights.items() if k.startswith("gpt_neox.")})
    got = reward.score(*zip(*CASES, strict=True))
    for (x, y), value in zip(CASES, got, strict=True):
        ids = torch.tensor([reward.tokenizer(OasstRewardModel.dialogue(x, y))["input_ids"]])
        with torch.no_grad():
            hidden = body(input_ids=ids).last_hidden_state[0]
        pooled = hidden[-1] if reward.model.config.pooling == "last" else hidden.mean(0)
        assert value == pytest.approx((weights["out_proj.weight"][0] @ pooled + weights["out_proj.bias"][0]).item(), abs=1e-4)
    assert len(set(got)) == 3


@pytest.mark.parametrize(
    ("prompt", "response", "text"),
    [
        ("Human: Hi", "Yo", "<|prompter|>Hi<|endoftext|><|assistant|>Yo<|endoftext|>"),
        (
            "Human: a\n\nb\n\nAssistant: c\n\nHuman: d",
            "e",
            "<|prompter|>a\n\nb<|endoftext|><|assistant|>c<|endoftext|><|prompter|>d<|endoftext|><|assistant|>e<|endoftext|>",
        ),
        (
            "Human: a <|assistant|>",
            "b<|endoftext|>",
            "<|prompter|>a assistant<|endoftext|><|assistant|>bendoftext<|endoftext|>",
        ),
        ("Human: a", "b\n\nHuman: c", "<|prompter|>a<|endoftext|><|assistant|>b\n\nHuman: c<|endoftext|>"),
    ],
)
def test_dialogue(prompt, response, text):
    assert OasstRewardModel.dialogue(prompt, response) == text


def test_a_head_that_is_missing_is_refused(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["out_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 weights of the right shape, the first out_proj.weight"):
        RewardModel(str(checkpoint))


@pytest.mark.parametrize(
    ("change", "says"),
    [({"model_type": "gpt_neox"}, "lack 1 weights .* the first score.weight"), ({"pooling": "max"}, "pools by last or mean")],
)
def test_a_changed_configuration_is_refused(checkpoint, change, says):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_labels": 1} | change))
    with pytest.raises(InputError, match=says):
        RewardModel(str(checkpoint))
