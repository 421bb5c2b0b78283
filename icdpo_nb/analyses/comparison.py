"""The comparison of methods: the candidates of every model and source of demonstrations, and the response each method picks."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pandas as pd

from ..algorithm import candidates_table, select
from ..baselines import BLOCK_TOKENS, WITHOUT_DEMONSTRATIONS, guidance, one_at_random, one_sample, rm_aug_table
from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet, domains_of
from ..judging.rewards import Reward
from ..models.encoder import Embedder
from ..models.lm import CausalLM
from ..protocol import Protocol
from ..retrieval.retrievers import by_domain
from ..scoring import is_empty
from ..statistics.estimates import method_means, per_prompt
from ..statistics.intervals import mean_ci
from ..store.kept import SECONDS, TOKENS, cost_when_computed, work_of

T = TypeVar("T")
# (lm, source, retriever) -> candidates; from the prompt alone, (lm, "none", "none") and (lm, "none", "RM-Aug")
Tables = dict[tuple[str, str, str], pd.DataFrame]
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
    teacher: Reward | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> tuple[Tables, pd.DataFrame]:
    """Candidates with their rewards for every model, source and retriever, and what was sampled, as a table for the reader.

    With a teacher, the base model's responses have its score (column `teacher`, for RM-BoN), and RM-Aug a table of its own. The
    base model is sampled n times in either case, so that notebooks with and without a teacher share its responses. Nothing here
    looks at a reward before all responses are sampled and scored.
    """

    def candidates(name: str) -> Tables:
        lm = models[name]
        alone = candidates_table(prompts, None, lm, protocol, seed)
        made: Tables = {(name, "none", "none"): alone}
        if teacher:
            scores = guidance(teacher, list(alone["prompt"]), list(alone["response"]))
            made[name, "none", "none"] = alone.assign(teacher=scores)
            made[name, "none", "RM-Aug"] = rm_aug_table(prompts, lm, teacher, protocol, seed, block_tokens)
        for source, preferences in data.items():
            for kind in kinds:
                options = {"seed": seed, "embed": embed, "tokenize": lm.tokenize}
                retrievers = by_domain(kind, preferences.support, domains_of(prompts), protocol, **options)
                made[name, source, kind] = candidates_table(prompts, retrievers, lm, protocol, seed)
        return made

    tables = {key: table for made in for_models(models, candidates).values() for key, table in made.items()}
    tables = {key: t.assign(reward=reward.score(list(t["prompt"]), list(t["response"]))) for key, t in tables.items()}
    return tables, _measured(tables)


def _measured(tables: Tables) -> pd.DataFrame:
    """What was sampled, and how it ended: a row for each table."""
    rows = [
        {
            "model": lm,
            "demonstrations": source if kind == "none" else f"{source}, {kind}",
            "responses": len(t),
            "mean tokens": t["n_tokens"].mean(),
            "empty": f"{is_empty(t['response']).mean():.0%}",
            "cut by length": f"{(t['finish'] == 'length').mean():.0%}",
        }
        for (lm, source, kind), t in tables.items()
    ]
    return pd.DataFrame(rows)


def empties(tables: Tables, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """What leaving out empty responses gives by itself, for every table sampled with demonstrations.

    ICL is the mean over all of a prompt's candidates, while S and Ŝ never choose an empty one. So a part of ICDPO - ICL is the
    mean over the candidates that say something less the mean over all, 0 where none is empty, or all are. Columns lm, source,
    retriever, share empty, ICL over all, ICL over non-empty, difference [95 % interval], n (prompts).
    """
    rows = []
    for (lm, source, retriever), table in tables.items():
        if source == "none":
            continue
        empty, by = is_empty(table["response"]), [table["domain"], table["prompt_id"]]
        everyone = table["reward"].groupby(by, sort=False).mean()
        speaking = table["reward"].mask(empty).groupby(by, sort=False).mean().fillna(everyone)
        over = {"all": everyone, "non-empty": speaking, "gap": speaking - everyone}
        means = {name: mean_ci([part.to_numpy() for _, part in v.groupby("domain")], totals, seed) for name, v in over.items()}
        rows.append({
            "lm": lm, "source": source, "retriever": retriever, "share empty": empty.mean(),
            "ICL over all": means["all"].mean, "ICL over non-empty": means["non-empty"].mean,
            "difference [95 % interval]": str(means["gap"]), "n": means["gap"].n,
        })  # fmt: skip
    return pd.DataFrame(rows)


def picks(tables: Tables, lm: str, source: str) -> dict[str, pd.DataFrame]:
    """The response of each method of Table 2 for one model and source: a table with one row a prompt."""
    random, alone = tables[lm, source, "random"], tables[lm, "none", "none"]
    guided = {"RM-Aug": tables[lm, "none", "RM-Aug"], "RM-BoN": select(alone, "teacher")} if "teacher" in alone else {}
    return {
        "Base": one_sample(alone),
        **guided,
        "ICL": one_at_random(random),
        "ICDPO": select(random, "S"),
        "ICDPO + Ŝ": select(random, "S_hat"),
        "ICDPO + ŜR": select(tables[lm, source, "R"], "S_hat"),
    }


def method_rewards(tables: Tables, picks: Picks = picks) -> pd.DataFrame:
    """The reward of every method on every prompt: columns lm, source, method, domain, prompt_id, reward."""
    cases = dict.fromkeys((lm, source) for lm, source, _ in tables if source != "none")
    return pd.concat([per_prompt(picks(tables, *case), *case) for case in cases], ignore_index=True)


def shown_once(means: pd.DataFrame) -> pd.DataFrame:
    """A table of `method_means` in which methods without demonstrations stand once a model, under the source "none"."""
    alone = means["method"].isin(WITHOUT_DEMONSTRATIONS)
    first = means[alone].drop_duplicates(["lm", "method", "domain"]).assign(source="none")
    return pd.concat([first, means[~alone]], ignore_index=True)


def answers(tables: Tables, prompt_id: str, lm: str, source: str, picks: Picks = picks) -> pd.DataFrame:
    """What each method answered to one prompt: columns method, response, reward."""
    found = {name: t[t["prompt_id"] == prompt_id].iloc[0] for name, t in picks(tables, lm, source).items() if name != "ICL"}
    return pd.DataFrame([{"method": name, "response": row["response"], "reward": row["reward"]} for name, row in found.items()])


def source_rewards(
    data: Mapping[str, PreferenceSet], domains: Sequence[str], reward: Reward, totals: str = "macro", seed: int = 0
) -> pd.DataFrame:
    """Mean reward of the sources' own responses (Table 1), as `method_means` gives it, with a column `side` for the method."""
    parts = []
    for source, preferences in data.items():
        if lacking := set(domains) - set(domains_of(preferences.support)):
            raise InputError(
                f"there are no demonstrations of {source} for {', '.join(sorted(lacking))}; leave out the source or the domain"
            )
        here = [p for p in preferences.support if p.domain in domains]
        prompts, table = [p.prompt for p in here], pd.DataFrame([vars(p) for p in here])
        sides = ("chosen", "rejected")
        given = {side: table.assign(reward=reward.score(prompts, list(table[side]))) for side in sides}
        parts.append(per_prompt(given, source=source))
    means = method_means(pd.concat(parts, ignore_index=True), totals=totals, seed=seed)
    return means.rename(columns={"method": "side"})


