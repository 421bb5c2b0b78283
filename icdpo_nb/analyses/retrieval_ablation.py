"""What retrieval adds (Table 3): ICDPO with the demonstrations of several retrievers, and how near these are to the prompt."""

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
METHODS = {  # of Table 3, and SBERT alone
    "ICDPO + R": Method("S", "R"),
    "ICDPO + SBERT": Method("S", "SBERT"),
    "ICDPO + BM25": Method("S", "BM25"),
    "ICDPO": Method("S", "random"),
    "ICL": Method("random", "random"),
    "ICL_uni": Method("first", "random"),
}


def demonstration_similarity(candidates: pd.DataFrame, data: Mapping[str, PreferenceSet], embed: Embedder) -> pd.DataFrame:
    """How near the demonstrations are to their prompt: mean cosine of sentence embeddings.

    Columns lm, source, method (the retriever), domain, prompt_id, similarity.
    """
    parts = []
    shown = candidates[candidates["retriever"] != NONE]
    for (lm, source, retriever), table in shown.groupby(["lm", "source", "retriever"], sort=False):
        rows = table.drop_duplicates("prompt_id")
        text = {d.prompt_id: d.prompt for d in data[source].support}
        found = [_near(embed, x, [text[i] for i in ids]) for x, ids in zip(rows["prompt"], rows["demo_ids"], strict=True)]
        parts.append(rows[["domain", "prompt_id"]].assign(lm=lm, source=source, method=retriever, similarity=found))
    return pd.concat(parts, ignore_index=True)


def window_similarity(
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    embed: Embedder,
    tokenize: Tokenize,
    protocol: Protocol,
    windows: Sequence[int],
) -> pd.DataFrame:
    """The same for BM25 on the last L tokens of a prompt (Eq. 12), for several windows L; nothing is sampled.

    Columns as in `demonstration_similarity`; lm is empty and method "L = 30" and so on.
    """
    rows = []
    for source, preferences in data.items():
        for window in windows:
            changed = protocol.but(bm25_window=window)
            retrievers = by_domain("BM25", preferences.support, domains_of(prompts), changed, tokenize=tokenize)
            for domain, retriever in retrievers.items():
                here = [p for p in prompts if p.domain == domain]
                found = retriever.retrieve([p.prompt for p in here], protocol.n_demos)
                near = [_near(embed, p.prompt, [d.prompt for d in demos]) for p, demos in zip(here, found, strict=True)]
                names = ("", source, f"L = {window}", domain)
                rows += [(*names, p.prompt_id, value) for p, value in zip(here, near, strict=True)]
    return pd.DataFrame(rows, columns=["lm", "source", "method", "domain", "prompt_id", "similarity"])


def gain_and_similarity(chosen: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """What R gains on each prompt over random demonstrations, beside how near its demonstrations are.

    Columns lm, source, domain, prompt_id, gain (reward of ICDPO + R minus ICDPO), similarity.
    """
    keys = ["lm", "source", "domain", "prompt_id"]
    wide = chosen.pivot(index=keys, columns="method", values="reward").reset_index()
    gain = wide.assign(gain=wide["ICDPO + R"] - wide["ICDPO"])[[*keys, "gain"]]
    return similarity[similarity["method"] == "R"][[*keys, "similarity"]].merge(gain, on=keys)  # in the order of the runs


def _near(embed: Embedder, prompt: str, others: Sequence[str]) -> float:
    return float(np.mean(embed(others) @ embed([prompt])[0])) if others else float("nan")
