"""A trainer for Relative Preference Optimization (arXiv:2402.10958): transformers' own, with another batch and another loss.

A batch holds M chosen and M rejected responses, whose contrast matrix is M x M. In paired data row i is one prompt with both;
in unpaired data its chosen and its rejected response answer different prompts. The matrix may be larger than what fits the
memory: see `RPOTrainer.training_step`.
"""

import random
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from .rpo import check_weighting, diagonal_weights, prompt_weights, rpo_loss, uniform_weights

IGNORED = -100  # labels that cross_entropy leaves out


def rpo_items(rows: Sequence[dict], tokenizer, max_length: int, paired: bool = True, seed: int = 0) -> list[dict]:
    """What the trainer reads: for each of a row's two sides token ids, labels, and the embedding of the prompt answered.

    `rows`: prompt (the context), chosen, rejected, embedding (of the prompt). Labels are those of response and EOS. Unpaired
    data are the same responses, the rejected ones in another order (section 4.1, "unpaired setting"). What is longer than
    `max_length` tokens loses its end, as with TRL.
    """
    others = list(rows)
    if not paired:
        random.Random(seed).shuffle(others)
    return [
        {**_side("chosen", row, tokenizer, max_length), **_side("rejected", other, tokenizer, max_length)}
        for row, other in zip(rows, others, strict=True)
    ]


def _side(side: str, row: dict, tokenizer, max_length: int) -> dict:
    context = tokenizer(row["prompt"])["input_ids"]
    ids = tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"]
    shared = next((i for i, (a, b) in enumerate(zip(context, ids, strict=False)) if a != b), min(len(context), len(ids)))
    labels = [IGNORED] * shared + ids[shared:]
    return {f"{side}_ids": ids[:max_length], f"{side}_labels": labels[:max_length], f"{side}_embedding": row["embedding"]}


def collate(items: Sequence[dict]) -> dict[str, torch.Tensor]:
    """A batch: ids, labels and mask of each side, shapes (M, T), padded at the right; embeddings (M, D)."""
    batch = {}
    for side in ("chosen", "rejected"):
        ids, labels = ([torch.tensor(item[f"{side}_{what}"]) for item in items] for what in ("ids", "labels"))
        batch[f"{side}_ids"] = pad_sequence(ids, batch_first=True)
        batch[f"{side}_labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        batch[f"{side}_mask"] = pad_sequence([torch.ones_like(x) for x in ids], batch_first=True)
        batch[f"{side}_embedding"] = torch.tensor([item[f"{side}_embedding"] for item in items])
    return batch


class RPOTrainer(Trainer):
    """`transformers.Trainer` with the loss of `rpo.rpo_loss`; the reference is the model with its adapter off.

    `weighting`: embedding (with `tau`), uniform or diagonal (with `alpha`). `micro`: how many rows of the batch go through the
    model at a time; 0 for all. Dropout is off, so that the passes of a step agree.
    """

    def __init__(self, *args, beta=0.1, tau=0.5, weighting="embedding", alpha=0.8, weigh="score", micro=0, **kwargs):
        check_weighting(weighting)
        super().__init__(*args, data_collator=collate, **kwargs)
        self.beta, self.tau, self.weighting, self.alpha, self.weigh, self.micro = beta, tau, weighting, alpha, weigh, micro

    def weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weights of a batch's contrast matrix, shape (M, M)."""
        m = len(batch["chosen_ids"])
        if self.weighting == "uniform":
            return uniform_weights(m, m)
        if self.weighting == "diagonal":
            return diagonal_weights(m, self.alpha)
        return prompt_weights(batch["chosen_embedding"], batch["rejected_embedding"], self.tau)

    def logratios(self, model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """log π_θ - log π_ref of the chosen and of the rejected responses, summed over tokens, nats; shapes (M,)."""
        found = []
        for side in ("chosen", "rejected"):
            with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
                reference = response_logps(model, batch, side)
            found.append(response_logps(model, batch, side) - reference)
        return found[0], found[1]

    def loss(self, chosen: torch.Tensor, rejected: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of the whole matrix."""
        return rpo_loss(chosen, rejected, self.weights(batch), self.beta, self.weigh)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """One step on the whole matrix, however few rows the memory takes at a time.

        With `micro` rows at a time the log-ratios of all rows are first computed without gradients; the loss's derivative by
        each of them is then a number, and each part adds its own share to the gradient, which is exactly that of the whole
        (GradCache, arXiv:2101.06983).
        """
        model.eval()  # no dropout
        batch = self._prepare_inputs(inputs)
        m, size = len(batch["chosen_ids"]), self.micro or len(batch["chosen_ids"])
        if size >= m:
            loss = self.loss(*self.logratios(model, batch), batch)
            self.accelerator.backward(loss)
            return loss.detach()
        parts = [{name: values[i : i + size] for name, values in batch.items()} for i in range(0, m, size)]
        with torch.no_grad():
            known = [torch.cat(side) for side in zip(*(self.logratios(model, part) for part in parts), strict=True)]
        leaves = [side.requires_grad_() for side in known]
        loss = self.loss(*leaves, batch)
        slopes = zip(*(g.split(size) for g in torch.autograd.grad(loss, leaves)), strict=True)
        for part, slope in zip(parts, slopes, strict=True):
            share = sum((ratio * s).sum() for ratio, s in zip(self.logratios(model, part), slope, strict=True))
            self.accelerator.backward(share)
        return loss.detach()


def response_logps(model, batch: dict[str, torch.Tensor], side: str) -> torch.Tensor:
    """Σ log π over the labelled tokens of one side, shape (M,), nats, in float32."""
    logits = model(input_ids=batch[f"{side}_ids"], attention_mask=batch[f"{side}_mask"]).logits[:, :-1].float()
    labels = batch[f"{side}_labels"][:, 1:]
    return -cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none").sum(1)