def work_done(models: Mapping[str, CausalLM]) -> pd.DataFrame:
    """What sampling and scoring cost, a row for each model: tokens that went through it, and time and memory they took.

    Tokens, seconds and memory are those of the time when the results were computed, by this run or by an earlier one whose
    results the store kept; the columns "added …" are of this run alone. `results` counts what the run used, each once, and
    `without cost` those that were stored before costs were kept: no other column knows of them.

    "× fewer" compares with the published procedure on the same contexts and responses: a context anew for every candidate,
    `max_new_tokens` decoded for each, and a pass over context and response for every candidate and context. Seconds are those
    of the clock; where models ran side by side, each had a part of the machine.
    """
    rows = []
    for name, lm in models.items():
        cost, added = cost_when_computed(lm), work_of(lm.engine)
        tokens, seconds = sum(cost[kind] for kind in TOKENS[:3]), sum(cost[stage] for stage in SECONDS)
        rows.append({
            "model": name,
            **{f"{kind} tokens": cost[kind] for kind in TOKENS[:3]},
            "tokens": tokens,
            "published": cost["published"],
            "× fewer": cost["published"] / tokens if tokens else float("nan"),
            **{f"{stage}, s": cost[stage] for stage in SECONDS},
            "tokens/s": tokens / seconds if tokens else float("nan"),
            "peak memory, GB": cost["peak"] / 1e9,
            "added tokens": sum(added[kind] for kind in TOKENS[:3]),
            "added published": added["published"],
            "added, s": sum(added[stage] for stage in SECONDS),
            "results": cost["results"],
            "without cost": cost["without cost"],
            "machine": "; ".join(cost["machines"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def work_sentence(work: pd.DataFrame) -> str:
    """The totals of `work_done` in sentences: what the results cost when computed, what this run added, what is not known."""
    total = work.sum(numeric_only=True)
    tokens, added, lacking = int(total["tokens"]), int(total["added tokens"]), int(total["without cost"])
    said = []
    if tokens:
        seconds = total[[f"{stage}, s" for stage in SECONDS]].sum()
        machines = dict.fromkeys(m for row in work["machine"] for m in row.split("; ") if m)
        said.append(
            f"{tokens:,} tokens went through the model{'s' if len(work) > 1 else ''} when the results were computed "
            f"({seconds:,.0f} s; {'; '.join(machines)}); the published procedure would have needed {int(total['published']):,} "
            f"for the same, {total['published'] / tokens:.1f} times as many."
        )
    if added >= tokens > 0:
        said.append("All of it was computed in this run.")
    elif added:
        said.append(f"This run added {added:,} of these tokens ({total['added, s']:,.0f} s); the rest was found in the store.")
    elif tokens or lacking:
        said.append("This run computed nothing: everything was found in the store.")
    if lacking:
        said.append(f"For {lacking:,} of {int(total['results']):,} results the cost was not recorded.")
    return " ".join(said) or "No token went through a model."
