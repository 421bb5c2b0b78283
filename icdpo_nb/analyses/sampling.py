"""The candidates of every language model and source of demonstrations, as one tidy table: what most notebooks begin with.

It has the columns of `algorithm.candidates_table`, and before them what sets the rows apart: `lm`; `source`, whose pairs were
shown (or, for a fine-tuned policy, trained on); `retriever`, which chose them; and `policy`, who sampled: the base model
itself, the base model guided block by block (RM-Aug), or a policy fine-tuned by the method of that name. Rows that were sampled
from the prompt alone have the retriever `NONE`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pandas as pd

from ..algorithm import ORIGIN, candidates_table
from ..baselines import BLOCK_TOKENS, guidance, rm_aug_table
from ..data.preferences import Preference, PreferenceSet, domains_of
from ..judging.rewards import Reward
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import by_domain
from ..scoring import is_empty

T = TypeVar("T")
NONE = "none"  # the source and the retriever of what was sampled from the prompt alone
BASE = "base"  # the policy of a language model that was neither guided nor fine-tuned


def for_models(models: Mapping[str, LanguageModel], run: Callable[[str], T]) -> dict[str, T]:
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

    largest_first = sorted(models, key=lambda name: -models[name].n_parameters)
    try:
        with ThreadPoolExecutor(workers) as pool:
            found = dict(zip(largest_first, pool.map(alone, largest_first), strict=True))
    finally:
        torch.set_num_threads(threads)  # what torch gives to threads that start later
    return {name: found[name] for name in models}


def with_origin(table: pd.DataFrame, lm: str, source: str = NONE, retriever: str = NONE, policy: str = BASE) -> pd.DataFrame:
    """A candidates table with the columns of `ORIGIN` before its own."""
    named = dict(zip(ORIGIN, (lm, source, retriever, policy), strict=True))
    return table.assign(**named)[[*ORIGIN, *table.columns]]


def sample_candidates(
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    models: Mapping[str, LanguageModel],
    embed: Embedder,
    protocol: Protocol,
    seed: int = 0,
    retrievers: Sequence[str] = ("random", "R"),
    teacher: Reward | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> pd.DataFrame:
    """Candidates from the prompt alone, and for every source and retriever with its demonstrations, of every model.

    With a teacher, the candidates from the prompt alone have its score (column `teacher`, for RM-BoN), and RM-Aug has rows of
    its own. The prompt alone is sampled n times in either case, so that notebooks with and without a teacher share its
    responses. No reward is looked at here; `rewards.with_rewards` adds it.
    """

    def of_model(name: str) -> list[pd.DataFrame]:
        lm = models[name]
        alone = with_origin(candidates_table(prompts, None, lm, protocol, seed), name)
        parts = [alone]
        if teacher:
            parts = [alone.assign(teacher=guidance(teacher, list(alone["prompt"]), list(alone["response"])))]
            guided = rm_aug_table(prompts, lm, teacher, protocol, seed, block_tokens)
            parts.append(with_origin(guided, name, policy="RM-Aug"))
        for source, preferences in data.items():
            for kind in retrievers:
                options = {"seed": seed, "embed": embed, "tokenize": lm.tokenize}
                of_domain = by_domain(kind, preferences.support, domains_of(prompts), protocol, **options)
                parts.append(with_origin(candidates_table(prompts, of_domain, lm, protocol, seed), name, source, kind))
        return parts

    return pd.concat([part for parts in for_models(models, of_model).values() for part in parts], ignore_index=True)


def how_sampled(candidates: pd.DataFrame) -> pd.DataFrame:
    """How many responses were sampled with which demonstrations, their length, and how they ended: a row for each `ORIGIN`."""
    rows = [
        {
            "model": lm,
            "demonstrations": ", ".join([source, *(name for name in (retriever, policy) if name not in (NONE, BASE))]),
            "responses": len(part),
            "mean tokens": part["n_tokens"].mean(),
            "empty": f"{is_empty(part['response']).mean():.0%}",
            "cut by length": f"{(part['finish'] == 'length').mean():.0%}",
        }
        for (lm, source, retriever, policy), part in candidates.groupby(ORIGIN, sort=False)
    ]
    return pd.DataFrame(rows)
