"""A choice token by token: what each token adds to the score, and whether one part of the responses alone decided it.

S, Ŝ and log π* are sums over the tokens of a response (Eqs. 8 and 11), so each is attributed to single tokens exactly.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import regex
from tqdm.auto import tqdm

from ..algorithm import Selection, retrieve, selected
from ..data.preferences import Preference
from ..models.interface import LanguageModel
from ..protocol import RECOMMENDED, Protocol
from ..retrieval.retrievers import Retriever
from ..scoring import SCORES
from ..statistics.intervals import share_limits
from ..templates import contexts

CUT = "cut response"
ALARMS = {  # what is left out, and what it means that another response would then have been chosen
    "one token": "without its most favourable token, the chosen response loses",
    "first token": "without the first token of every response, another one wins",
    "end of text": "without the end-of-text token of every response, another one wins",
    "length": "the sum and the mean over tokens choose different responses",
    "truncation": "without the responses cut at the length limit, another one wins",
    CUT: "the chosen response was cut at the length limit",
}
CHARACTER = regex.compile(r"\X")  # what a reader sees as one: letters with their accents, emoji with their joiners
BOUNDARY = regex.compile(r"\b", flags=regex.V1 | regex.WORD)  # word boundaries of Unicode (UAX #29)


def selections(
    prompts: Sequence[Preference],
    retrievers: Mapping[str, Retriever],
    lm: LanguageModel,
    name: str = "S",
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> list[Selection]:
    """`icdpo()` on many prompts at once, with token log-probabilities; a stored model computes nothing that is in its store.

    `retrievers` maps each domain to its retriever, as in `candidates_table`, whose candidates and scores these are.
    """
    demos = retrieve(prompts, retrievers, protocol.n_demos)
    text = [contexts(d, p.prompt, protocol, lm.render) for d, p in zip(demos, prompts, strict=True)]
    bar = partial(tqdm, desc="tokens", leave=False)
    sampled = lm.sample([t["icl"] for t in text], protocol.n_candidates, protocol, seed, bar)
    cases = [(c, i) for i, t in enumerate(text) for c in t]
    values = lm.logprobs([text[i][c] for c, i in cases], [sampled[i] for _, i in cases], bar)
    logp = dict(zip(cases, values, strict=True))
    return [
        selected(p.prompt, demos[i], sampled[i], {c: logp[c, i] for c in text[i]}, lm, name, protocol)
        for i, p in enumerate(prompts)
    ]


def contributions(selection: Selection) -> list[np.ndarray]:
    """What each token of each candidate adds to the sum score, n arrays of shape (n_tokens,), nats."""
    return [
        SCORES[selection.name]({c: ys[j].astype(np.float64) for c, ys in selection.token_logp.items()})
        for j in range(len(selection.responses))
    ]


def token_table(selection: Selection) -> pd.DataFrame:
    """One row for each candidate and token, in the order of the text.

    Columns: candidate_id, position (from 0), token_id, text (joined, these are the decoded response; see `Tokens.pieces`),
    role ("first", "middle" or "eos"), logp_base, logp_icl, logp_icl_rejected (nats), contribution (nats; they sum to the
    score, also to a mean score, unless the response is empty and scores -inf), running (their running sum), character and
    word: the index of the smallest group of tokens that ends with a whole character, and of the word, that a token is
    part of.
    """
    tables = []
    for j, (y, values) in enumerate(zip(selection.responses, contributions(selection), strict=True)):
        ended = bool(y.token_ids) and y.token_ids[-1] in selection.lm.eos_ids
        pieces = selection.lm.pieces(y.token_ids[: len(y.token_ids) - ended])
        characters, words = groups(pieces)
        last = [max(group, default=-1) + 1 for group in (characters, words)]
        value = values / max(len(values), 1) if selection.protocol.reduction == "mean" else values
        n = len(values)
        tables.append(pd.DataFrame({
            "candidate_id": j, "position": range(n), "token_id": y.token_ids,
            "text": [*pieces, *[""] * ended], "role": roles(n, ended),
            **{f"logp_{c}": ys[j].astype(np.float64) for c, ys in selection.token_logp.items()},
            "contribution": value, "running": value.cumsum(),
            "character": [*characters, *last[:1] * ended], "word": [*words, *last[1:] * ended],
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def roles(n: int, ended: bool) -> list[str]:
    """The role of each of n tokens; `ended`: the last is a scored end-of-text token.

    >>> roles(3, True)
    ['first', 'middle', 'eos']
    """
    found = ["first", *["middle"] * (n - 1)][:n]
    return [*found[:-1], "eos"] if ended else found


def groups(pieces: Sequence[str]) -> tuple[list[int], list[int]]:
    """The characters and the words that tokens are part of, as an index for each token; both never decrease.

    Tokens are never split, so a group may hold several characters or words. The spaces before a word belong to it; line
    breaks do not. Words are those of Unicode (UAX #29), which takes each Chinese or Thai character as one.

    >>> groups([" do", "n't", " ca", "f", "", "é"])
    ([0, 1, 2, 3, 4, 4], [0, 0, 1, 1, 1, 1])
    """
    text = "".join(pieces)
    characters = {m.end() for m in CHARACTER.finditer(text)}
    words = {m.start() for m in BOUNDARY.finditer(text) if not _within(text, m.start())} & characters
    ids, end, current = [], 0, [0, 0]
    for piece in pieces:
        ids.append(tuple(current))
        end += len(piece)
        if piece and end in characters:
            current = [current[0] + 1, current[1] + (end in words)]
    return [c for c, _ in ids], [w for _, w in ids]


def _within(text: str, position: int) -> bool:
    """Whether a boundary lies between spaces and the word that they precede."""
    before, after = text[:position][-1:], text[position : position + 1]
    return before.isspace() and before not in "\r\n" and not after.isspace()


def alternatives(selection: Selection) -> dict[str, int]:
    """The candidate that would have been chosen, by the name of what is left out (`ALARMS`, without the cut response)."""
    values, best = contributions(selection), int(np.argmax(selection.scores))
    kept = np.isfinite(selection.scores)  # not empty

    def choice(values: Sequence[np.ndarray], reduction: str = selection.protocol.reduction, among: np.ndarray = kept) -> int:
        left = among & np.array([len(v) > 0 for v in values])  # what has no token left says nothing, as an empty response
        totals = [v.sum() / (max(len(v), 1) if reduction == "mean" else 1) for v in values]
        return int(np.argmax(np.where(left, totals, -np.inf))) if left.any() else best

    without = [np.delete(v, int(np.argmax(v))) if j == best and len(v) else v for j, v in enumerate(values)]
    ends = [bool(y.token_ids) and y.token_ids[-1] in selection.lm.eos_ids for y in selection.responses]
    whole = kept & np.array([y.finish != "length" for y in selection.responses])
    other = {"sum": "mean", "mean": "sum"}[selection.protocol.reduction]
    return {
        "one token": choice(without),
        "first token": choice([v[1:] for v in values]),
        "end of text": choice([v[: len(v) - end] for v, end in zip(values, ends, strict=True)]),
        "length": choice(values, other),
        "truncation": choice(values, among=whole),
    }


def alarms(selection: Selection) -> dict[str, bool]:
    """Which of `ALARMS` hold for a prompt. None holds unless two of its candidates are not empty: nothing was decided."""
    if np.isfinite(selection.scores).sum() < 2:
        return dict.fromkeys(ALARMS, False)
    best = int(np.argmax(selection.scores))
    found = {name: other != best for name, other in alternatives(selection).items()}
    return {**found, CUT: selection.best.finish == "length"}


def alarm_table(chosen: Sequence[Selection]) -> pd.DataFrame:
    """How often each alarm holds: columns alarm, meaning, prompts, share, low, high (exact 95 % limits), n.

    n counts the prompts with at least two candidates that are not empty. The last row counts those with any alarm.
    """
    decided = [s for s in chosen if np.isfinite(s.scores).sum() >= 2]
    held = pd.DataFrame([alarms(s) for s in decided], columns=list(ALARMS), dtype=bool)
    counts = {**held.sum().to_dict(), "any": int(held.any(axis=1).sum())}
    n = len(decided)
    rows = []
    for name, k in counts.items():
        low, high = share_limits(k, n) if n else (np.nan, np.nan)
        meaning = ALARMS.get(name, "at least one of these")
        share = k / n if n else np.nan
        rows.append({"alarm": name, "meaning": meaning, "prompts": k, "share": share, "low": low, "high": high, "n": n})
    return pd.DataFrame(rows)
