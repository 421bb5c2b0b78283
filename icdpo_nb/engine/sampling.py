"""Sampling: one token from logits, and a sequence that grows by sampled tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .packing import on_device

SORTED = 16  # tokens of the vocabulary that are sorted first; where the nucleus has more of them, eight times as many are


def nucleus_sample(
    logits: torch.Tensor, uniform: np.ndarray, top_p: float, top_k: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row by nucleus (top-p) sampling, using the given uniform random numbers.

    `logits` are float32, shape (rows, vocab); `uniform` are float64 in [0, 1), shape (rows,). The nucleus is the smallest
    set of most probable tokens whose mass reaches `top_p`, as in transformers' TopPLogitsWarper. Temperature is applied
    first, then top-k, then top-p. Only the part of the vocabulary that the nucleus needs is sorted. Returns token ids and
    their log-probabilities under the unmodified policy (temperature 1, whole vocabulary) in nats, both of shape (rows,), on
    the CPU: the one wait for a GPU in a decoding step.
    """
    if logits.device.type == "mps":  # has no float64
        logits = logits.cpu()
    uniform = on_device(torch.as_tensor(uniform), logits.device)
    logp = torch.log_softmax(logits, -1)
    tempered = logp if temperature == 1 else torch.log_softmax(logits / temperature, -1)
    vocab = logits.shape[-1]
    # On a GPU, another wait costs more than to sort more.
    n_sorted = min(top_k or (SORTED if logits.device.type == "cpu" else 4 * SORTED), vocab)
    drawn = _drawn(logp, tempered, uniform, top_p, top_k, n_sorted)
    while not top_k and n_sorted < vocab and not drawn[2].all():
        n_sorted = min(8 * n_sorted, vocab)
        few = (drawn[2] == 0).nonzero()[:, 0]
        rows = on_device(few, logits.device)
        drawn[:, few] = _drawn(logp[rows], tempered[rows], uniform[rows], top_p, top_k, n_sorted)
    return drawn[0].long(), drawn[1].float()


def _drawn(
    logp: torch.Tensor, tempered: torch.Tensor, uniform: torch.Tensor, top_p: float, top_k: int, n_sorted: int
) -> torch.Tensor:
    """Token, log-probability, and whether the `n_sorted` best tokens hold the nucleus: float64, shape (3, rows), on the CPU."""
    best, ids = tempered.topk(n_sorted, -1)
    probs = best.double().exp()
    if top_k:
        probs = probs / probs.sum(-1, keepdim=True)
    enough = probs.sum(-1) >= top_p
    token = ids.gather(-1, _pick(probs, uniform, top_p))
    return torch.stack([token[:, 0].double(), logp.gather(-1, token)[:, 0].double(), enough.double()]).cpu()


def _pick(probs: torch.Tensor, uniform: torch.Tensor, top_p: float) -> torch.Tensor:
    """The place, shape (rows, 1), that a uniform number picks in the nucleus of descending probabilities."""
    mass_before = probs.cumsum(-1) - probs
    cumulative = probs.masked_fill(mass_before >= top_p, 0.0).cumsum(-1)
    return (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(-1, keepdim=True).clamp_(max=probs.shape[-1] - 1)


@dataclass
class Sampled:
    """One sampled sequence: token ids, their log-probabilities under the policy, and how it ended."""

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finish: str = "length"

    def grows(self, token: int, logp: float, ended: Callable[[list[int]], str | None], steps: int) -> bool:
        """Append a token. Returns whether another one follows, up to `steps`; `ended(ids)` tells how a sequence has ended."""
        self.ids.append(token)
        self.logps.append(logp)
        self.finish = ended(self.ids) or "length"
        return self.finish == "length" and len(self.ids) < steps

    def takes(
        self, drawn: Sequence[tuple[int, float]], draft: Sequence[int], ended: Callable[[list[int]], str | None], steps: int
    ) -> bool:
        """Append the tokens, with log-probabilities, that were drawn after the last token and after each token of a draft.

        Those after a wrong draft do not count. Returns whether another token follows.
        """
        for (token, logp), guess in zip(drawn, [*draft, None], strict=True):
            if not self.grows(token, logp, ended, steps):
                return False
            if token != guess:
                break
        return True
