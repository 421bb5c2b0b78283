"""A trainer for Relative Preference Optimization (arXiv:2402.10958): transformers' own, with another batch and another loss.

A batch holds M chosen and M rejected responses, whose contrast matrix is M x M. In paired data row i is one prompt with both;
in unpaired data its chosen and its rejected response answer different prompts. The matrix may be larger than what fits the
memory (see `RPOTrainer.training_step`), and smaller than the batch.
"""

import random
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from .losses import check_weighting, diagonal_weights, ipo_loss, prompt_weights, rpo_loss, uniform_weights

IGNORED = -100  # targets that cross_entropy leaves out


def rpo_items(rows: Sequence[dict], tokenizer, max_length: int, paired: bool = True, seed: int = 0) -> list[dict]:
    """What the trainer reads: of each of a row's two sides the token ids, the targets, and the embedding it is weighed by.

    `rows`: prompt (the context), chosen, rejected, and chosen_embedding and rejected_embedding (of the prompt, or of it and the
    response), which may be left out where no weights need them. Targets are response and EOS. Unpaired data are the same
    responses, the rejected ones in another order (section 4.1, "unpaired setting"). What is longer than `max_length` tokens
    loses its end, as with TRL.
    """
    others = list(rows)
    if not paired:
        random.Random(seed).shuffle(others)
    return [
        {"chosen": _side("chosen", row, tokenizer, max_length), "rejected": _side("rejected", other, tokenizer, max_length)}
        for row, other in zip(rows, others, strict=True)
    ]


def _side(side: str, row: dict, tokenizer, max_length: int) -> dict:
    context = tokenizer(row["prompt"])["input_ids"]
    ids = tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"]
    shared = next((i for i, (a, b) in enumerate(zip(context, ids, strict=False)) if a != b), min(len(context), len(ids)))
    targets = [IGNORED] * shared + ids[shared:]
    return {"ids": ids[:max_length], "targets": targets[:max_length], "embedding": row.get(f"{side}_embedding", [])}


def collate(items: Sequence[dict]) -> dict[str, torch.Tensor]:
    """A batch, chosen before rejected: ids, targets and mask, shape (M, 2, T), padded at the right; embedding (M, 2, D)."""
    sides = [item[side] for item in items for side in ("chosen", "rejected")]
    fills = {"ids": 0, "targets": IGNORED}
    batch = {name: _padded([side[name] for side in sides], fill) for name, fill in fills.items()}
    batch["mask"] = _padded([[1] * len(side["ids"]) for side in sides], 0)
    batch["embedding"] = torch.tensor([side["embedding"] for side in sides])
    return {name: values.unflatten(0, (len(items), 2)) for name, values in batch.items()}


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


class RPOTrainer(Trainer):
    """`transformers.Trainer` with the loss of `losses.rpo_loss`; the reference is the model with its adapter off.

    `weighting`: embedding (with `tau`), uniform or diagonal (with `alpha`). `matrix`: rows of a contrast matrix; 0 is the whole
    batch; of several matrices the loss is the mean over their rows, as on several GPUs (the paper's Table 3). `micro`: how many
    rows of the batch go through the model at a time; 0 for all. Dropout is off, so that the passes of a step agree.
    """

    def __init__(self, *args, beta=0.1, tau=0.5, weighting="embedding", alpha=0.8, weigh="score", matrix=0, micro=0, **kwargs):
        check_weighting(weighting)
        super().__init__(*args, data_collator=collate, **kwargs)
        self.beta, self.tau, self.weighting, self.alpha, self.weigh = beta, tau, weighting, alpha, weigh
        self.matrix, self.micro = matrix, micro

    def weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weights of one contrast matrix over all of a batch, shape (M, M)."""
        m = len(batch["ids"])
        if self.weighting == "uniform":
            return uniform_weights(m, m)
        if self.weighting == "diagonal":
            return diagonal_weights(m, self.alpha)
        return prompt_weights(*batch["embedding"].unbind(1), self.tau)

    def logratios(self, model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """log π_θ - log π_ref of the chosen and of the rejected responses, summed over tokens, nats; shapes (M,)."""
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            reference = response_logps(model, batch)
        return (response_logps(model, batch) - reference).unbind(1)

    def loss(self, chosen: torch.Tensor, rejected: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, a mean over its rows; its log-ratios have shape (M,)."""
        total, size = 0.0, self.matrix or len(chosen)
        for rows in (slice(i, i + size) for i in range(0, len(chosen), size)):
            weights = self.weights({name: values[rows] for name, values in batch.items()})
            total += rpo_loss(chosen[rows], rejected[rows], weights, self.beta, self.weigh) * len(weights)
        return total / len(chosen)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """One step on the whole batch, however few rows the memory takes at a time.

        With `micro` rows at a time the log-ratios of all rows are first computed without gradients; the loss's derivative by
        each of them is then a number, and each part adds its own share to the gradient, which is exactly that of the whole
        (GradCache, arXiv:2101.06983).
        """
        model.eval()  # no dropout
        batch = self._prepare_inputs(inputs)
        m, size = len(batch["ids"]), self.micro or len(batch["ids"])
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


class IPOTrainer(RPOTrainer):
    """The same with the loss of `losses.ipo_loss`, whose log-ratios are summed over tokens and not divided by them."""

    def loss(self, chosen: torch.Tensor, rejected: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, a mean over its pairs."""
        return ipo_loss(chosen, rejected, self.beta)


def response_logps(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Σ log π over the targets of each row's two sides, shape (M, 2), nats, in float32."""
    ids, mask, targets = (batch[name].flatten(0, 1) for name in ("ids", "mask", "targets"))
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    logps = -cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="none")
    return logps.view(*batch["ids"].shape[:2], -1).sum(2)
