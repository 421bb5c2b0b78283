"""Judges compare two responses to a prompt, always in both orders. A judge is a reward or a chat model."""

from collections.abc import Sequence
from typing import Protocol as Interface

import pandas as pd

from ..models.encoder import Embedder
from ..store.stored import stored
from .endpoint import EndpointJudge, Reply
from .rewards import Reward, load_reward


class Judge(Interface):
    """The interface of a judge."""

    name: str
    note: str
    fingerprint: str  # together with the texts, it determines the replies

    def ask(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Reply]:
        """A reply for each prompt and its two responses."""

    def preview(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> str:
        """The cost of `ask`, as a sentence."""


def load_judge(name: str, embed: Embedder | None = None, store: bool = True, **endpoint) -> Judge:
    """Load a judge: "endpoint" for `EndpointJudge(**endpoint)`, or a reward by its name for `load_reward`.

    `store`: whether the scores of a reward are stored for reuse. The verdicts of an endpoint always are.
    """
    return EndpointJudge(**endpoint) if name == "endpoint" else RewardJudge(stored(load_reward(name, embed), store))


def judge_pairs(judge: Judge, prompts: Sequence[str], responses: Sequence[str], others: Sequence[str]) -> pd.DataFrame:
    """One row for each pair: columns forward, backward (the verdicts in both orders), verdict, reply.

    `verdict` is the result for the response: win, tie or lose, or else unparsable or failed if an order has no verdict. `reply`
    is the text of the judge in the forward order.
    """
    replies = judge.ask(*both_orders(prompts, responses, others))
    forward, backward = replies[: len(prompts)], replies[len(prompts) :]
    rows = [(a.verdict, b.verdict, outcome(a.verdict, b.verdict), a.reply) for a, b in zip(forward, backward, strict=True)]
    return pd.DataFrame(rows, columns=["forward", "backward", "verdict", "reply"])


def both_orders(prompts: Sequence[str], responses: Sequence[str], others: Sequence[str]) -> tuple[list, list, list]:
    """Prompts, first and second responses. `responses` come first in the first half and second in the second half."""
    return [*prompts, *prompts], [*responses, *others], [*others, *responses]


def outcome(forward: str, backward: str) -> str:
    """The result for the first response of the forward order. If the orders disagree, it is a tie, as in MT-bench."""
    for missing in ("failed", "unparsable"):
        if missing in (forward, backward):
            return missing
    return {("A", "B"): "win", ("B", "A"): "lose"}.get((forward, backward), "tie")


class RewardJudge:
    """A reward as a judge: the higher score wins, equal scores tie. The order of the responses has no influence."""

    def __init__(self, reward: Reward):
        self.reward = reward
        self.name = reward.name
        self.fingerprint = reward.fingerprint
        self.note = f"{reward.note} As a judge, the higher reward wins and equal rewards tie."

    def ask(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Reply]:
        """A reply for each pair. Every text is scored once, so equal texts tie."""
        texts = list(dict.fromkeys([*zip(prompts, firsts, strict=True), *zip(prompts, seconds, strict=True)]))
        scores = dict(zip(texts, self.reward.score([x for x, _ in texts], [y for _, y in texts]), strict=True))
        pairs = [(scores[x, a], scores[x, b]) for x, a, b in zip(prompts, firsts, seconds, strict=True)]
        return [Reply("A" if a > b else "B" if a < b else "C", f"{a:.2f} against {b:.2f}") for a, b in pairs]

    def preview(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> str:
        """A reward has no cost."""
        return "The judge is a reward and costs nothing."
