"""The candidates of every language model and source of demonstrations, as one tidy table.

The columns of `algorithm.candidates_table` are preceded by four that identify the origin of a row: `lm`, the language model;
`source`, the data set of the demonstrations (or, for a fine-tuned policy, of the training pairs); `retriever`, which selected
the demonstrations; and `policy`, which sampled the response: the base model, the base model with blockwise guidance (RM-Aug),
or a policy fine-tuned with the method of that name. Responses sampled from the prompt alone have the retriever `NONE`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

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
GROUPS = count(1)  # of calls that compute side by side
MOST_AT_A_TIME = 4  # threads: with more of them, small models would wait for the interpreter's lock
BASE = "base"  # policy of a language model without guidance or fine-tuning


def for_models(models: Mapping[str, LanguageModel], run: Callable[[str], T]) -> dict[str, T]:
    """`run(name)` for every model, by name. On a CPU several models run in parallel; see `for_parts`."""
    results = for_parts(models, [(name, lambda lm, name=name: run(name)) for name in models])
    return dict(zip(models, results, strict=True))


def for_parts(models: Mapping[str, LanguageModel], parts: Sequence[tuple[str, Callable[[LanguageModel], T]]]) -> list[T]:
    """`run(models[name])` for every (name, run) of `parts`, in order. On a CPU several run in parallel, each in its own thread.

    A second thread speeds up a small model only a little, and even less on a busy machine, whereas two calls in parallel are
    almost twice as fast. Parts of a small model therefore run beside each other, each with a twin of the model, and those of a
    large one in turn. The results are the same.
    """
    import torch

    threads = torch.get_num_threads()
    tasks = _tasks(models, parts) if all(lm.device == "cpu" for lm in models.values()) and threads > 1 else []
    workers = min(threads, len(tasks), MOST_AT_A_TIME)
    if workers <= 1:
        return [run(models[name]) for name, run in parts]
    group, results = next(GROUPS), {}

    def do(task: Task) -> None:
        torch.set_num_threads(max(1, threads // workers))  # applies to the current thread
        BESIDE.set(Beside(group, workers, task.name))
        for i in task.indices:
            results[i] = parts[i][1](task.lm)

    try:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(do, sorted(tasks, key=lambda task: -task.lm.n_parameters)))  # the largest first
    finally:
        torch.set_num_threads(threads)  # the default for threads started later
        for task in tasks:
            if task.lm is not task.original:
                task.original.absorb(task.lm)
    return [results[i] for i in range(len(parts))]


class Task(NamedTuple):
    """What one thread does: parts by their indices, with a model or its twin."""

    name: str
    original: LanguageModel
    lm: LanguageModel
    indices: Sequence[int]


def _tasks(models: Mapping[str, LanguageModel], parts: Sequence[tuple[str, Callable]]) -> list[Task]:
    """One task for each part of a model that has twins, and one for all parts of another one."""
    tasks = []
    for name, lm in models.items():
        own = [i for i, (of, _) in enumerate(parts) if of == name]
        twins = [lm.twin() for _ in own] if len(own) > 1 else []
        if lm in twins or not twins:
            tasks.append(Task(name, lm, lm, own))
        else:
            tasks += [Task(f"{name} {i}", lm, twin, [i]) for i, twin in zip(own, twins, strict=True)]
    return tasks


def tables_of(
    models: Mapping[str, LanguageModel], ways: Mapping[tuple[str, str, str], Callable[[LanguageModel], pd.DataFrame]]
) -> pd.DataFrame:
    """The tables of every model, one for each of the `ways`, with the columns of `ORIGIN`.

    A way is known by its source, retriever and policy, and makes the table of a model.
    """
    parts = [(name, way) for name in models for way in ways]
    tables = for_parts(models, [(name, ways[way]) for name, way in parts])
    named = [with_origin(table, name, *way) for table, (name, way) in zip(tables, parts, strict=True)]
    return pd.concat(named, ignore_index=True)


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

    def from_prompt(lm: LanguageModel) -> pd.DataFrame:
        table = candidates_table(prompts, None, lm, protocol, seed)
        if teacher:
            table = table.assign(teacher=guidance(teacher, list(table["prompt"]), list(table["response"])))
        return table

    def guided(lm: LanguageModel) -> pd.DataFrame:
        return rm_aug_table(prompts, lm, teacher, protocol, seed, block_tokens)

    def with_demonstrations(source: str, kind: str, lm: LanguageModel) -> pd.DataFrame:
        options = {"seed": seed, "embed": embed, "tokenize": lm.tokenize}
        by_name = by_domain(kind, data[source].support, domains_of(prompts), protocol, **options)
        return candidates_table(prompts, by_name, lm, protocol, seed)

    ways = {(NONE, NONE, BASE): from_prompt}
    if teacher:
        ways[NONE, NONE, "RM-Aug"] = guided
    ways |= {(source, kind, BASE): partial(with_demonstrations, source, kind) for source in data for kind in retrievers}
    return tables_of(models, ways)


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
