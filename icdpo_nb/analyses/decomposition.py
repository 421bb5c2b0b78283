"""S and Ŝ taken apart: what the cue, the instruction and the demonstrations each add, and what each would choose alone.

The differences of log-probabilities between neighbouring contexts of a chain (`chains`) are the parts of a score. They add up
to it exactly, for each candidate and on average.
"""

import numpy as np
import pandas as pd

from ..protocol import Protocol
from ..scoring import is_empty
from ..statistics.findings import HIGHER, LOWER, OPEN, SAME, SMALL
from .chains import CHAINS, FIRST, LAST, PARTS, SAMPLED

SYMBOLS = {"S": "S", "S_hat": "Ŝ"}
RANDOM = "random choice"
TIED = 1e-4  # nats: smaller differences of log-probabilities are rounding


def parts_of(table: pd.DataFrame, name: str = "S", order: str = FIRST, reduction: str = "sum") -> pd.DataFrame:
    """What each of `PARTS` adds to the score `name` of each candidate, shape (rows, 3), in nats, or nats per token for "mean".

    A row's sum is its score, also for an empty response, whose score in the table is -inf.
    """
    start, cue, middle, end = (table[f"logp_{context}"].to_numpy(float) for context in CHAINS[name][order])
    steps = {"cue": cue - start, "instruction": middle - cue, "demonstrations": end - middle}
    if order == LAST:
        steps |= {"demonstrations": middle - cue, "instruction": end - middle}
    parts = pd.DataFrame(steps, index=table.index)
    return parts if reduction == "sum" else parts.div(np.maximum(table["n_tokens"], 1), axis=0)


def method_of(part: str, name: str = "S", order: str = FIRST) -> str:
    """A part's name as a method: "demonstrations in S", or "…, before the instruction" for the other order."""
    other = {"instruction": ", after the demonstrations", "demonstrations": ", before the instruction", "cue": ""}
    return f"{part} in {SYMBOLS[name]}{other[part] if order == LAST else ''}"


