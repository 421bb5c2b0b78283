"""Judges: which of two responses to a prompt is better, always asked in both orders; by a reward, or a chat model."""

from collections.abc import Sequence
from typing import Protocol as Interface

import pandas as pd

from ..models.encoder import Embedder
from ..store.stored import stored
from .endpoint import EndpointJudge, Reply
from .rewards import Reward, load_reward


class Judge(Interface):
    """What the rest of the workbook asks of a judge."""

    name: str
    note: str
    fingerprint: str  # its answers depend on it and the texts only

    def ask(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Reply]:
        """An answer for each prompt with its two responses."""

    def preview(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> str:
        """What `ask` would cost, in a sentence."""


def load_judge(name: str, embed: Embedder | None = None, store: bool = True, **endpoint) -> Judge:
    """`endpoint`, a language model behind `EndpointJudge(**endpoint)`; or any reward by the names of `load_reward`.

    `store`: whether a reward's scores are found again. Those of an endpoint always are.
    """
    return EndpointJudge(**endpoint) if name == "endpoint" else RewardJudge(stored(load_reward(name, embed), store))


def judge_pairs(judge: Judge, prompts: Sequence[str], responses: Sequence[str], others: Sequence[str]) -> pd.DataFrame:
    """A row for each response against its other: columns forward, backward (the answers in both orders), verdict, reply.

    `verdict` is that of the response: win, tie or lose, or unparsable or failed where an order has no answer. `reply`: the
    judge's words on the first order.
    """
    answers = judge.ask(*both_orders(prompts, responses, others))
    forward, backward = answers[: len(prompts)], answers[len(prompts) :]
    rows = [(a.verdict, b.verdict, outcome(a.verdict, b.verdict), a.reply) for a, b in zip(forward, backward, strict=True)]
    return pd.DataFrame(rows, columns=["forward", "backward", "verdict", "reply"])


def both_orders(prompts: Sequence[str], responses: Sequence[str], others: Sequence[str]) -> tuple[list, list, list]:
    """Prompts, first and second responses: each response stands first, and then, in the second half, second."""
    return [*prompts, *prompts], [*responses, *others], [*others, *responses]


def outcome(forward: str, backward: str) -> str:
    """The verdict on what stood first in the forward order; orders that disagree make a tie, as in MT-bench."""
    for missing in ("failed", "unparsable"):
        if missing in (forward, backward):
            return missing
    return {("A", "B"): "win", ("B", "A"): "lose"}.get((forward, backward), "tie")


class RewardJudge:
    """A reward as a judge: the higher score wins, equal scores are level. It has no order to be swayed by."""

    def __init__(self, reward: Reward):
        self.reward, self.name, self.fingerprint = reward, reward.name, reward.fingerprint
        self.note = f"{reward.note} As a judge, the higher score wins and equal scores tie."

    def ask(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Reply]:
        """An answer for each; every text is scored once, so that equal texts are level."""
        texts = list(dict.fromkeys([*zip(prompts, firsts, strict=True), *zip(prompts, seconds, strict=True)]))
        scores = dict(zip(texts, self.reward.score([x for x, _ in texts], [y for _, y in texts]), strict=True))
        pairs = [(scores[x, a], scores[x, b]) for x, a, b in zip(prompts, firsts, seconds, strict=True)]
        return [Reply("A" if a > b else "B" if a < b else "C", f"{a:.2f} against {b:.2f}") for a, b in pairs]

    def preview(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> str:
        """It costs nothing."""
        return "The judge is a reward, so nothing is to be paid."
