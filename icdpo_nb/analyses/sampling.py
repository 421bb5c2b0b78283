"""The candidates of every language model and source of demonstrations, as one tidy table.

The columns of `algorithm.candidates_table` are preceded by four that identify the origin of a row: `lm`, the language model;
`source`, the data set of the demonstrations (or, for a fine-tuned policy, of the training pairs); `retriever`, which selected
the demonstrations; and `policy`, which sampled the response: the base model, the base model with blockwise guidance (RM-Aug),
or a policy fine-tuned with the method of that name. Responses sampled from the prompt alone have the retriever `NONE`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
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
from ..store.notes import BESIDE, Beside

T = TypeVar("T")
NONE = "none"  # source and retriever of responses sampled from the prompt alone
GROUPS = count(1)  # of models that compute side by side
BASE = "base"  # policy of a language model without guidance or fine-tuning


def for_models(models: Mapping[str, LanguageModel], run: Callable[[str], T]) -> dict[str, T]:
    """`run(name)` for every model, by name. On a CPU several models run in parallel, each in its own thread.

    A second thread speeds up a single small model only a little, and even less on a busy machine, whereas two models in
    parallel are almost twice as fast.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, len(models)) if all(lm.device == "cpu" for lm in models.values()) else 1
    if workers == 1:
        return {name: run(name) for name in models}
    group = next(GROUPS)

    def alone(name: str) -> T:
        torch.set_num_threads(max(1, threads // workers))  # applies to the current thread
        BESIDE.set(Beside(group, workers, name))
        return run(name)

    largest_first = sorted(models, key=lambda name: -models[name].n_parameters)
    try:
        with ThreadPoolExecutor(workers) as pool:
            results = dict(zip(largest_first, pool.map(alone, largest_first), strict=True))
    finally:
        torch.set_num_threads(threads)  # the default for threads started later
    return {name: results[name] for name in models}


def with_origin(table: pd.DataFrame, lm: str, source: str = NONE, retriever: str = NONE, policy: str = BASE) -> pd.DataFrame:
    """Prepend the columns of `ORIGIN` to a candidates table."""
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
    """Sample candidates from every model: from the prompt alone, and with the demonstrations of every source and retriever.

    With a teacher, the candidates from the prompt alone also have the teacher's score (column `teacher`, for RM-BoN), and rows
    for RM-Aug are added. The number of candidates from the prompt alone does not depend on the teacher, so notebooks with and
    without one share them. Rewards are not used here; `rewards.with_rewards` adds them.
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
                by_name = by_domain(kind, preferences.support, domains_of(prompts), protocol, **options)
                parts.append(with_origin(candidates_table(prompts, by_name, lm, protocol, seed), name, source, kind))
        return parts

    tables = for_models(models, of_model)
    return pd.concat(chain.from_iterable(tables.values()), ignore_index=True)


def how_sampled(candidates: pd.DataFrame) -> pd.DataFrame:
    """Number, mean length and endings of the responses, with one row for each `ORIGIN`."""
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
