"""The effect of retrieval (Table 3): ICDPO with several retrievers, and the similarity of demonstrations and prompt."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..data.preferences import Preference, PreferenceSet, domains_of
from ..models.encoder import Embedder
from ..protocol import Protocol
from ..retrieval.retrievers import Tokenize, by_domain
from .comparison import Method
from .sampling import NONE

RETRIEVERS = ("random", "BM25", "SBERT", "R")
METHODS = {  # those of Table 3, plus SBERT alone
    "ICDPO + R": Method("S", "R"),
    "ICDPO + SBERT": Method("S", "SBERT"),
    "ICDPO + BM25": Method("S", "BM25"),
    "ICDPO": Method("S", "random"),
    "ICL": Method("random", "random"),
    "ICL_uni": Method("first", "random"),
}


def demonstration_similarity(candidates: pd.DataFrame, data: Mapping[str, PreferenceSet], embed: Embedder) -> pd.DataFrame:
    """Similarity of the demonstrations to their prompt: mean cosine of sentence embeddings.

    Returns columns lm, source, method (the retriever), domain, prompt_id, similarity.
    """
    parts = []
    shown = candidates[candidates["retriever"] != NONE]
    for (lm, source, retriever), table in shown.groupby(["lm", "source", "retriever"], sort=False):
        rows = table.drop_duplicates("prompt_id")
        text = {d.prompt_id: d.prompt for d in data[source].support}
        demos = [[text[i] for i in ids] for ids in rows["demo_ids"]]
        similarity = [_mean_cosine(embed, x, others) for x, others in zip(rows["prompt"], demos, strict=True)]
        parts.append(rows[["domain", "prompt_id"]].assign(lm=lm, source=source, method=retriever, similarity=similarity))
    return pd.concat(parts, ignore_index=True)


def window_similarity(
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    embed: Embedder,
    tokenize: Tokenize,
    protocol: Protocol,
    windows: Sequence[int],
) -> pd.DataFrame:
    """Similarity of the demonstrations that BM25 retrieves by the last L tokens of a prompt (Eq. 12), for several windows L.

    Nothing is sampled. Returns the columns of `demonstration_similarity`, with an empty lm and methods such as "L = 30".
    """
    rows = []
    for source, preferences in data.items():
        for window in windows:
            changed = protocol.but(bm25_window=window)
            retrievers = by_domain("BM25", preferences.support, domains_of(prompts), changed, tokenize=tokenize)
            for domain, retriever in retrievers.items():
                asked = [p for p in prompts if p.domain == domain]
                retrieved = retriever.retrieve([p.prompt for p in asked], protocol.n_demos)
                for p, demos in zip(asked, retrieved, strict=True):
                    similarity = _mean_cosine(embed, p.prompt, [d.prompt for d in demos])
                    rows.append(("", source, f"L = {window}", domain, p.prompt_id, similarity))
    return pd.DataFrame(rows, columns=["lm", "source", "method", "domain", "prompt_id", "similarity"])


def gain_and_similarity(chosen: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """The gain of R over random demonstrations on each prompt, and the similarity of R's demonstrations to the prompt.

    Returns columns lm, source, domain, prompt_id, gain (reward of ICDPO + R minus ICDPO), similarity.
    """
    keys = ["lm", "source", "domain", "prompt_id"]
    wide = chosen.pivot(index=keys, columns="method", values="reward").reset_index()
    gain = wide.assign(gain=wide["ICDPO + R"] - wide["ICDPO"])[[*keys, "gain"]]
    return similarity[similarity["method"] == "R"][[*keys, "similarity"]].merge(gain, on=keys)


def _mean_cosine(embed: Embedder, prompt: str, others: Sequence[str]) -> float:
    return float(np.mean(embed(others) @ embed([prompt])[0])) if others else float("nan")
