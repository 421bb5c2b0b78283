"""Selection headroom: how much of what the best possible choice among the same candidates gains, each rule gains.

All rules choose from one pool of n candidates per prompt. The pool decides what can be gained at all: a random choice is the
start, the oracle, which sees the rewards, the end, and the share of headroom captured is

    (E[reward of the rule's choice] - E[random]) / (E[oracle] - E[random]).

Ties go to the first candidate, as everywhere (`algorithm.select`). Candidates are drawn independently, so this equals a random
choice among the tied on average, and makes a rule a strict order, for which the best-of-n curve below is exact.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..common.errors import InputError
from ..common.escaping import signs
from ..scoring import is_empty
from ..statistics.estimates import GROUPS, TOTAL, method_means
from ..statistics.intervals import Estimate
from ..statistics.ratios import ratio_ci

RANDOM, FIRST, ORACLE, WORST = "random", "first", "oracle", "worst"
RULES = {  # name -> the column it maximises; "/token": divided by the number of tokens
    RANDOM: "",
    FIRST: "",
    "π* alone": "ICL",
    "S": "S",
    "Ŝ": "S_hat",
    "S per token": "S/token",
    "Ŝ per token": "S_hat/token",
    "teacher": "teacher",
    "reward model": "rm",
    ORACLE: "reward",
    WORST: "reward",
}
KEYS = [*GROUPS, "domain", "prompt_id"]


def rule_scores(pool: pd.DataFrame, rule: str) -> np.ndarray | None:
    """What the rule maximises for each candidate, shape (rows,); None if the pool has no such column or not for every row.

    Empty responses score -inf per token as they do in the sum. A random choice has no score.
    """
    column, _, per_token = RULES[rule].partition("/")
    if rule == FIRST:
        return -pool["candidate_id"].to_numpy(float)
    if column not in pool or pool[column].isna().any():
        return None
    scores = pool[column].to_numpy(float)
    if per_token:
        scores = np.where(is_empty(pool["response"]), -np.inf, scores / np.maximum(pool["n_tokens"].to_numpy(float), 1))
    return -scores if rule == WORST else scores


def rule_choices(candidates: pd.DataFrame, rules: Sequence[str] = tuple(RULES)) -> pd.DataFrame:
    """What every rule chooses on every prompt, for each lm and source.

    `candidates`: one pool of each lm and source, with `reward`, such as the rows of one retriever. Returns columns lm, source,
    method (the rule), domain, prompt_id; reward; gain (over a random choice), headroom (of the oracle over a random choice),
    regret (of the choice against the oracle), best (1 if the reward is the pool's best) and tied (1 if several candidates share
    the rule's best score). Rules whose column is missing are left out.
    """
    parts = []
    for _, pool in candidates.groupby(GROUPS, sort=False):
        scores, rewards, ids = _by_prompt(pool)
        rows = np.arange(len(rewards))
        random, best = rewards.mean(1), rewards.max(1)
        for rule in rules:
            values = scores(rule)
            if rule == RANDOM:
                reward, hit, tied = random, (rewards == best[:, None]).mean(1), np.ones(len(rewards))
            elif values is None:
                continue
            else:
                reward = rewards[rows, values.argmax(1)]
                hit, tied = reward == best, (values == values.max(1, keepdims=True)).sum(1) > 1
            parts.append(ids.assign(
                method=rule, reward=reward, gain=reward - random, headroom=best - random, regret=best - reward,
                best=np.asarray(hit, float), tied=np.asarray(tied, float),
            ))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    return table[[*GROUPS, "method", *(c for c in table if c not in (*GROUPS, "method"))]]


def _by_prompt(pool: pd.DataFrame):
    """A function from a rule to its scores, shape (prompts, n) or None; the rewards, the same shape; and the prompts' keys."""
    n = len(pool) // max(pool["prompt_id"].nunique(), 1)
    sizes = pool.groupby(["domain", "prompt_id"], sort=False).size()
    if (sizes != n).any():
        raise InputError("every prompt needs the same number of candidates; give the rows of one retriever and one policy")
    order = pool.groupby(["domain", "prompt_id"], sort=False).ngroup().argsort(kind="stable")
    pool = pool.iloc[order]

    def scores(rule: str) -> np.ndarray | None:
        values = rule_scores(pool, rule) if rule != RANDOM else None
        return None if values is None else values.reshape(-1, n)

    return scores, pool["reward"].to_numpy(float).reshape(-1, n), pool.iloc[::n][KEYS].reset_index(drop=True)


def captured(choices: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """The share of headroom that each rule captures, over all domains, for each lm and source.

    `choices`: as from `rule_choices`. Returns columns lm, source, method, domain, mean, low, high, n, p, where the mean is a
    ratio of means (1: as good as the oracle, 0: as a random choice, below 0: worse) and its interval that of
    `ratios.ratio_ci`. NaN where the candidates of every prompt have equal rewards.
    """
    rows, one = [], choices["domain"].nunique() == 1
    for key, part in choices.groupby([*GROUPS, "method"], sort=False):
        groups = [g for _, g in part.groupby("domain")]
        found = ratio_ci([g["gain"].to_numpy() for g in groups], [g["headroom"].to_numpy() for g in groups], totals, seed)
        domain = choices["domain"].iloc[0] if one else TOTAL
        rows.append({**dict(zip([*GROUPS, "method"], key, strict=True)), "domain": domain, **vars(found)})
    return pd.DataFrame(rows)


def headroom_table(choices: pd.DataFrame, shares: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Every rule's reward, share of headroom, regret, and how often it picks the best and is tied, as a table of texts.

    `choices` and `shares` of one lm and source.
    """
    columns = {"reward": None, "regret": None, "best": (0, 1), "tied": (0, 1)}
    means = {c: _total(method_means(choices, c, totals, seed, bounds)) for c, bounds in columns.items()}
    rows = []
    for row in shares.itertuples():
        share = "–" if row.method in (RANDOM, ORACLE) else Estimate(row.mean, row.low, row.high, row.n).text()
        rows.append({
            "choice by": row.method, "mean reward": means["reward"][row.method].text(), "share of headroom": share,
            "regret": means["regret"][row.method].text(), "picks the best": f"{means['best'][row.method].mean:.0%}",
            "tied": "–" if row.method in (RANDOM, FIRST) else f"{means['tied'][row.method].mean:.0%}",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _total(means: pd.DataFrame) -> dict[str, Estimate]:
    rows = means[means["domain"] == TOTAL] if TOTAL in set(means["domain"]) else means
    return {r["method"]: Estimate(r["mean"], r["low"], r["high"], r["n"]) for r in rows.to_dict("records")}


# ---------------------------------------------------------------- best of n


def best_of_n(scores: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Expected reward of the best-scored of n candidates drawn without replacement from a pool of N, for n = 1 … N.

    `scores` and `rewards` have shape (prompts, N), as has the result, whose column n - 1 is the mean over all C(N, n) subsets,
    in closed form: the candidate with k worse ones below it is the best of a subset if the other n - 1 are among these, in
    C(k, n - 1) of C(N, n) subsets. Ties are broken by the candidates' order, so k is never ambiguous.

    >>> best_of_n(np.array([[3.0, 1.0, 2.0]]), np.array([[6.0, 0.0, 3.0]]))
    array([[3., 5., 6.]])
    """
    n = rewards.shape[1]
    worst_first = np.argsort(-np.asarray(scores, float), axis=1, kind="stable")[:, ::-1]
    weights = [[math.comb(k, size - 1) / math.comb(n, size) for size in range(1, n + 1)] for k in range(n)]
    return np.take_along_axis(np.asarray(rewards, float), worst_first, 1) @ np.array(weights)


def best_of_n_curves(
    candidates: pd.DataFrame, rules: Sequence[str] = (RANDOM, "S", "Ŝ", ORACLE), totals: str = "macro", seed: int = 0
) -> pd.DataFrame:
    """Mean reward of every rule's choice among n = 1 … N candidates: `method_means` with a column n_candidates.

    `candidates` as in `rule_choices`. Each point averages all subsets of the pool, so it is as precise as N candidates allow;
    the intervals are over prompts. Neighbouring points share prompts and candidates and are not independent.
    """
    parts = []
    for _, pool in candidates.groupby(GROUPS, sort=False):
        scores, rewards, ids = _by_prompt(pool)
        for rule in rules:
            values = scores(rule)
            if rule != RANDOM and values is None:
                continue
            expected = (
                best_of_n(values, rewards) if rule != RANDOM else np.repeat(rewards.mean(1)[:, None], rewards.shape[1], 1)
            )
            for k in range(rewards.shape[1]):
                parts.append(ids.assign(method=rule, n_candidates=k + 1, reward=expected[:, k]))
    tidy = pd.concat(parts, ignore_index=True)
    curves = [method_means(part, totals=totals, seed=seed).assign(n_candidates=k) for k, part in tidy.groupby("n_candidates")]
    return pd.concat(curves, ignore_index=True)


def headroom_sentence(shares: pd.DataFrame, rules: Sequence[str] = ("S", "Ŝ")) -> str:
    """How much of the headroom each rule captures over the settings (models and sources), in one sentence."""
    known = shares[shares["mean"].notna()]
    said = []
    for rule in rules:
        part = known[known["method"] == rule]
        if len(part):
            low, high = map(_percent, (part["mean"].min(), part["mean"].max()))
            reliable = int((part["low"] > 0).sum())
            of = f" ({reliable} of {len(part)} intervals above 0)" if len(part) > 1 else f" ({_interval(part.iloc[0])})"
            said.append(f"{rule} captures {low if low == high else f'{low} to {high}'}{of}")
    if not said:
        return "All candidates of a prompt have the same reward, so no choice among them gains anything."
    return f"Of what the best choice among the same candidates would gain over a random one, {' and '.join(said)}."


def _interval(row: Mapping) -> str:
    if math.isnan(row["low"]):
        return "no interval"
    return f"95 % interval {_percent(row['low'])} to {_percent(row['high'])}"


def _percent(share: float) -> str:
    """A share as a whole per cent; never -0."""
    return signs(f"{round(100 * share)} %")
