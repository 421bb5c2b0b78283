"""ICDPO as a labeller: the candidates of a run as a preference set, chosen = best and rejected = worst by a score.

The rows have the columns that TRL's trainers and `data.load_preferences` read, so that a policy can be trained on them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from ..algorithm import ORIGIN, select
from ..common.errors import InputError
from ..data.preferences import Preference
from ..data.rows import messages
from ..retrieval.retrievers import words
from ..scoring import SCORES, is_empty
from ..statistics.intervals import Estimate, mean_ci
from .consistency import SCORERS

COLUMNS = ["id", "domain", "prompt", "chosen", "rejected", "margin", "score_chosen", "score_rejected"]
RUN, COPIED = 4, 0.5  # words; share of a response's runs from which on it is a copy
DROPPED = {  # why a candidate or a prompt gives no pair, in the order of the checks
    "empty": "candidates without text",
    "cut": "candidates cut by the length limit",
    "copied": "candidates copied from a demonstration",
    "equal": "candidates with the text of another",
    "few": "prompts with fewer than two candidates left",
    "ties": "prompts whose candidates all have the same score",
}


def with_copies(candidates: pd.DataFrame, support: Sequence[Preference]) -> pd.DataFrame:
    """Add a column `copied`: the share of a response's runs of `RUN` words that occur in a chosen response of its context."""
    runs = {p.prompt_id: _runs(p.chosen) for p in support}
    shares = []
    for text, ids in zip(candidates["response"], candidates["demo_ids"], strict=True):
        own, known = _runs(text), set().union(*(runs[i] for i in ids))
        shares.append(len(own & known) / len(own) if own else 0.0)
    return candidates.assign(copied=shares)


def _runs(text: str) -> set[tuple[str, ...]]:
    said = words(text)
    return {tuple(said[i : i + RUN]) for i in range(len(said) - RUN + 1)}


def copies_sentence(candidates: pd.DataFrame) -> str:
    """How many candidates, and how many of S's choices, are copies of a demonstration; the table has the column `copied`."""
    chosen = pd.concat([select(part) for _, part in candidates.groupby(["lm", "source"], sort=False)])
    counts = [f"{int(t['copied'].ge(COPIED).sum())} of {len(t)}" for t in (candidates, chosen)]
    means = f"{COPIED:.0%} or more of the response's runs of {RUN} words stand in it"
    return f"Copies of a demonstration ({means}): {counts[0]} candidates, {counts[1]} choices of S."


def check_score(name: str, rewarded: bool = False) -> None:
    """Raises `InputError` unless candidates can be labelled by this score, before any are sampled.

    `rewarded`: whether they will have a reward.
    """
    known = [*SCORES, *(["reward"] if rewarded else [])]
    if name not in known:
        raise InputError(f"label_by is {name[:40]!r}, but must be one of {', '.join(known)}")


def label_candidates(candidates: pd.DataFrame, score: str = "S") -> tuple[pd.DataFrame, dict[str, int]]:
    """The candidates as preference pairs, one for each prompt, and the numbers of what was dropped, by reason (`DROPPED`).

    `candidates`: rows of one `ORIGIN` of a candidates table. `score`: the column by which the best becomes chosen and the worst
    rejected, such as S, S_hat or a reward. Empty and truncated candidates are dropped, since they would teach their defect, and
    so are copies of a demonstration if the table says which these are (`with_copies`): S favours them, as nothing gains more
    from the context. Of candidates with the same text the first is kept. `margin` is the difference of the two scores, in nats
    for S and Ŝ, and above 0. Raises `InputError` if the table holds several origins or lacks the score.
    """
    if several := [c for c in ORIGIN if c in candidates and candidates[c].nunique() > 1]:
        raise InputError(f"the candidates have several values of {several[0]}; label those of one at a time")
    if score not in candidates or candidates[score].isna().any():
        raise InputError(f"the candidates have no {score}, or not all of them have one; sample them with demonstrations")
    dropped, rows = Counter(dict.fromkeys(DROPPED.values(), 0)), []
    for (domain, prompt_id), part in candidates.groupby(["domain", "prompt_id"], sort=False):
        kept = _usable(part, dropped)
        if len(kept) < 2:
            dropped[DROPPED["few"]] += 1
            continue
        best, worst = kept.loc[kept[score].idxmax()], kept.loc[kept[score].idxmin()]
        if best[score] == worst[score]:
            dropped[DROPPED["ties"]] += 1
            continue
        texts = (best["prompt"], best["response"].strip(), worst["response"].strip())
        rows.append((prompt_id, domain, *texts, best[score] - worst[score], best[score], worst[score]))
    return pd.DataFrame(rows, columns=COLUMNS), dict(dropped)


