"""The reward model class of OpenAssistant's Pythia models, of which oasst-rm-2-pythia-6.9b-epoch-1 is the paper's RM_test.

transformers has no class for it. Its configuration edited to "gpt_neox" would load, with a head of random numbers, since the
trained head has another name (`out_proj`) and a bias. Importing this module registers the class.
"""

import re

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, GPTNeoXConfig, GPTNeoXModel, GPTNeoXPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..common.errors import InputError

MARKS = {"Human": "<|prompter|>", "Assistant": "<|assistant|>"}
END = "<|endoftext|>"


class OasstConfig(GPTNeoXConfig):
    """GPT-NeoX with a reward head that reads the last token ("last") or the mean of all ("mean")."""

    model_type = "gpt_neox_reward_model"
    pooling: str = "last"


class OasstRewardModel(GPTNeoXPreTrainedModel):
    """A GPT-NeoX body and a linear head with a bias: one reward for each row."""

    config_class = OasstConfig

    def __init__(self, config: OasstConfig):
        if config.pooling not in ("last", "mean"):
            raise InputError(
                f"a reward model of OpenAssistant pools by last or mean, but its config.json says {config.pooling!r}"
            )
        config.num_labels = 1
        super().__init__(config)
        self.gpt_neox, self.out_proj = GPTNeoXModel(config), torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Logits (rows, 1) of right-padded rows; int64, both (rows, tokens)."""
        hidden = self.gpt_neox(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.pooling == "mean":
            weights = attention_mask[..., None].to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        else:
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(1) - 1]
        return SequenceClassifierOutput(logits=self.out_proj(pooled))

    @staticmethod
    def dialogue(prompt: str, response: str) -> str:
        """The text it was trained to read: every turn after the mark of its speaker, and an end mark after it.

        >>> OasstRewardModel.dialogue("Human: Hi", "Hello.")
        '<|prompter|>Hi<|endoftext|><|assistant|>Hello.<|endoftext|>'
        """
        turns = re.split(r"(?:^|\n\n)(Human|Assistant):", f"{prompt}\n\nAssistant: ")[1:-1] + [response]
        return "".join(f"{MARKS[who]}{_inert(said)}{END}" for who, said in zip(turns[::2], turns[1::2], strict=True))


def _inert(text: str) -> str:
    """A turn without marks of its own: a text that spells one would speak for somebody else."""
    return re.sub(r"<\|(prompter|assistant|endoftext|system)\|>", r"\1", text).strip()


AutoConfig.register(OasstConfig.model_type, OasstConfig)
AutoModelForSequenceClassification.register(OasstConfig, OasstRewardModel)
