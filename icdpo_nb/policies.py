"""What fine-tuned policies answer, and what the score S makes of it: section 4.1 and Table 4."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from .algorithm import add_scores, responses_table, select
from .baselines import one_at_random
from .data import Preference
from .experiment import Tables, picks, work_done
from .recipes import METHODS
from .kept import stored
from .lm import CausalLM, load_lm
from .protocol import RECOMMENDED, Protocol
from .rewards import Reward
from .tables import method_means, per_prompt, totals_of
from .templates import base_context


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
    adapters: Mapping[tuple[str, str], Path],
    reference: CausalLM,
    reward: Reward,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    keep: bool = True,
) -> tuple[Tables, pd.DataFrame]:
    """`policy_table` with rewards for every adapter, by (name of the base model, source, method); and `work_done`.

    `adapters`: the folder of each (source, method); one is loaded at a time. `keep`: whether what is sampled and scored is
    found again. The work's last row is that of the reference, whatever it did before included.
    """
    tables, work = {}, []
    for (source, method), folder in adapters.items():
        policy = stored(load_lm(f"{reference.name}+{folder}"), keep)
        table = policy_table(prompts, policy, reference, protocol, seed)
        scored = reward.score(list(table["prompt"]), list(table["response"]))
        tables[reference.name, source, method] = table.assign(reward=scored)
        work.append(work_done({f"{method}, {source}": policy}))
    return tables, pd.concat([*work, work_done({reference.name: reference})], ignore_index=True)


def first_candidates(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first n candidates of each prompt: just those that would have been sampled with this n."""
    return table[table["candidate_id"] < n].reset_index(drop=True)


def tuned_picks(tables: Tables, lm: str, source: str) -> dict[str, pd.DataFrame]:
    """The response of each method of Table 4 for one model and source, and of those beside it: one row a prompt.

    A policy answers with one of its candidates at random, whose reward is their mean, and "+ S" with the one that S chooses.
    """
    beside = picks(tables, lm, source)
    found = {name: beside[name] for name in ("Base", "ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR")}
    for method in METHODS:
        if (table := tables.get((lm, source, method))) is not None:
            found |= {method: one_at_random(table), f"{method} + S": select(table, "S")}
    return found


def reward_by_n(tables: Tables, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Total reward of each policy with S for n = 1, 2, …: `method_means` with a column n. With n = 1 nothing is chosen."""
    parts = []
    for (lm, source, method), table in tables.items():
        for n in range(1, int(table["candidate_id"].max()) + 2):
            chosen = per_prompt({method: select(first_candidates(table, n), "S")}, lm, source)
            parts.append(totals_of(method_means(chosen, totals=totals, seed=seed)).assign(n_candidates=n))
    return pd.concat(parts, ignore_index=True)
