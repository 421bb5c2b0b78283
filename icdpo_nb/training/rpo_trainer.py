"""A trainer for Relative Preference Optimization (arXiv:2402.10958): `transformers.Trainer` with its own batches and loss.

A batch contains M chosen and M rejected responses, which form an M x M contrast matrix. In paired data, the chosen and the
rejected response of row i answer the same prompt; in unpaired data, they answer different prompts. The matrix may be smaller
than the batch, and the batch may be larger than fits into memory at once (see `RPOTrainer.training_step`).
"""

import random
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from .losses import check_weighting, diagonal_weights, ipo_loss, prompt_weights, rpo_loss, uniform_weights

IGNORED = -100  # target that cross_entropy ignores


def rpo_items(rows: Sequence[dict], tokenizer, max_length: int, paired: bool = True, seed: int = 0) -> list[dict]:
    """The training items: for each of a row's two sides, the token ids, the targets, and the embedding for the weights.

    `rows`: prompt (the context), chosen, rejected, and chosen_embedding and rejected_embedding (of the prompt, or of prompt and
    response), which are optional if the weights do not use them. The targets are the response and EOS. Unpaired data consist
    of the same responses with the rejected ones shuffled (section 4.1, "unpaired setting"). Sequences longer than `max_length`
    tokens are truncated at the end, as in TRL.
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
    """A batch with chosen before rejected: ids, targets and mask (M, 2, T), padded on the right; embedding (M, 2, D)."""
    sides = [item[side] for item in items for side in ("chosen", "rejected")]
    fills = {"ids": 0, "targets": IGNORED}
    batch = {name: _padded([side[name] for side in sides], fill) for name, fill in fills.items()}
    batch["mask"] = _padded([[1] * len(side["ids"]) for side in sides], 0)
    batch["embedding"] = torch.tensor([side["embedding"] for side in sides])
    return {name: values.unflatten(0, (len(items), 2)) for name, values in batch.items()}


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


class RPOTrainer(Trainer):
    """`transformers.Trainer` with the loss `losses.rpo_loss`. The reference is the model with its adapter disabled.

    `weighting`: embedding (with `tau`), uniform or diagonal (with `alpha`). `matrix`: rows of a contrast matrix; 0 for the
    whole batch. With several matrices the loss is the mean over all rows, as on several GPUs (the paper's Table 3). `micro`:
    rows of the batch that are processed at once; 0 for all. Dropout is disabled, so that all passes of a step are consistent.
    """

    def __init__(self, *args, beta=0.1, tau=0.5, weighting="embedding", alpha=0.8, weigh="score", matrix=0, micro=0, **kwargs):
        check_weighting(weighting)
        super().__init__(*args, data_collator=collate, **kwargs)
        self.beta = beta
        self.tau = tau
        self.weighting = weighting
        self.alpha = alpha
        self.weigh = weigh
        self.matrix = matrix
        self.micro = micro

    def weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weights of one contrast matrix over the whole batch, shape (M, M)."""
        m = len(batch["ids"])
        if self.weighting == "uniform":
            return uniform_weights(m, m)
        if self.weighting == "diagonal":
            return diagonal_weights(m, self.alpha)
        return prompt_weights(*batch["embedding"].unbind(1), self.tau)

    def logratios(self, model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """log π_θ - log π_ref of the chosen and the rejected responses, summed over tokens, in nats; shapes (M,)."""
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            reference = response_logps(model, batch)
        return (response_logps(model, batch) - reference).unbind(1)

    def loss(self, chosen: torch.Tensor, rejected: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, as a mean over its rows; the log-ratios have shape (M,)."""
        total, size = 0.0, self.matrix or len(chosen)
        for rows in (slice(i, i + size) for i in range(0, len(chosen), size)):
            weights = self.weights({name: values[rows] for name, values in batch.items()})
            total += rpo_loss(chosen[rows], rejected[rows], weights, self.beta, self.weigh) * len(weights)
        return total / len(chosen)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """One step on the whole batch, processing at most `micro` rows at once.

        With `micro`, the log-ratios of all rows are first computed without gradients, which gives the derivative of the loss
        with respect to each log-ratio. Each part is then backpropagated with these derivatives. The accumulated gradient is
        exactly that of the whole batch (GradCache, arXiv:2101.06983).
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
            of_parts = [self.logratios(model, part) for part in parts]
        leaves = [torch.cat(side).requires_grad_() for side in zip(*of_parts, strict=True)]
        loss = self.loss(*leaves, batch)
        gradients = [gradient.split(size) for gradient in torch.autograd.grad(loss, leaves)]
        for part, by_chosen, by_rejected in zip(parts, *gradients, strict=True):
            chosen, rejected = self.logratios(model, part)
            self.accelerator.backward((chosen * by_chosen).sum() + (rejected * by_rejected).sum())
        return loss.detach()


class IPOTrainer(RPOTrainer):
    """`RPOTrainer` with the loss `losses.ipo_loss`, whose log-ratios are sums over tokens rather than means."""

    def loss(self, chosen: torch.Tensor, rejected: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, as a mean over its pairs."""
        return ipo_loss(chosen, rejected, self.beta)


def response_logps(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities in nats, summed over the targets of each side, shape (M, 2), float32."""
    ids, mask, targets = (batch[name].flatten(0, 1) for name in ("ids", "mask", "targets"))
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    logps = -cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="none")
    return logps.view(*batch["ids"].shape[:2], -1).sum(2)