def part_choices(table: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """What each part alone would choose, next to S, Ŝ and a random choice: one row for each method and prompt.

    `table`: as from `chains.chain_table`, with `reward`. Returns columns lm, source, method, domain, prompt_id; reward, of
    the choice; same S and same S_hat, the probability that it is the response that the score chooses. Parts that tie (`TIED`)
    choose each of the tied with equal probability, so that a part that says nothing chooses as chance does. S and Ŝ choose
    the first, as `algorithm.select` does. No part chooses an empty response unless all are.
    """
    keys, scores = _keys(table), _scores(table, protocol)
    reward, text = table["reward"].to_numpy(float), table["response"].to_numpy()
    rows = []
    for key, at in table.groupby(keys, sort=False).indices.items():
        best = {name: text[at][int(np.argmax(scores[symbol][at]))] for name, symbol in SYMBOLS.items()}
        for method, values in scores.items():
            chance = _chance(values[at], 0 if method in SYMBOLS.values() else TIED)
            same = {f"same {name}": chance @ (text[at] == response) for name, response in best.items()}
            rows.append({**dict(zip(keys, key, strict=True)), "method": method, "reward": chance @ reward[at], **same})
    return pd.DataFrame(rows)


def _keys(table: pd.DataFrame) -> list[str]:
    return [c for c in ("lm", "source", "domain", "prompt_id") if c in table]


def _scores(table: pd.DataFrame, protocol: Protocol) -> dict[str, np.ndarray]:
    """By method, what it maximises, shape (rows,): -inf for an empty response, except for the random choice."""
    empty = is_empty(table["response"])
    scores = {RANDOM: np.zeros(len(table))} | {symbol: table[name].to_numpy(float) for name, symbol in SYMBOLS.items()}
    for name, orders in CHAINS.items():
        for order in orders:
            parts = parts_of(table, name, order, protocol.reduction)
            scores |= {method_of(part, name, order): np.where(empty, -np.inf, parts[part]) for part in PARTS}
    return scores


def _chance(scores: np.ndarray, tied: float) -> np.ndarray:
    """The probability with which each candidate is chosen: equal among those `tied` with the best; all to the first for 0."""
    best = scores >= scores.max() - tied
    return np.eye(len(scores))[int(np.argmax(best))] if not tied else best / best.sum()


def part_sizes(table: pd.DataFrame, protocol: Protocol, order: str = FIRST) -> pd.DataFrame:
    """The size of each part on each prompt, in nats: columns lm, source, method, domain, prompt_id, size, lead.

    `size` is the mean over the candidates; `lead` is the value of the score's choice minus this mean, which is what decides.
    The method is a part, S or Ŝ; on every prompt the parts add up to their score.
    """
    keys, rows = _keys(table), []
    for name, symbol in SYMBOLS.items():
        parts = parts_of(table, name, order, protocol.reduction)
        values = {method_of(part, name, order): parts[part].to_numpy() for part in PARTS} | {
            symbol: parts.sum(axis=1).to_numpy()
        }
        for key, at in table.groupby(keys, sort=False).indices.items():
            best = at[int(np.argmax(table[name].to_numpy(float)[at]))]
            for method, value in values.items():
                size = value[at].mean()
                rows.append({**dict(zip(keys, key, strict=True)), "method": method, "size": size, "lead": value[best] - size})
    return pd.DataFrame(rows)


COMPARED = {  # what the question is asked of -> (with the demonstrations, with the instruction): methods to compare
    "sampling": (SAMPLED["demonstrations"], SAMPLED["instruction"]),
    "choosing by S": (method_of("demonstrations"), method_of("instruction")),
    "choosing by Ŝ": (method_of("demonstrations", "S_hat"), method_of("instruction", "S_hat")),
}
PHRASES = {  # finding for demonstrations - instruction -> what aligns; the words stand behind "In sampling, "
    HIGHER: "the demonstrations align more than the instruction",
    LOWER: "the instruction aligns more than the demonstrations",
    SMALL: "demonstrations and instruction differ too little to matter",
    SAME: "demonstrations and instruction lead to the same responses",
    OPEN: "the data do not tell demonstrations and instruction apart",
}

BRIEFLY = {
    HIGHER: "the demonstrations more",
    LOWER: "the instruction more",
    SMALL: "too small to matter",
    SAME: "no difference",
    OPEN: "undecided",
}


def agreement_sentence(means: pd.DataFrame, name: str = "S") -> str:
    """How often each part alone chooses what the score `name` chooses, over the settings (models and sources).

    `means`: totals of `method_means` of the column "same S" or "same S_hat" of `part_choices`.
    """
    methods = [method_of(part, name) for part in PARTS]
    shares = {m: means.loc[means["method"] == m, "mean"] for m in [*methods, RANDOM]}
    ranges = {m: dict.fromkeys(f"{100 * v:.0f}" for v in (s.min(), s.max())) for m, s in shares.items()}
    said = [f"{m} {' to '.join(ranges[m])} %" for m in methods]
    return (
        f"How often a part alone chooses as {SYMBOLS[name]} does: {', '.join(said)} (chance {' to '.join(ranges[RANDOM])} %)."
    )


def verdict_sentence(claims: pd.DataFrame) -> str:
    """Is it the demonstrations or the instruction that aligns? One sentence from the claims of `COMPARED`, of one domain.

    Where settings (models and sources) differ, the most frequent finding stands first, the others in brackets with their
    number. A claim that is missing is left out.
    """
    said = []
    for where, (method, baseline) in COMPARED.items():
        part = claims[claims["claim"] == f"{method} > {baseline}"]
        counts = part["finding"].value_counts()
        if len(counts):
            main = next(f for f in PHRASES if counts.get(f, 0) == counts.max())
            said.append(f"in {where}, {PHRASES[main]}{_details(part, main)}")
    sentence = "; ".join(said)
    return f"{sentence[:1].upper()}{sentence[1:]}." if said else "Demonstrations and instruction were not compared."


def _details(part: pd.DataFrame, main: str) -> str:
    """In brackets: the sizes of the difference where there is one, and in how many settings something else was found."""
    rows = part[part["finding"] == main]
    words = [f"in {len(rows)} of {len(part)} settings"] if len(part) > 1 else []
    if main in (HIGHER, LOWER):
        sizes = sorted({f"{v:.2f}" for v in (rows["mean"].abs().min(), rows["mean"].abs().max())})
        words.append(f"by {' to '.join(sizes)} points")
    others = part.loc[part["finding"] != main, "finding"].value_counts()
    words += [f"{BRIEFLY[finding]} in {k}" for finding, k in others.items()]
    return f" ({', '.join(words)})" if words else ""
