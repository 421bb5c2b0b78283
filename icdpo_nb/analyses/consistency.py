"""How well scorers rank candidates as a judge does (section 4.2, Figure 3), and labelled pairs as their labels do.

A scorer gives each candidate of a prompt a number: S, Ŝ and π* from the candidates table, and any reward (see `rewards.py`).
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
    """1 / the rank in `order` of the item that `chooser` puts first; both shape (n,), the largest is the best.

    Equal items share the mean of the reciprocal ranks of their places, so a chooser without knowledge gives `chance_mrr(n)`
    on average, whatever the ties.

    >>> reciprocal_rank(np.array([0.1, 0.9, 0.5]), np.array([3, 2, 1]))
    0.5
    """
    places = 1 / np.arange(1, len(order) + 1)
    descending = np.sort(order)[::-1]
    share = np.array([places[descending == value].mean() for value in order])
    return float(share[chooser == chooser.max()].mean())


def chance_mrr(n: int) -> float:
    """Mean reciprocal rank of a random choice among n: (1 + 1/2 + … + 1/n) / n, 0.611 for n = 3."""
    return float((1 / np.arange(1, n + 1)).mean())


def rank_agreement(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's τ-b of two rankings; 0 where one of them puts all items level, which says nothing.

    Matches scipy.stats.kendalltau, which takes a millisecond for each prompt.
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
    """Every measure for every scorer on every prompt: columns lm, source (the retriever), method (the scorer), domain,
    prompt_id, and one for each of `MEASURES`.

    `candidates`: as from `sampling.sample_candidates`, of one source, with a column for each scorer. `truth`: the column of the
    judge.
    """
    rows = []
    for (lm, retriever, domain, prompt_id), part in candidates.groupby(["lm", "retriever", "domain", "prompt_id"], sort=False):
        judge = part[truth].to_numpy(float)
        for column, name in SCORERS.items():
            x = part[column].to_numpy(float)
            measured = (reciprocal_rank(x, judge), reciprocal_rank(judge, x), rank_agreement(x, judge))
            rows.append((lm, retriever, name, domain, prompt_id, *measured))
    return pd.DataFrame(rows, columns=["lm", "source", "method", "domain", "prompt_id", *MEASURES])


def pair_scores(
    prompts: Sequence[Preference], retrievers: Mapping[str, Retriever], lm: LanguageModel, protocol: Protocol
) -> pd.DataFrame:
    """S, Ŝ and π* of the data's own chosen and rejected responses: columns prompt_id, domain, side, S, S_hat, ICL."""
    demos = [retrievers[p.domain].retrieve([p.prompt], protocol.n_demos)[0] for p in prompts]
    texts = [contexts(ds, p.prompt, protocol) for ds, p in zip(demos, prompts, strict=True)]
    pairs = [[lm.encode_response(y, protocol) for y in (p.chosen, p.rejected)] for p in prompts]
    n_tokens = np.array([[len(y.token_ids) for y in ys] for ys in pairs])
    logp = {c: np.array([[v.sum() for v in row] for row in lm.logprobs([t[c] for t in texts], pairs)]) for c in CONTEXTS}
    sides = []
    for j, side in enumerate(("chosen", "rejected")):
        given, empty = {c: v[:, j] for c, v in logp.items()}, is_empty(getattr(p, side) for p in prompts)
        values = {s: score(s, given, n_tokens[:, j], protocol.reduction, empty=empty) for s in SCORES}
        ids = {"prompt_id": [p.prompt_id for p in prompts], "domain": [p.domain for p in prompts], "side": side}
        sides.append(pd.DataFrame(ids | values))
    return pd.concat(sides, ignore_index=True)


def pair_accuracy(pairs: pd.DataFrame, name: str, seed: int = 0) -> Estimate:
    """Share of pairs whose chosen response scores higher under `name` (S, S_hat or ICL); equal scores count half."""
    wide = pairs.pivot(index="prompt_id", columns="side", values=name)
    return mean_ci([(np.sign(wide["chosen"] - wide["rejected"]).to_numpy() + 1) / 2], seed=seed, bounds=(0, 1))


def consistency_sentence(means: pd.DataFrame, chance: float) -> str:
    """In how many experiments (a model and a retriever each) each scorer's MRR lies above chance, and in how many below."""
    of = means.groupby(["lm", "source"], sort=False).ngroups
    said = []
    for method, part in means.groupby("method", sort=False):
        above, below = int((part["low"] > chance).sum()), int((part["high"] < chance).sum())
        said.append(f"{method} in {above}" + (f" (below it in {below})" if below else ""))
    return f"MRR lies above chance ({chance:.3f}), of {of} experiment{'s' if of > 1 else ''}: {', '.join(said)}."
