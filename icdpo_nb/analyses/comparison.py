"""The comparison of methods: the response that each method chooses, and its reward (Tables 1 and 2).

An entry of `METHODS` defines a method by its pool of candidates and its selection rule. Analyses of other methods have their
own tables. A new score in `scoring.SCORES` needs one more entry to become a method.
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
    """A pool of candidates and the rule that selects one of them."""

    choice: str  # "first", "random" (in expectation), or the column to maximise: S, S_hat, ICL or teacher
    retriever: str = NONE
    policy: str = BASE

    def choose(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """Select one candidate for each prompt."""
        rule = {"first": one_sample, "random": expected_random_choice}.get(self.choice)
        return rule(candidates) if rule else select(candidates, self.choice)


METHODS = {  # those of Table 2
    "Base": Method("first"),
    "RM-Aug": Method("first", policy="RM-Aug"),
    "RM-BoN": Method("teacher"),
    "ICL": Method("random", "random"),
    "ICDPO": Method("S", "random"),
    "ICDPO + Ŝ": Method("S_hat", "random"),
    "ICDPO + ŜR": Method("S_hat", "R"),
}


def chosen_responses(candidates: pd.DataFrame, methods: Mapping[str, Method] = METHODS) -> pd.DataFrame:
    """The response of every method to every prompt, for each language model, source and, if there is one, training seed.

    Returns columns lm, source, method, and those of a candidates table (see `sampling`) with `reward`. A method without
    demonstrations has the same response for every source. Methods whose candidates or score are missing from the table are
    omitted, such as RM-BoN and RM-Aug without a teacher.
    """
    parts = []
    shown = candidates[candidates["source"] != NONE]
    for lm, source in shown[["lm", "source"]].drop_duplicates().itertuples(index=False):
        available = candidates[(candidates["lm"] == lm) & candidates["source"].isin([source, NONE])]
        for name, method in methods.items():
            pool = available[(available["retriever"] == method.retriever) & (available["policy"] == method.policy)]
            if len(pool) and (method.choice in ("first", "random") or method.choice in pool):
                seeds = pool.groupby("seed", sort=False, dropna=False) if "seed" in pool else [(None, pool)]
                chosen = pd.concat([method.choose(part) for _, part in seeds])
                parts.append(chosen.assign(lm=lm, source=source, method=name))
    table = pd.concat(parts, ignore_index=True)
    first = ["lm", "source", "method"]
    return table[[*first, *(c for c in table if c not in first)]]


def responses_to(chosen: pd.DataFrame, prompt_id: str, lm: str, source: str) -> pd.DataFrame:
    """Each method's response to one prompt: columns method, response, reward. ICL is omitted, since it selects no response."""
    rows = chosen[(chosen["prompt_id"] == prompt_id) & (chosen["lm"] == lm) & (chosen["source"] == source)]
    return rows[rows["method"] != "ICL"].drop_duplicates("method")[["method", "response", "reward"]]


def empties(candidates: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """The effect of excluding empty responses on its own, for every source and retriever.

    ICL is the mean over all candidates of a prompt, whereas S and Ŝ never select an empty one. Part of ICDPO - ICL is therefore
    the mean over the non-empty candidates minus the mean over all, which is 0 if none or all are empty. Returns columns lm,
    source, retriever, share empty, ICL over all, ICL over non-empty, difference [95 % interval], n (prompts).
    """
    rows = []
    shown = candidates[candidates["retriever"] != NONE]
    for (lm, source, retriever), table in shown.groupby(["lm", "source", "retriever"], sort=False):
        empty, by = is_empty(table["response"]), [table["domain"], table["prompt_id"]]
        over_all = table["reward"].groupby(by, sort=False).mean()
        over_non_empty = table["reward"].mask(empty).groupby(by, sort=False).mean().fillna(over_all)
        values = (over_all, over_non_empty, over_non_empty - over_all)
        by_domain = [[part.to_numpy() for _, part in v.groupby("domain")] for v in values]
        mean_all, mean_non_empty, difference = (mean_ci(groups, totals, seed) for groups in by_domain)
        rows.append({
            "lm": lm, "source": source, "retriever": retriever, "share empty": empty.mean(),
            "ICL over all": mean_all.mean, "ICL over non-empty": mean_non_empty.mean,
            "difference [95 % interval]": str(difference), "n": difference.n,
        })  # fmt: skip
    return pd.DataFrame(rows)


def shown_once(means: pd.DataFrame) -> pd.DataFrame:
    """A `method_means` table with one row per model for methods without demonstrations, under the source "none"."""
    alone = means["method"].isin(WITHOUT_DEMONSTRATIONS)
    first = means[alone].drop_duplicates(["lm", "method", "domain"]).assign(source="none")
    return pd.concat([first, means[~alone]], ignore_index=True)


def source_rewards(
    data: Mapping[str, PreferenceSet], domains: Sequence[str], reward: Reward, totals: str = "macro", seed: int = 0
) -> pd.DataFrame:
    """Mean rewards of the sources' own responses (Table 1): `method_means` with a column `side` in place of the method."""
    parts = []
    for source, preferences in data.items():
        if missing := set(domains) - set(domains_of(preferences.support)):
            names = ", ".join(sorted(missing))
            raise InputError(f"there are no demonstrations of {source} for {names}; leave out the source or the domain")
        table = pd.DataFrame([vars(p) for p in preferences.support if p.domain in domains])
        prompts = list(table["prompt"])
        scored = {side: table.assign(reward=reward.score(prompts, list(table[side]))) for side in ("chosen", "rejected")}
        parts.append(per_prompt(scored, source=source))
    means = method_means(pd.concat(parts, ignore_index=True), totals=totals, seed=seed)
    return means.rename(columns={"method": "side"})
