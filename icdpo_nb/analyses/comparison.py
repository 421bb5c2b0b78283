"""The comparison of methods: which response each of them gives, and the reward of it (Tables 1 and 2).

A method is a line of `METHODS`: the candidates it chooses among, and how. An analysis with other methods has a table of its
own; a new score of `scoring.SCORES` becomes a method by one more line.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ..algorithm import select
from ..baselines import WITHOUT_DEMONSTRATIONS, expected_random_choice, one_sample
from ..common.errors import InputError
from ..data.preferences import PreferenceSet, domains_of
from ..judging.rewards import Reward
from ..scoring import is_empty
from ..statistics.estimates import method_means, per_prompt
from ..statistics.intervals import mean_ci
from .sampling import BASE, NONE


class Method(NamedTuple):
    """How a method answers a prompt."""

    choice: str  # "first" of its candidates, a "random" one (on average), or the best by a column: S, S_hat, ICL, teacher
    retriever: str = NONE
    policy: str = BASE

    def choose(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """One candidate of each prompt."""
        given = {"first": one_sample, "random": expected_random_choice}.get(self.choice)
        return given(candidates) if given else select(candidates, self.choice)


METHODS = {  # of Table 2
    "Base": Method("first"),
    "RM-Aug": Method("first", policy="RM-Aug"),
    "RM-BoN": Method("teacher"),
    "ICL": Method("random", "random"),
    "ICDPO": Method("S", "random"),
    "ICDPO + Ŝ": Method("S_hat", "random"),
    "ICDPO + ŜR": Method("S_hat", "R"),
}


def chosen_responses(candidates: pd.DataFrame, methods: Mapping[str, Method] = METHODS) -> pd.DataFrame:
    """The response of every method to every prompt, for each language model and source; from every training seed, if any.

    Columns lm, source, method, and those of a candidates table (see `sampling`) with `reward`. A method without demonstrations
    answers alike for every source. A method whose candidates or whose score the table lacks is left out: RM-BoN and RM-Aug
    where there was no teacher.
    """
    found = []
    for lm, source in candidates.loc[candidates["source"] != NONE, ["lm", "source"]].drop_duplicates().itertuples(index=False):
        here = candidates[(candidates["lm"] == lm) & candidates["source"].isin([source, NONE])]
        for name, method in methods.items():
            pool = here[(here["retriever"] == method.retriever) & (here["policy"] == method.policy)]
            if len(pool) and (method.choice != "teacher" or "teacher" in pool):
                seeds = pool.groupby("seed", sort=False, dropna=False) if "seed" in pool else [(None, pool)]
                chosen = pd.concat([method.choose(part) for _, part in seeds])
                found.append(chosen.assign(lm=lm, source=source, method=name))
    table = pd.concat(found, ignore_index=True)
    first = ["lm", "source", "method"]
    return table[[*first, *(c for c in table if c not in first)]]


def responses_to(chosen: pd.DataFrame, prompt_id: str, lm: str, source: str) -> pd.DataFrame:
    """What each method answered to one prompt: columns method, response, reward; without ICL, which names no response."""
    here = chosen[(chosen["prompt_id"] == prompt_id) & (chosen["lm"] == lm) & (chosen["source"] == source)]
    return here[here["method"] != "ICL"].drop_duplicates("method")[["method", "response", "reward"]]


def empties(candidates: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """What leaving out empty responses gives by itself, for every source and retriever.

    ICL is the mean over all of a prompt's candidates, while S and Ŝ never choose an empty one. So a part of ICDPO - ICL is the
    mean over the candidates that say something less the mean over all, 0 where none is empty, or all are. Columns lm, source,
    retriever, share empty, ICL over all, ICL over non-empty, difference [95 % interval], n (prompts).
    """
    rows = []
    shown = candidates[candidates["retriever"] != NONE]
    for (lm, source, retriever), table in shown.groupby(["lm", "source", "retriever"], sort=False):
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


def shown_once(means: pd.DataFrame) -> pd.DataFrame:
    """A table of `method_means` in which methods without demonstrations stand once a model, under the source "none"."""
    alone = means["method"].isin(WITHOUT_DEMONSTRATIONS)
    first = means[alone].drop_duplicates(["lm", "method", "domain"]).assign(source="none")
    return pd.concat([first, means[~alone]], ignore_index=True)


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
