"""The comparison of methods: the candidates of every model and source of demonstrations, and the response each method picks."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pandas as pd

from .algorithm import candidates_table, select
from .data import Preference, PreferenceSet, domains_of
from .lm import CausalLM
from .protocol import Protocol
from .retrieval import Embedder, by_domain
from .rewards import Reward
from .tables import per_prompt

T = TypeVar("T")
Tables = dict[tuple[str, str, str], pd.DataFrame]  # (lm, source, retriever) -> candidates; Base is (lm, "none", "none")
Picks = Callable[[Tables, str, str], dict[str, pd.DataFrame]]  # (tables, lm, source) -> the response of each method


def for_models(models: Mapping[str, CausalLM], run: Callable[[str], T]) -> dict[str, T]:
    """`run(name)` for every model, by name; on a processor several models at a time, each in a thread of its own.

    Two threads on the matrices of one small model gain little, and much less on a busy machine; two models gain nearly twice.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, len(models)) if all(lm.device == "cpu" for lm in models.values()) else 1
    if workers == 1:
        return {name: run(name) for name in models}

    def alone(name: str) -> T:
        torch.set_num_threads(max(1, threads // workers))  # of this thread
        return run(name)

    largest_first = sorted(models, key=lambda name: -models[name].engine.n_parameters)
    try:
        with ThreadPoolExecutor(workers) as pool:
            found = dict(zip(largest_first, pool.map(alone, largest_first), strict=True))
    finally:
        torch.set_num_threads(threads)  # what torch gives to threads that start later
    return {name: found[name] for name in models}


def method_tables(
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    models: Mapping[str, CausalLM],
    reward: Reward,
    embed: Embedder,
    protocol: Protocol,
    seed: int = 0,
    kinds: Sequence[str] = ("random", "R"),
) -> tuple[Tables, pd.DataFrame]:
    """Candidates with their rewards for every model, source and retriever, and what was sampled, as a table for the reader.

    Nothing here looks at a reward before all responses are sampled and scored.
    """

    def candidates(name: str) -> Tables:
        lm = models[name]
        made: Tables = {(name, "none", "none"): candidates_table(prompts, None, lm, protocol.but(n_candidates=1), seed)}
        for source, preferences in data.items():
            for kind in kinds:
                options = {"seed": seed, "embed": embed, "tokenize": lm.tokenize}
                retrievers = by_domain(kind, preferences.support, domains_of(prompts), protocol, **options)
                made[name, source, kind] = candidates_table(prompts, retrievers, lm, protocol, seed)
        return made

    tables = {key: table for made in for_models(models, candidates).values() for key, table in made.items()}
    tables = {key: t.assign(reward=reward.score(list(t["prompt"]), list(t["response"]))) for key, t in tables.items()}
    measured = [
        {
            "model": lm,
            "demonstrations": source if source == "none" else f"{source}, {kind}",
            "responses": len(t),
            "mean tokens": t["n_tokens"].mean(),
            "empty": f"{(t['n_tokens'] == 0).mean():.0%}",
            "cut by length": f"{(t['finish'] == 'length').mean():.0%}",
        }
        for (lm, source, kind), t in tables.items()
    ]
    return tables, pd.DataFrame(measured)


def picks(tables: Tables, lm: str, source: str) -> dict[str, pd.DataFrame]:
    """The response of each method of Table 2 for one model and source: a table with one row a prompt."""
    random = tables[lm, source, "random"]
    return {
        "Base": tables[lm, "none", "none"],
        "ICL": one_at_random(random),
        "ICDPO": select(random, "S"),
        "ICDPO + Ŝ": select(random, "S_hat"),
        "ICDPO + ŜR": select(tables[lm, source, "R"], "S_hat"),
    }


def one_at_random(candidates: pd.DataFrame) -> pd.DataFrame:
    """ICL: a random one of each prompt's candidates; its reward is their mean, which a random choice gives on average."""
    mean = candidates.groupby("prompt_id", sort=False)["reward"].mean()
    return candidates[candidates["candidate_id"] == 0].assign(reward=mean.to_numpy())


def method_rewards(tables: Tables, picks: Picks = picks) -> pd.DataFrame:
    """The reward of every method on every prompt: columns lm, source, method, domain, prompt_id, reward."""
    cases = dict.fromkeys((lm, source) for lm, source, _ in tables if source != "none")
    return pd.concat([per_prompt(picks(tables, *case), *case) for case in cases], ignore_index=True)


def answers(tables: Tables, prompt_id: str, lm: str, source: str, picks: Picks = picks) -> pd.DataFrame:
    """What each method answered to one prompt: columns method, response, reward."""
    found = {name: t[t["prompt_id"] == prompt_id].iloc[0] for name, t in picks(tables, lm, source).items() if name != "ICL"}
    return pd.DataFrame([{"method": name, "response": row["response"], "reward": row["reward"]} for name, row in found.items()])


def source_rewards(name: str, support: Sequence[Preference], domains: Sequence[str], reward: Reward) -> pd.DataFrame:
    """Mean reward of a source's own responses in each domain (Table 1): columns source, domain, chosen, rejected, n."""
    rows = []
    for domain in domains:
        here = [p for p in support if p.domain == domain]
        prompts = [p.prompt for p in here]
        sides = {
            side: float(np.mean(reward.score(prompts, [getattr(p, side) for p in here]))) for side in ("chosen", "rejected")
        }
        rows.append({"source": name, "domain": domain, **sides, "n": len(here)})
    return pd.DataFrame(rows)


def work_done(models: Mapping[str, CausalLM]) -> pd.DataFrame:
    """What sampling and scoring cost, a row for each model: tokens that went through it, and time and memory they took.

    "× fewer" compares with the published procedure on the same contexts and responses: a context anew for every candidate,
    `max_new_tokens` decoded for each, and a pass over context and response for every candidate and context. Seconds are those
    of the clock; where models ran side by side, each had a part of the machine.
    """
    rows = []
    for name, lm in models.items():
        work, seconds = lm.engine.work, lm.engine.seconds
        tokens = sum(work[stage] for stage in ("prefill", "decode", "scored"))
        rows.append({
            "model": name,
            **{f"{stage} tokens": work[stage] for stage in ("prefill", "decode", "scored")},
            "tokens": tokens,
            "published": work["published"],
            "× fewer": work["published"] / tokens if tokens else float("nan"),
            **{f"{stage}, s": seconds[stage] for stage in ("sampling", "scoring")},
            "tokens/s": tokens / sum(seconds.values()) if tokens else float("nan"),
            "peak memory, GB": max(lm.engine.peak.values(), default=0) / 1e9,
        })  # fmt: skip
    return pd.DataFrame(rows)


def work_sentence(work: pd.DataFrame) -> str:
    """The totals of `work_done` in one sentence."""
    tokens, published = int(work["tokens"].sum()), int(work["published"].sum())
    if not tokens:
        return "No token went through a model: everything was found in the store."
    return (
        f"{tokens:,} tokens went through the model{'s' if len(work) > 1 else ''}; the published procedure would have needed "
        f"{published:,} for the same, {published / tokens:.1f} times as many."
    )
