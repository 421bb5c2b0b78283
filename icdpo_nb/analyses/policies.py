"""What fine-tuned policies answer, and what the score S makes of it: section 4.1 and Table 4."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..algorithm import add_scores, responses_table, select
from ..baselines import expected_random_choice
from ..common.errors import InputError
from ..data.preferences import Preference
from ..judging.rewards import Reward, with_rewards
from ..models.checkpoints import split_adapters
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..models.lm import load_lm
from ..protocol import RECOMMENDED, Protocol
from ..statistics.estimates import method_gains, method_means, per_prompt, totals_of
from ..statistics.intervals import Estimate
from ..store.stored import stored
from ..templates import base_context
from ..training.finetune import Plan, adapter_at, fine_tune_all
from ..training.recipes import METHODS as TRAINED
from ..training.recipes import Recipe
from .comparison import METHODS, Method, chosen_responses
from .cost import work_done
from .sampling import with_origin

BEGINS = ("sft", "base")


class Trained(NamedTuple):
    """A trained policy."""

    reference: LanguageModel  # what it began as, the π0 of its S
    folder: Path  # of its adapter

    @property
    def model(self) -> str:
        """The policy's name for `load_lm`."""
        return f"{self.reference.name}+{self.folder}"


def adapter_name(model: str) -> str:
    """What tells trained policies apart in a table: a name for `load_lm` with the adapters' folders but not the way to them.

    A folder is named after all that can change its adapter, so equal names are equal weights. A model without adapters keeps
    its name.
    """
    base, folders = split_adapters(model)
    return "+".join([base, *(Path(folder).name for folder in folders)])


def train_policies(
    lm: LanguageModel,
    taught: Mapping[str, Sequence[Preference]],
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    begin: str = "sft",
    embed: Embedder | None = None,
    protocol: Protocol = RECOMMENDED,
    store: bool = True,
) -> dict[tuple[str, str, int], Trained]:
    """Train every method on every source's pairs from every seed, or find it: by (source, method, seed).

    `begin`: what the preference losses begin as and refer to: "sft", the SFT policy of the same source and seed, as in RPO's
    paper, or "base", the model itself. `recipes`: by method, with SFT's where they begin from it; their seeds are replaced.
    """
    if begin not in BEGINS:
        raise InputError(f"begin is {begin!r}, but must be {' or '.join(BEGINS)}")

    def plans(methods: Sequence[str], references: Mapping[tuple[str, int], LanguageModel]) -> dict[tuple[str, str, int], Plan]:
        return {
            (source, method, s): Plan(references[source, s], pairs, replace(recipes[method], seed=s), embed)
            for source, pairs in taught.items()
            for method in methods
            for s in seeds
        }

    base = {(source, s): lm for source in taught for s in seeds}
    if begin == "sft" and "SFT" not in recipes:
        raise InputError("the preference losses begin from an SFT policy; name SFT among the methods too, or set begin to base")
    first = plans(["SFT"], base) if "SFT" in recipes else {}
    trained = {key: Trained(lm, folder) for key, folder in fine_tune_all(first, protocol).items()}
    if begin == "sft":
        base = {(source, s): stored(load_lm(policy.model), store) for (source, _, s), policy in trained.items()}
    rest = plans([method for method in recipes if method != "SFT"], base)
    folders = fine_tune_all(rest, protocol)
    return trained | {key: Trained(rest[key].lm, folder) for key, folder in folders.items()}


