"""Agreement of scorers with a judge on candidates (section 4.2, Figure 3), and with the labels of preference pairs.

A scorer assigns a number to each candidate of a prompt: S, Ŝ and π* from the candidates table, or any reward (`rewards.py`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..algorithm import CONTEXTS
from ..data.preferences import Preference
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever
from ..scoring import SCORES, is_empty, score
from ..statistics.intervals import Estimate, mean_ci
from ..templates import contexts

SCORERS = {  # column of the candidates table -> its name in reports
    "ICL": "ICL (π* alone)",
    "S": "ICDPO (S)",
    "S_hat": "ICDPO + Ŝ",
    "teacher": "teacher LM",
    "rm": "reward model",
    "neighbours": "annotated neighbours",
}


def reciprocal_rank(chooser: np.ndarray, order: np.ndarray) -> float:
    """Reciprocal rank in `order` of the item that `chooser` ranks first; both have shape (n,), and larger is better.

    Tied items receive the mean reciprocal rank of their positions, so that an uninformative chooser attains `chance_mrr(n)` on
    average regardless of ties.

    >>> reciprocal_rank(np.array([0.1, 0.9, 0.5]), np.array([3, 2, 1]))
    0.5
    """
    reciprocal = 1 / np.arange(1, len(order) + 1)
    descending = np.sort(order)[::-1]
    by_item = np.array([reciprocal[descending == value].mean() for value in order])
    return float(by_item[chooser == chooser.max()].mean())


def chance_mrr(n: int) -> float:
    """Expected reciprocal rank of a random choice among n: (1 + 1/2 + … + 1/n) / n, which is 0.611 for n = 3."""
    return float((1 / np.arange(1, n + 1)).mean())


def rank_agreement(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's τ-b of two rankings; 0 if all items of one ranking are tied.

    Matches scipy.stats.kendalltau, which would take a millisecond per prompt.
    """
    a, b = ((v[:, None] > v).astype(int) - (v[:, None] < v) for v in (x, y))
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale else 0.0


MEASURES = {
    "mrr": "MRR: rank of the scorer's choice in the judge's order",
    "mrr_best": "MRR: rank the scorer gives to the judge's best",
    "tau": "Kendall's τ",
}


def consistency_mrr(candidates: pd.DataFrame, truth: str = "reward") -> pd.DataFrame:
    """Every measure of agreement for every scorer on every prompt.

    Returns columns lm, source (the retriever), method (the scorer), domain, prompt_id, and one for each of `MEASURES`.
    `candidates`: the output of `sampling.sample_candidates` for one source, with a column for each scorer. `truth`: the column
    of the judge.
    """
    rows = []
    for (lm, retriever, domain, prompt_id), part in candidates.groupby(["lm", "retriever", "domain", "prompt_id"], sort=False):
        judge = part[truth].to_numpy(float)
        for column, name in SCORERS.items():
            scores = part[column].to_numpy(float)
            measures = (reciprocal_rank(scores, judge), reciprocal_rank(judge, scores), rank_agreement(scores, judge))
            rows.append((lm, retriever, name, domain, prompt_id, *measures))
    return pd.DataFrame(rows, columns=["lm", "source", "method", "domain", "prompt_id", *MEASURES])


def pair_scores(
    prompts: Sequence[Preference], retrievers: Mapping[str, Retriever], lm: LanguageModel, protocol: Protocol
) -> pd.DataFrame:
    """S, Ŝ and π* of the chosen and rejected responses of the data: columns prompt_id, domain, side, S, S_hat, ICL."""
    demos = [retrievers[p.domain].retrieve([p.prompt], protocol.n_demos)[0] for p in prompts]
    texts = [contexts(ds, p.prompt, protocol, lm.render) for ds, p in zip(demos, prompts, strict=True)]
    pairs = [[lm.encode_response(y, protocol) for y in (p.chosen, p.rejected)] for p in prompts]
    n_tokens = np.array([[len(y.token_ids) for y in ys] for ys in pairs])
    logp = {}  # context -> (prompts, 2)
    for context in CONTEXTS:
        token_logps = lm.logprobs([t[context] for t in texts], pairs)
        logp[context] = np.array([[v.sum() for v in row] for row in token_logps])
    ids = {"prompt_id": [p.prompt_id for p in prompts], "domain": [p.domain for p in prompts]}
    sides = []
    for j, side in enumerate(("chosen", "rejected")):
        side_logp = {context: values[:, j] for context, values in logp.items()}
        empty = is_empty(getattr(p, side) for p in prompts)
        scores = {s: score(s, side_logp, n_tokens[:, j], protocol.reduction, empty=empty) for s in SCORES}
        sides.append(pd.DataFrame(ids | {"side": side} | scores))
    return pd.concat(sides, ignore_index=True)


def pair_accuracy(pairs: pd.DataFrame, name: str, seed: int = 0) -> Estimate:
    """Share of pairs whose chosen response has the higher score `name` (S, S_hat or ICL); ties count one half."""
    wide = pairs.pivot(index="prompt_id", columns="side", values=name)
    return mean_ci([(np.sign(wide["chosen"] - wide["rejected"]).to_numpy() + 1) / 2], seed=seed, bounds=(0, 1))


def consistency_sentence(means: pd.DataFrame, chance: float) -> str:
    """The number of experiments (model and retriever) in which the MRR of each scorer lies above chance, and below."""
    n = means.groupby(["lm", "source"], sort=False).ngroups
    counts = []
    for method, part in means.groupby("method", sort=False):
        above, below = int((part["low"] > chance).sum()), int((part["high"] < chance).sum())
        counts.append(f"{method} in {above}" + (f" (below in {below})" if below else ""))
    return f"Of {n} experiment{'s' if n > 1 else ''}, the MRR lies above chance ({chance:.3f}) for {', '.join(counts)}."
