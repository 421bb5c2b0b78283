"""The reward of a policy in the course of its training, with and without selection by S."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from ..algorithm import select
from ..baselines import expected_random_choice
from ..data.preferences import Preference
from ..judging.rewards import Reward, with_rewards
from ..models.replicas import load_model
from ..protocol import RECOMMENDED, Protocol
from ..statistics.estimates import method_gains, method_means, per_prompt, totals_of
from ..statistics.intervals import Estimate
from ..store.stored import stored
from ..training.finetune import Plan, adapter_at, fine_tune_all
from .policies import policy_table


def along_training(
    prompts: Sequence[Preference],
    plans: Mapping[str, Plan],
    points: int,
    reward: Reward,
    protocol: Protocol = RECOMMENDED,
    store: bool = True,
) -> pd.DataFrame:
    """Reward with and without S in the course of training, for each plan by name.

    `points`: the number of evaluated steps. They are denser at the beginning, where a policy changes most, and include the
    last step. Their adapters are cached. Returns columns lm, source (the name of the plan), method ("policy" and "policy + S"),
    step, domain, prompt_id, reward. The reference of S is the initial model of the plan.
    """
    steps, kept = {}, {}
    for name, plan in plans.items():
        n_pairs = min(plan.recipe.n_pairs, len(plan.pairs))
        steps[name] = _points(plan.recipe.steps(n_pairs), points)
        kept[name] = plan._replace(recipe=replace(plan.recipe, keep=steps[name]))
    folders = fine_tune_all(kept, protocol)
    parts = []
    for name, plan in plans.items():
        for step in steps[name]:
            policy = stored(load_model(f"{plan.lm.name}+{adapter_at(folders[name], step)}"), store)
            table = policy_table(prompts, policy, plan.lm, protocol, plan.recipe.seed)
            scored = with_rewards(table, reward=reward)
            chosen = {"policy": expected_random_choice(scored), "policy + S": select(scored, "S")}
            parts.append(per_prompt(chosen, plan.lm.name, name).assign(step=step))
    return pd.concat(parts, ignore_index=True)


def _points(steps: int, n: int) -> tuple[int, ...]:
    """At most n of the steps 1 to `steps`, spaced quadratically and including the last."""
    return tuple(sorted({max(i, round(steps * (i / n) ** 2)) for i in range(1, min(n, steps) + 1)} | {steps}))


def along_means(along: pd.DataFrame, totals: str = "macro", seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Total means and paired gains of S at every step of `along_training`, each table with a column step."""
    means, gains = [], []
    for (_, step), part in along.groupby(["source", "step"], sort=False):
        means.append(totals_of(method_means(part, totals=totals, seed=seed)).assign(step=step))
        gain = method_gains(part, [("policy + S", "policy")], totals=totals, seed=seed)
        gains.append(totals_of(gain).assign(step=step))
    return pd.concat(means, ignore_index=True), pd.concat(gains, ignore_index=True)


def along_sentence(gains: pd.DataFrame) -> str:
    """The steps at which S raises or lowers the reward according to the separate 95 % intervals of `along_means`."""
    sentences = []
    for plan, part in gains.groupby("source", sort=False):
        effects = []
        for verb, rows in (("raises", part[part["low"] > 0]), ("lowers", part[part["high"] < 0])):
            if len(rows):
                effects.append(f"{verb} the reward at step {', '.join(map(str, rows['step']))}")
        effect = " and ".join(effects) or "changes the reward significantly at no step"
        best, steps = part.loc[part["mean"].idxmax()], ", ".join(map(str, part["step"]))
        largest = Estimate(*best[["mean", "low", "high", "n"]]).text()
        sentences.append(f"{plan}: S {effect} (of {steps}); the largest gain is {largest}, at step {best['step']}")
    return f"{'. '.join(sentences)}. The 95 % intervals are over {gains['n'].iloc[0]} prompts, with one training seed."
