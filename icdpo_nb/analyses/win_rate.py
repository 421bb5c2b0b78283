"""Win rates of the methods against the chosen responses of the data (section 3.4, Figures 2 and 4 in Appendix D).

A win counts 1, a tie ½, a loss 0. Pairs without a verdict are excluded, and their number is reported.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet
from ..judging.judges import Judge, both_orders, judge_pairs
from ..statistics.estimates import GROUPS, method_gains, method_means
from ..statistics.intervals import mean_ci, rank_correlation

METHODS = ("ICDPO", "ICDPO + Ŝ", "ICDPO + ŜR")  # the bars of Figures 2 and 4, from top to bottom
BESIDE = ("Base", "ICL", "Source")  # "Source": the source's own responses, the paper's "corresponding teachers"
POINTS = {"win": 1.0, "tie": 0.5, "lose": 0.0}


def comparisons(
    chosen: pd.DataFrame,
    data: Mapping[str, PreferenceSet],
    prompts: Sequence[Preference],
    beside: Sequence[str] = BESIDE,
) -> pd.DataFrame:
    """The pairs to judge: columns lm, source, method, domain, prompt_id, response, and the prompt and its chosen response.

    `chosen`: the output of `comparison.chosen_responses`; for ICL it contains the first candidate. "Source" is omitted if the
    source has no responses to some test prompts. Raises `InputError` for an unknown name in `beside`.
    """
    if unknown := set(beside) - set(BESIDE):
        raise InputError(f"beside has {', '.join(sorted(unknown))}, but may only have {', '.join(BESIDE)}")
    columns, parts = [*GROUPS, "method", "domain", "prompt_id", "response"], []
    for (lm, source), part in chosen.groupby(GROUPS, sort=False):
        parts.append(part.loc[part["method"].isin([*METHODS, *beside]), columns])
        own = data[source].test_responses
        if "Source" in beside and all(p.prompt_id in own for p in prompts):
            rows = [(lm, source, "Source", p.domain, p.prompt_id, own[p.prompt_id]) for p in prompts]
            parts.append(pd.DataFrame(rows, columns=columns))
    table = pd.concat(parts, ignore_index=True)
    by_id = {p.prompt_id: p for p in prompts}
    asked = [by_id[i] for i in table["prompt_id"]]
    return table.assign(prompt=[p.prompt for p in asked], chosen=[p.chosen for p in asked])


def preview(judge: Judge, table: pd.DataFrame) -> str:
    """The cost of judging `comparisons`, as a sentence."""
    return judge.preview(*both_orders(table["prompt"], table["response"], table["chosen"]))


def judged(judge: Judge, table: pd.DataFrame) -> pd.DataFrame:
    """`comparisons` with the columns of `judges.judge_pairs` and `win`: 1, ½ or 0, and NaN without a verdict.

    Raises `InputError` if a method has no verdict at all in a domain.
    """
    verdicts = judge_pairs(judge, list(table["prompt"]), list(table["response"]), list(table["chosen"]))
    verdicts = pd.concat([table.reset_index(drop=True), verdicts], axis=1)
    verdicts["win"] = verdicts["verdict"].map(POINTS)
    for key, part in verdicts.groupby([*GROUPS, "method", "domain"], sort=False):
        if part["win"].isna().all():
            last = part.iloc[-1]
            reply = f"the last {last['verdict']}: {' '.join(last['reply'].split())[:200]!r}"
            pairs = ", ".join(key)
            raise InputError(f"the judge {judge.name} gave no verdict on any pair of {pairs} ({reply}); use another judge")
    return verdicts


def win_means(judged: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Win rate of each method with its interval, in the format of `estimates.method_means`."""
    return method_means(judged.dropna(subset="win"), "win", totals, seed, (0, 1))


def win_shares(judged: pd.DataFrame, totals: str = "macro") -> pd.DataFrame:
    """Shares of wins, ties and losses, which sum to 1: columns lm, source, method, win, tie, lose."""
    table = judged.dropna(subset="win")
    table = table.assign(**{verdict: table["verdict"] == verdict for verdict in POINTS})
    keys = [*GROUPS, "method"]
    by = [*keys, "domain"] if totals == "macro" else keys
    return table.groupby(by, sort=False)[list(POINTS)].mean().groupby(level=keys, sort=False).mean().reset_index()


def win_gains(judged: pd.DataFrame, pairs: Sequence[tuple[str, str]], totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Paired differences in win rate (`estimates.method_gains`) over the prompts on which both methods have a verdict."""
    parts = []
    for pair in pairs:
        table = judged[judged["method"].isin(pair)].dropna(subset="win")
        both = table.groupby([*GROUPS, "prompt_id"])["win"].transform("size") == 2
        parts.append(method_gains(table[both], [pair], "win", totals, seed))
    return pd.concat(parts, ignore_index=True)


def order_sentence(judged: pd.DataFrame) -> str:
    """The number of pairs with a verdict, the agreement of the two orders, and biases towards the first or the longer text."""
    known = judged.dropna(subset="win")
    parts = [f"{len(known):,} of {len(judged):,} pairs have a verdict"]
    for kind in ("failed", "unparsable"):
        if count := int((judged["verdict"] == kind).sum()):
            parts.append(f"{count} {kind}")
    agree = (known["forward"] == known["backward"].map({"A": "B", "B": "A", "C": "C"})).mean()
    parts.append(f"the two orders agree on {agree:.0%} of them")
    letters = pd.concat([known["forward"], known["backward"]])
    decided = letters[letters.isin(["A", "B"])]
    if len(decided):
        parts.append(f"{(decided == 'A').mean():.0%} of the replies with a preference name the first text (unbiased: 50%)")
    longer = known["response"].str.len() - known["chosen"].str.len()
    won = known["win"][(known["verdict"] != "tie") & (longer != 0)]
    if len(won):
        share = ((won == 1) == (longer[won.index] > 0)).mean()
        parts.append(f"the longer text wins {share:.0%} of the decided pairs of unequal length")
    return f"{'; '.join(parts)}."


def agreement_sentence(judged: pd.DataFrame, by_reward: pd.DataFrame, seed: int = 0) -> str:
    """How often a reward model agrees with the judge on the same pairs, and how well their rankings of the methods agree."""
    known = judged["win"].notna() & by_reward["win"].notna()
    decided = known & (judged["verdict"] != "tie")
    if not decided.any():
        return "The judge called every pair a tie, so agreement cannot be measured."
    same = 1 - (judged["win"] - by_reward["win"])[decided].abs()
    share = mean_ci([same.groupby(judged.loc[decided, "prompt_id"]).mean().to_numpy()], seed=seed, bounds=(0, 1))
    rates = [t[known].groupby([*GROUPS, "method"])["win"].mean().to_numpy() for t in (judged, by_reward)]
    rho = rank_correlation(*rates)
    ranking = "" if math.isnan(rho.mean) else f"; Spearman's ρ of the two win rates over the {rho.n} bars is {rho}"
    interval = "" if math.isnan(share.low) else f" [{share.low:.0%}, {share.high:.0%}]"
    return f"The reward model prefers the same text in {share.mean:.0%}{interval} of the pairs that the judge decides{ranking}."