def policy_table(
    prompts: Sequence[Preference],
    policy: LanguageModel,
    reference: LanguageModel,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> pd.DataFrame:
    """Candidates of a fine-tuned policy and their score S, with π* the policy and π0 its reference (section 4.1, Table 4).

    The responses are sampled from the policy under x alone. S is the mean over tokens: the paper takes π as the n-th root of
    P(y|x). Columns as in `candidates_table`; `logp_icl` is the policy's, `logp_base` the reference's.
    """
    context = [base_context(p.prompt, protocol) for p in prompts]
    sampled = policy.sample(context, protocol.n_candidates, protocol, seed)
    expert = policy.logprobs(context, sampled)
    table = responses_table(prompts, [[]] * len(prompts), [{"base": c} for c in context], sampled, reference, protocol)
    logp = [values.sum(dtype=float) for ys in expert for values in ys]
    return add_scores(table.assign(logp_icl=logp), protocol.but(reduction="mean"))


def sample_policies(
    prompts: Sequence[Preference],
    policies: Mapping[tuple[str, str, int], Trained],
    lm: LanguageModel,
    protocol: Protocol = RECOMMENDED,
    store: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`policy_table` of every policy by (source, method, seed) as one candidates table (see `sampling`); and `work_done`.

    The source is what a policy was trained on, the policy its method; with columns seed (of training and of sampling) and
    adapter (`adapter_name`). One policy is loaded at a time. `store`: whether what is sampled and scored is found again. The
    work's last rows are those of the references and of the base model, whatever they did before included.
    """
    parts, work = [], []
    for (source, method, seed), trained in policies.items():
        policy = stored(load_lm(trained.model), store)
        table = policy_table(prompts, policy, trained.reference, protocol, seed)
        named = with_origin(table, lm.name, source, policy=method)
        parts.append(named.assign(seed=seed, adapter=adapter_name(trained.model)))
        work.append(work_done({f"{method}, {source}, seed {seed}": policy}))
    references = {adapter_name(t.reference.name): t.reference for t in policies.values() if t.reference is not lm}
    work.append(work_done({**references, lm.name: lm}))
    return pd.concat(parts, ignore_index=True), pd.concat(work, ignore_index=True)


def first_candidates(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first n candidates of each prompt: just those that would have been sampled with this n."""
    return table[table["candidate_id"] < n].reset_index(drop=True)


def tuned_methods(methods: Sequence[str] = TRAINED) -> dict[str, Method]:
    """The methods of Table 4, and those it is compared with.

    A policy answers with one of its candidates at random, whose reward is their mean, and "+ S" with the one that S chooses.
    """
    found = {name: METHODS[name] for name in ("Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR")}
    for method in methods:
        found |= {method: Method("random", policy=method), f"{method} + S": Method("S", policy=method)}
    return found


def in_every_seed(chosen: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """The chosen responses from every training seed.

    What is not trained is the same in every seed, and its adapter is the base model's name; so a difference from it has the
    seeds of the other side alone.
    """
    of_row = [list(seeds) if pd.isna(s) else [int(s)] for s in chosen["seed"]]
    return chosen.assign(seed=of_row, adapter=chosen["adapter"].fillna(chosen["lm"])).explode("seed", ignore_index=True)


def mean_of_seeds(rewards: pd.DataFrame) -> pd.DataFrame:
    """Rewards of several training seeds as their mean for each prompt: input for `estimates.method_means`."""
    return rewards.groupby(["lm", "source", "method", "domain", "prompt_id"], sort=False)["reward"].mean().reset_index()


def reward_by_n(candidates: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Total reward of each policy with S for n = 1, 2, …: `method_means` with a column n_candidates.

    `candidates`: as from `sample_policies`. With n = 1 nothing is chosen.
    """
    parts = []
    for (_, method), table in candidates.groupby(["source", "policy"], sort=False):
        for n in range(1, int(table["candidate_id"].max()) + 2):
            chosen = chosen_responses(first_candidates(table, n), {method: Method("S", policy=method)})
            means = method_means(mean_of_seeds(chosen), totals=totals, seed=seed)
            parts.append(totals_of(means).assign(n_candidates=n))
    return pd.concat(parts, ignore_index=True)


def along_training(
    prompts: Sequence[Preference],
    plans: Mapping[str, Plan],
    points: int,
    reward: Reward,
    protocol: Protocol = RECOMMENDED,
    store: bool = True,
) -> pd.DataFrame:
    """Reward with and without S at points of one training, for each plan by its name.

    `points`: how many steps of the pass are looked at, close together at its beginning, where a policy changes most, and the
    last. The adapter after each of them is kept and found again. Columns lm, source (the plan's name), method ("policy" and
    "policy + S"), step, domain, prompt_id, reward; the reference of S is what the plan begins as.
    """
    passes = {name: plan.recipe.steps(min(plan.recipe.n_pairs, len(plan.pairs))) for name, plan in plans.items()}
    steps = {name: _points(n, points) for name, n in passes.items()}
    kept = {name: plan._replace(recipe=replace(plan.recipe, keep=steps[name])) for name, plan in plans.items()}
    folders, parts = fine_tune_all(kept, protocol), []
    for name, plan in plans.items():
        for step in steps[name]:
            policy = stored(load_lm(f"{plan.lm.name}+{adapter_at(folders[name], step)}"), store)
            table = policy_table(prompts, policy, plan.lm, protocol, plan.recipe.seed)
            scored = with_rewards(table, reward=reward)
            found = {"policy": expected_random_choice(scored), "policy + S": select(scored, "S")}
            parts.append(per_prompt(found, plan.lm.name, name).assign(step=step))
    return pd.concat(parts, ignore_index=True)


def _points(steps: int, n: int) -> tuple[int, ...]:
    """n of the steps 1 to `steps`, or all if there are fewer: quadratically spaced, the last one included."""
    return tuple(sorted({max(i, round(steps * (i / n) ** 2)) for i in range(1, min(n, steps) + 1)} | {steps}))


def along_means(along: pd.DataFrame, totals: str = "macro", seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of `along_training` at every step: the total means of both answers, and the paired gain by S; each with a column step."""
    means, gains = [], []
    for (_, step), part in along.groupby(["source", "step"], sort=False):
        means.append(totals_of(method_means(part, totals=totals, seed=seed)).assign(step=step))
        gain = method_gains(part, [("policy + S", "policy")], totals=totals, seed=seed)
        gains.append(totals_of(gain).assign(step=step))
    return pd.concat(means, ignore_index=True), pd.concat(gains, ignore_index=True)


def along_sentence(gains: pd.DataFrame) -> str:
    """At which steps S adds, and at which it takes away, by the intervals of `along_means`: each of 95 % by itself."""
    said = []
    for plan, part in gains.groupby("source", sort=False):
        sides = {"adds": part[part["low"] > 0], "takes away": part[part["high"] < 0]}
        found = [f"{what} at step {', '.join(map(str, rows['step']))}" for what, rows in sides.items() if len(rows)]
        best, looked = part.loc[part["mean"].idxmax()], ", ".join(map(str, part["step"]))
        text = Estimate(*best[["mean", "low", "high", "n"]]).text()
        at = " and ".join(found) or "neither adds nor takes away beyond its interval"
        said.append(f"{plan}: S {at} (of {looked}); most at step {best['step']}, {text}")
    return f"{'. '.join(said)}. Gains in reward with 95 % intervals over {gains['n'].iloc[0]} prompts; one training seed."
