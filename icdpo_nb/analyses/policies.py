"""Fine-tuned policies, and selection among their responses by the score S (section 4.1 and Table 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..algorithm import add_scores, responses_table
from ..common.errors import InputError
from ..data.preferences import Preference
from ..models.checkpoints import split_adapters
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..models.replicas import load_model
from ..protocol import RECOMMENDED, Protocol
from ..statistics.estimates import method_means, totals_of
from ..store.stored import stored
from ..templates import base_context
from ..training.finetune import Plan, fine_tune_all
from ..training.recipes import METHODS as TRAINED
from ..training.recipes import Recipe
from .comparison import METHODS, Method, chosen_responses
from .cost import work_done
from .sampling import with_origin

BEGINS = ("sft", "base")


class Trained(NamedTuple):
    """A trained policy."""

    reference: LanguageModel  # the model before training, which is π0 in the score S
    folder: Path  # of the adapter

    @property
    def model(self) -> str:
        """The name of the policy for `load_lm`."""
        return f"{self.reference.name}+{self.folder}"


def adapter_name(model: str) -> str:
    """A short name of a policy: the name for `load_lm` without the parent folders of its adapters.

    The folder name is a digest of everything that determines the adapter, so equal names imply equal weights. A model without
    adapters keeps its name.
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
    """Train every method on the pairs of every source with every seed, or load it from the cache: by (source, method, seed).

    `begin`: the initial policy and reference of the preference losses: "sft", the SFT policy of the same source and seed, as in
    RPO's paper, or "base", the model itself. `recipes`: by method; SFT must be included if `begin` is "sft". Their seeds are
    replaced by `seeds`.
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

    references = {(source, s): lm for source in taught for s in seeds}
    if begin == "sft" and "SFT" not in recipes:
        raise InputError("the preference losses start from an SFT policy; add SFT to the methods, or set begin to base")
    sft_plans = plans(["SFT"], references) if "SFT" in recipes else {}
    trained = {key: Trained(lm, folder) for key, folder in fine_tune_all(sft_plans, protocol).items()}
    if begin == "sft":
        references = {(source, s): stored(load_model(policy.model), store) for (source, _, s), policy in trained.items()}
    preference_plans = plans([method for method in recipes if method != "SFT"], references)
    folders = fine_tune_all(preference_plans, protocol)
    return trained | {key: Trained(preference_plans[key].lm, folder) for key, folder in folders.items()}


def policy_table(
    prompts: Sequence[Preference],
    policy: LanguageModel,
    reference: LanguageModel,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> pd.DataFrame:
    """Candidates of a fine-tuned policy and their score S, where π* is the policy and π0 its reference (section 4.1, Table 4).

    Responses are sampled from the policy given x alone. S is a mean over tokens, since the paper defines π as the n-th root of
    P(y|x). The columns are those of `candidates_table`; `logp_icl` is under the policy, `logp_base` under the reference.
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
    """`policy_table` of every policy by (source, method, seed) as one candidates table (see `sampling`), and `work_done`.

    The column source is the data set of the training pairs, policy the training method, seed that of training and sampling, and
    adapter the `adapter_name`. Policies are loaded one at a time. `store`: whether samples and scores are stored for reuse. The
    last rows of the work are those of the references and the base model, including their earlier work.
    """
    parts, work = [], []
    for (source, method, seed), trained in policies.items():
        policy = stored(load_model(trained.model), store)
        table = policy_table(prompts, policy, trained.reference, protocol, seed)
        named = with_origin(table, lm.name, source, policy=method)
        parts.append(named.assign(seed=seed, adapter=adapter_name(trained.model)))
        work.append(work_done({f"{method}, {source}, seed {seed}": policy}))
    references = {adapter_name(t.reference.name): t.reference for t in policies.values() if t.reference is not lm}
    work.append(work_done({**references, lm.name: lm}))
    return pd.concat(parts, ignore_index=True), pd.concat(work, ignore_index=True)


def first_candidates(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first n candidates of each prompt, which are those that sampling with this n would give."""
    return table[table["candidate_id"] < n].reset_index(drop=True)


def tuned_methods(methods: Sequence[str] = TRAINED) -> dict[str, Method]:
    """The methods of Table 4 and those that they are compared with.

    A policy alone returns a random candidate, whose expected reward is the candidates' mean; "+ S" returns the one with the
    highest S.
    """
    table = {name: METHODS[name] for name in ("Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR")}
    for method in methods:
        table |= {method: Method("random", policy=method), f"{method} + S": Method("S", policy=method)}
    return table


def in_every_seed(chosen: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """Repeat the responses of untrained methods for every training seed.

    These responses do not depend on the seed, so a difference from them varies only with the seeds of the trained policy. Their
    adapter is the name of the base model.
    """
    row_seeds = [list(seeds) if pd.isna(s) else [int(s)] for s in chosen["seed"]]
    return chosen.assign(seed=row_seeds, adapter=chosen["adapter"].fillna(chosen["lm"])).explode("seed", ignore_index=True)


def mean_of_seeds(rewards: pd.DataFrame) -> pd.DataFrame:
    """Mean reward of each prompt over the training seeds, as an input for `estimates.method_means`."""
    return rewards.groupby(["lm", "source", "method", "domain", "prompt_id"], sort=False)["reward"].mean().reset_index()


def reward_by_n(candidates: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Total reward of each policy with S among the first n = 1, 2, … candidates: `method_means` with a column n_candidates.

    `candidates`: the output of `sample_policies`. For n = 1 there is no selection.
    """
    parts = []
    for (_, method), table in candidates.groupby(["source", "policy"], sort=False):
        for n in range(1, int(table["candidate_id"].max()) + 2):
            chosen = chosen_responses(first_candidates(table, n), {method: Method("S", policy=method)})
            means = method_means(mean_of_seeds(chosen), totals=totals, seed=seed)
            parts.append(totals_of(means).assign(n_candidates=n))
    return pd.concat(parts, ignore_index=True)


def in_general(claims: pd.DataFrame) -> pd.DataFrame:
    """Claims about single methods as claims about all: each of them against Base, and with S against itself without."""

    def general(claim: str) -> str:
        method, _, baseline = claim.partition(" > ")
        if method == f"{baseline} + S":
            return "A policy with S > the policy alone"
        return "Fine-tuning > Base" if baseline == "Base" else claim

    return claims.assign(claim=claims["claim"].map(general))
