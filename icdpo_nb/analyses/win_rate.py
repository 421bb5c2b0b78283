"""Win rates of the methods against the data's own chosen responses (section 3.4, Figures 2 and 4 in Appendix D).

A win counts 1, a tie ½, a defeat 0. A pair without a verdict counts nowhere but in the number of those.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet
from ..judging.judges import Judge, both_orders, judge_pairs
from ..statistics.estimates import GROUPS, method_gains, method_means
from ..statistics.intervals import mean_ci, rank_correlation

METHODS = ("ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR")  # the bars of Figures 2 and 4, from top to bottom
BESIDE = ("Base", "ICL", "Source")  # the source's own responses are the paper's "corresponding teachers"
POINTS = {"win": 1.0, "tie": 0.5, "lose": 0.0}


def comparisons(
    chosen: pd.DataFrame,
    data: Mapping[str, PreferenceSet],
    prompts: Sequence[Preference],
    beside: Sequence[str] = BESIDE,
) -> pd.DataFrame:
    """What is to be judged: columns lm, source, method, domain, prompt_id, response, and the prompt and its chosen response.

    `chosen`: as from `comparison.chosen_responses`; ICL answers with the first of its candidates. "Source" is left out where
    the data lack its responses to some test prompts. Raises `InputError` for another name in `beside`.
    """
    if unknown := set(beside) - set(BESIDE):
        raise InputError(f"beside names {', '.join(sorted(unknown))}, but may name {', '.join(BESIDE)} only")
    columns, found = [*GROUPS, "method", "domain", "prompt_id", "response"], []
    for (lm, source), part in chosen.groupby(GROUPS, sort=False):
        found.append(part.loc[part["method"].isin([*METHODS, *beside]), columns])
        own = data[source].test_responses
        if "Source" in beside and all(p.prompt_id in own for p in prompts):
            rows = [(lm, source, "Source", p.domain, p.prompt_id, own[p.prompt_id]) for p in prompts]
            found.append(pd.DataFrame(rows, columns=columns))
    table, of = pd.concat(found, ignore_index=True), {p.prompt_id: p for p in prompts}
    given = {"prompt": [of[i].prompt for i in table["prompt_id"]], "chosen": [of[i].chosen for i in table["prompt_id"]]}
    return table.assign(**given)


def preview(judge: Judge, table: pd.DataFrame) -> str:
    """What judging `comparisons` costs, in a sentence."""
    return judge.preview(*both_orders(table["prompt"], table["response"], table["chosen"]))


def judged(judge: Judge, table: pd.DataFrame) -> pd.DataFrame:
    """`comparisons` with the columns of `judges.judge_pairs` and `win`: 1, ½ or 0, and NaN without a verdict.

    Raises `InputError` where a method has no verdict at all in a domain.
    """
    found = judge_pairs(judge, list(table["prompt"]), list(table["response"]), list(table["chosen"]))
    found = pd.concat([table.reset_index(drop=True), found], axis=1)
    found["win"] = found["verdict"].map(POINTS)
    for key, part in found.groupby([*GROUPS, "method", "domain"], sort=False):
        if part["win"].isna().all():
            last = part.iloc[-1]
            said = f"the last {last['verdict']}: {' '.join(last['reply'].split())[:200]!r}"
            raise InputError(
                f"the judge {judge.name} gave no verdict on any pair of {', '.join(key)} ({said}); ask another judge"
            )
    return found


def win_means(judged: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Win rate with its interval for each method, as `estimates.method_means`."""
    return method_means(judged.dropna(subset="win"), "win", totals, seed, (0, 1))


def win_shares(judged: pd.DataFrame, totals: str = "macro") -> pd.DataFrame:
    """Shares of wins, ties and defeats, which sum to 1: columns lm, source, method, win, tie, lose."""
    table = judged.dropna(subset="win")
    table = table.assign(**{verdict: table["verdict"] == verdict for verdict in POINTS})
    keys = [*GROUPS, "method"]
    by = [*keys, "domain"] if totals == "macro" else keys
    return table.groupby(by, sort=False)[list(POINTS)].mean().groupby(level=keys, sort=False).mean().reset_index()


def win_gains(judged: pd.DataFrame, pairs: Sequence[tuple[str, str]], totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Paired differences in win rate, as `estimates.method_gains`, over the prompts on which both methods have a verdict."""
    found = []
    for pair in pairs:
        table = judged[judged["method"].isin(pair)].dropna(subset="win")
        both = table.groupby([*GROUPS, "prompt_id"])["win"].transform("size") == 2
        found.append(method_gains(table[both], [pair], "win", totals, seed))
    return pd.concat(found, ignore_index=True)


def order_sentence(judged: pd.DataFrame) -> str:
    """How many pairs have no verdict, how often the two orders agree, and whether the first or the longer text is favoured."""
    n, known = len(judged), judged.dropna(subset="win")
    lost = [f"{count} {kind}" for kind in ("failed", "unparsable") if (count := int((judged["verdict"] == kind).sum()))]
    same = (known["forward"] == known["backward"].map({"A": "B", "B": "A", "C": "C"})).mean()
    said = [f"{len(known):,} of {n:,} pairs have a verdict", *lost, f"the two orders agree on {same:.0%} of them"]
    letters = pd.concat([known["forward"], known["backward"]])
    if (decided := letters.isin(["A", "B"])).any():
        said.append(
            f"{(letters[decided] == 'A').mean():.0%} of the answers that prefer one name the first text (50% is no bias)"
        )
    longer = known["response"].str.len() - known["chosen"].str.len()
    won = known["win"][(known["verdict"] != "tie") & (longer != 0)]
    if len(won):
        said.append(
            f"the longer text won {((won == 1) == (longer[won.index] > 0)).mean():.0%} of the decided pairs of unequal length"
        )
    return f"{'; '.join(said)}."


def agreement_sentence(judged: pd.DataFrame, by_reward: pd.DataFrame, seed: int = 0) -> str:
    """How often a reward model that judges the same comparisons agrees, and whether it orders the methods alike."""
    known = judged["win"].notna() & by_reward["win"].notna()
    decided = known & (judged["verdict"] != "tie")
    if not decided.any():
        return "The judge called every pair level, so there is nothing to agree with."
    same = 1 - (judged["win"] - by_reward["win"])[decided].abs()
    share = mean_ci([same.groupby(judged.loc[decided, "prompt_id"]).mean().to_numpy()], seed=seed, bounds=(0, 1))
    rates = [t[known].groupby([*GROUPS, "method"])["win"].mean() for t in (judged, by_reward)]
    rho = rank_correlation(*(r.to_numpy() for r in rates))
    order = f"; Spearman's ρ of the two win rates over the {rho.n} bars is {rho}" if rho.mean == rho.mean else ""
    interval = f"{share.mean:.0%} [{share.low:.0%}, {share.high:.0%}]" if share.low == share.low else f"{share.mean:.0%}"
    return f"Of the pairs that the judge decides, the reward model prefers the same text in {interval}{order}."
