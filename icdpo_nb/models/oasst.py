"""The class of OpenAssistant's Pythia reward models, including oasst-rm-2-pythia-6.9b-epoch-1, the paper's RM_test.

transformers has no such class. If `model_type` is changed to "gpt_neox", the model loads with a randomly initialised
head, because the trained head has a different name (`out_proj`) and a bias. Importing this module registers the class.
"""

import re

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, GPTNeoXConfig, GPTNeoXModel, GPTNeoXPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..common.errors import InputError

MARKS = {"Human": "<|prompter|>", "Assistant": "<|assistant|>"}
END = "<|endoftext|>"


class OasstConfig(GPTNeoXConfig):
    """GPT-NeoX with a reward head on the last token (`pooling="last"`) or on the mean of all tokens ("mean")."""

    model_type = "gpt_neox_reward_model"
    pooling: str = "last"


class OasstRewardModel(GPTNeoXPreTrainedModel):
    """A GPT-NeoX body and a linear head with a bias; returns one reward per row."""

    config_class = OasstConfig

    def __init__(self, config: OasstConfig):
        if config.pooling not in ("last", "mean"):
            raise InputError(
                f"an OpenAssistant reward model pools by last or mean, but its config.json says {config.pooling!r}"
            )
        config.num_labels = 1
        super().__init__(config)
        self.gpt_neox, self.out_proj = GPTNeoXModel(config), torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Logits, shape (rows, 1), of right-padded rows. Both arguments are int64, shape (rows, tokens)."""
        hidden = self.gpt_neox(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.pooling == "mean":
            weights = attention_mask[..., None].to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        else:
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(1) - 1]
        return SequenceClassifierOutput(logits=self.out_proj(pooled))

    @staticmethod
    def dialogue(prompt: str, response: str) -> str:
        """The input format of training: each turn follows its speaker's token and ends with <|endoftext|>.

        >>> OasstRewardModel.dialogue("Human: Hi", "Hello.")
        '<|prompter|>Hi<|endoftext|><|assistant|>Hello.<|endoftext|>'
        """
        turns = re.split(r"(?:^|\n\n)(Human|Assistant):", f"{prompt}\n\nAssistant: ")[1:-1] + [response]
        pairs = zip(turns[::2], turns[1::2], strict=True)
        return "".join(f"{MARKS[speaker]}{_without_marks(turn)}{END}" for speaker, turn in pairs)


def _without_marks(text: str) -> str:
    """Defuse special tokens spelled out in a turn, which could otherwise start a turn of another speaker."""
    return re.sub(r"<\|(prompter|assistant|endoftext|system)\|>", r"\1", text).strip()


AutoConfig.register(OasstConfig.model_type, OasstConfig)
AutoModelForSequenceClassification.register(OasstConfig, OasstRewardModel)
