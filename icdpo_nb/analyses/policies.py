"""What fine-tuned policies answer, and what the score S makes of it: section 4.1 and Table 4."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..algorithm import add_scores, responses_table, select
from ..baselines import one_at_random
from ..common.errors import InputError
from ..data.preferences import Preference
from ..judging.rewards import Reward
from ..models.checkpoints import split_adapters
from ..models.encoder import Embedder
from ..models.lm import CausalLM, load_lm
from ..protocol import RECOMMENDED, Protocol
from ..statistics.estimates import method_gains, method_means, per_prompt, totals_of
from ..statistics.intervals import Estimate
from ..store.kept import stored
from ..templates import base_context
from ..training.finetune import Plan, adapter_at, fine_tune_all
from ..training.recipes import METHODS, Recipe
from .comparison import Tables, picks, work_done

BEGINS = ("sft", "base")


class Trained(NamedTuple):
    """A trained policy."""

    reference: CausalLM  # what it began as, the π0 of its S
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
    lm: CausalLM,
    taught: Mapping[str, Sequence[Preference]],
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    begin: str = "sft",
    embed: Embedder | None = None,
    protocol: Protocol = RECOMMENDED,
    keep: bool = True,
) -> dict[tuple[str, str, int], Trained]:
    """Train every method on every source's pairs from every seed, or find it: by (source, method, seed).

    `begin`: what the preference losses begin as and refer to: "sft", the SFT policy of the same source and seed, as in RPO's
    paper, or "base", the model itself. `recipes`: by method, with SFT's where they begin from it; their seeds are replaced.
    """
    if begin not in BEGINS:
        raise InputError(f"begin is {begin!r}, but must be {' or '.join(BEGINS)}")

    def plans(methods: Sequence[str], references: Mapping[tuple[str, int], CausalLM]) -> dict[tuple[str, str, int], Plan]:
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
        base = {(source, s): stored(load_lm(policy.model), keep) for (source, _, s), policy in trained.items()}
    rest = plans([method for method in recipes if method != "SFT"], base)
    folders = fine_tune_all(rest, protocol)
    return trained | {key: Trained(rest[key].lm, folder) for key, folder in folders.items()}


def policy_table(
    prompts: Sequence[Preference], policy: CausalLM, reference: CausalLM, protocol: Protocol = RECOMMENDED, seed: int = 0
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


def policy_tables(
    prompts: Sequence[Preference],
    policies: Mapping[tuple[str, str, int], Trained],
    lm: CausalLM,
    reward: Reward,
    protocol: Protocol = RECOMMENDED,
    keep: bool = True,
) -> tuple[Tables, pd.DataFrame]:
    """`policy_table` with rewards for every policy, by (name of the base model, source, method); and `work_done`.

    The tables of a method's training seeds stand below each other, with columns seed (of training and of sampling) and adapter
    (`adapter_name`). One policy is loaded at a time. `keep`: whether what is sampled and scored is found again. The work's last
    rows are those of the references and of the base model, whatever they did before included.
    """
    parts: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    work = []
    for (source, method, seed), trained in policies.items():
        policy = stored(load_lm(trained.model), keep)
        table = policy_table(prompts, policy, trained.reference, protocol, seed)
        scored = reward.score(list(table["prompt"]), list(table["response"]))
        columns = {"reward": scored, "seed": seed, "adapter": adapter_name(trained.model)}
        parts.setdefault((lm.name, source, method), []).append(table.assign(**columns))
        work.append(work_done({f"{method}, {source}, seed {seed}": policy}))
    tables = {key: pd.concat(found, ignore_index=True) for key, found in parts.items()}
    references = {adapter_name(t.reference.name): t.reference for t in policies.values() if t.reference is not lm}
    return tables, pd.concat([*work, work_done({**references, lm.name: lm})], ignore_index=True)


def first_candidates(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first n candidates of each prompt: just those that would have been sampled with this n."""
    return table[table["candidate_id"] < n].reset_index(drop=True)


def each_seed(table: pd.DataFrame, pick: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """A choice of one response a prompt, made for every training seed of a table apart."""
    return pd.concat([pick(part) for _, part in table.groupby("seed", sort=False)], ignore_index=True)


def best_by_s(table: pd.DataFrame) -> pd.DataFrame:
    """The candidate that S chooses, of each prompt."""
    return select(table, "S")


def tuned_picks(tables: Tables, lm: str, source: str) -> dict[str, pd.DataFrame]:
    """The response of each method of Table 4 for one model and source, and of those beside it: one row a prompt and seed.

    A policy answers with one of its candidates at random, whose reward is their mean, and "+ S" with the one that S chooses.
    What is not trained has neither seed nor adapter.
    """
    beside = picks(tables, lm, source)
    found = {name: beside[name] for name in ("Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR")}
    for method in METHODS:
        if (table := tables.get((lm, source, method))) is not None:
            found |= {method: each_seed(table, one_at_random), f"{method} + S": each_seed(table, best_by_s)}
    return found


def tuned_rewards(tables: Tables, seeds: Sequence[int]) -> pd.DataFrame:
    """The reward of every method on every prompt from every training seed.

    Columns lm, source, method, seed, adapter, domain, prompt_id, reward. What is not trained is the same in every seed, and its
    adapter is the base model's name; so a difference from it has the seeds of the other side alone.
    """
    parts, columns = [], ["seed", "adapter", "domain", "prompt_id", "reward"]
    for lm, source in dict.fromkeys((lm, source) for lm, source, _ in tables if source != "none"):
        for method, table in tuned_picks(tables, lm, source).items():
            every = [table] if "seed" in table else [table.assign(seed=s, adapter=lm) for s in seeds]
            parts += [part[columns].assign(lm=lm, source=source, method=method) for part in every]
    return pd.concat(parts, ignore_index=True)[["lm", "source", "method", *columns]]


def mean_of_seeds(rewards: pd.DataFrame) -> pd.DataFrame:
    """`tuned_rewards` with the seeds' mean for each prompt: input for `estimates.method_means`."""
    return rewards.groupby(["lm", "source", "method", "domain", "prompt_id"], sort=False)["reward"].mean().reset_index()


def reward_by_n(tables: Tables, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Total reward of each policy with S for n = 1, 2, …: `method_means` with a column n. With n = 1 nothing is chosen."""
    parts = []
    for (lm, source, method), table in tables.items():
        for n in range(1, int(table["candidate_id"].max()) + 2):
            chosen = per_prompt({method: each_seed(first_candidates(table, n), best_by_s)}, lm, source)
            means = method_means(mean_of_seeds(chosen), totals=totals, seed=seed)
            parts.append(totals_of(means).assign(n_candidates=n))
    return pd.concat(parts, ignore_index=True)


def along_training(
    prompts: Sequence[Preference],
    plans: Mapping[str, Plan],
    points: int,
    reward: Reward,
    protocol: Protocol = RECOMMENDED,
    keep: bool = True,
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
            policy = stored(load_lm(f"{plan.lm.name}+{adapter_at(folders[name], step)}"), keep)
            table = policy_table(prompts, policy, plan.lm, protocol, plan.recipe.seed)
            scored = table.assign(reward=reward.score(list(table["prompt"]), list(table["response"])))
            found = {"policy": one_at_random(scored), "policy + S": select(scored, "S")}
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