def _usable(part: pd.DataFrame, dropped: Counter) -> pd.DataFrame:
    """The candidates of a prompt that can stand in a pair, with a unique index; the others are counted."""
    part = part.reset_index(drop=True)
    empty = pd.Series(is_empty(part["response"]))
    cut = ~empty & part["finish"].eq("length")
    copied = ~empty & ~cut & (part["copied"].ge(COPIED) if "copied" in part else False)
    left = part[~empty & ~cut & ~copied]
    equal = left["response"].str.strip().duplicated()
    for reason, marked in (("empty", empty), ("cut", cut), ("copied", copied), ("equal", equal)):
        dropped[DROPPED[reason]] += int(marked.sum())
    return left[~equal]


def standard_format(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs as TRL's standard format: texts, whose prompt and response joined are what the model is trained on.

    The prompt is π0's context, "Human: …\\n\\nAssistant:", as in `templates.base_context`; a response begins with a space.
    """
    joined = {side: " " + pairs[side] for side in ("chosen", "rejected")}
    return pairs.assign(prompt=pairs["prompt"] + "\n\nAssistant:", **joined)


def conversational_format(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs as TRL's conversational format: lists of chat messages, for models with a chat template."""
    said = {side: [[{"role": "assistant", "content": y}] for y in pairs[side]] for side in ("chosen", "rejected")}
    return pairs.assign(prompt=[messages(x) for x in pairs["prompt"]], **said)


def chosen_lengths(candidates: pd.DataFrame, scores: Mapping[str, str] = SCORERS) -> pd.DataFrame:
    """How much longer the choice of each score is than the mean of the prompt's candidates, in tokens.

    `scores`: column -> name; those that the table lacks are left out. Returns columns lm, source, method, domain, prompt_id and
    tokens, as an input for `estimates.method_means`. A score that prefers long or short responses shows here without a reward.
    """
    parts = []
    for keys, part in candidates.groupby(["lm", "source"], sort=False):
        mean = part.groupby("prompt_id", sort=False)["n_tokens"].mean()
        for column, name in scores.items():
            if column in part:
                chosen = select(part, column)
                more = chosen["n_tokens"] - chosen["prompt_id"].map(mean)
                ids = chosen[["domain", "prompt_id"]].assign(lm=keys[0], source=keys[1], method=name)
                parts.append(ids.assign(tokens=more.astype(float)))
    return pd.concat(parts, ignore_index=True)


def agreement(candidates: pd.DataFrame, seed: int = 0) -> Estimate:
    """Share of prompts for which S and Ŝ choose the same response text; over all models, sources and domains of the table."""
    same = []
    for _, part in candidates.groupby(["lm", "source"], sort=False):
        same.append((select(part, "S")["response"] == select(part, "S_hat")["response"]).to_numpy(float))
    return mean_ci(same, seed=seed, bounds=(0, 1))


def labelling_sentence(pairs: pd.DataFrame, dropped: Mapping[str, int], score: str = "S") -> str:
    """How many pairs there are, how clear they are, and what was dropped."""
    reasons = ", ".join(f"{reason} ({n})" for reason, n in dropped.items() if n) or "nothing"
    if pairs.empty:
        return f"no prompt gives a pair, raise n_candidates or max_new_tokens; left out: {reasons}."
    quartiles = pairs["margin"].quantile([0.25, 0.5, 0.75])
    spread = f"{quartiles[0.5]:.2f} (quartiles {quartiles[0.25]:.2f} and {quartiles[0.75]:.2f})"
    count = f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''}"
    return f"{count}, labelled by {score}; the median margin is {spread}; left out: {reasons}."
