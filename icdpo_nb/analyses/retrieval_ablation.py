"""What retrieval adds (Table 3): ICDPO with the demonstrations of several retrievers, and how near these are to the prompt."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..algorithm import select
from ..baselines import one_at_random, one_sample
from ..data.preferences import Preference, PreferenceSet, domains_of
from ..models.encoder import Embedder
from ..protocol import Protocol
from ..retrieval.retrievers import Tokenize, by_domain
from .comparison import Tables

RETRIEVERS = ("random", "BM25", "SBERT", "R")


def retrieval_picks(tables: Tables, lm: str, source: str) -> dict[str, pd.DataFrame]:
    """The response of each method of Table 3, and of SBERT alone, for one model and source: a table with one row a prompt."""
    random = tables[lm, source, "random"]
    retrieved = {f"ICDPO + {kind}": tables[lm, source, kind] for kind in reversed(RETRIEVERS[1:])}
    return {
        **{method: select(table, "S") for method, table in retrieved.items()},
        "ICDPO": select(random, "S"),
        "ICL": one_at_random(random),
        "ICL_uni": one_sample(random),
    }


def demonstration_similarity(tables: Tables, data: Mapping[str, PreferenceSet], embed: Embedder) -> pd.DataFrame:
    """How near the demonstrations are to their prompt: mean cosine of sentence embeddings.

    Columns lm, source, method (the retriever), domain, prompt_id, similarity.
    """
    parts = []
    for (lm, source, kind), table in tables.items():
        if source == "none":
            continue
        rows = table.drop_duplicates("prompt_id")
        text = {d.prompt_id: d.prompt for d in data[source].support}
        found = [_near(embed, x, [text[i] for i in ids]) for x, ids in zip(rows["prompt"], rows["demo_ids"], strict=True)]
        parts.append(rows[["domain", "prompt_id"]].assign(lm=lm, source=source, method=kind, similarity=found))
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


def gain_and_similarity(per_prompt: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """What R gains on each prompt over random demonstrations, beside how near its demonstrations are.

    Columns lm, source, domain, prompt_id, gain (reward of ICDPO + R minus ICDPO), similarity.
    """
    keys = ["lm", "source", "domain", "prompt_id"]
    wide = per_prompt.pivot(index=keys, columns="method", values="reward").reset_index()
    gain = wide.assign(gain=wide["ICDPO + R"] - wide["ICDPO"])[[*keys, "gain"]]
    return similarity[similarity["method"] == "R"][[*keys, "similarity"]].merge(gain, on=keys)  # in the order of the runs


def _near(embed: Embedder, prompt: str, others: Sequence[str]) -> float:
    return float(np.mean(embed(others) @ embed([prompt])[0])) if others else float("nan")
