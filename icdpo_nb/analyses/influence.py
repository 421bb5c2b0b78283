"""Leave-one-out influence of a demonstration on S and on the choice."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..algorithm import retrieve
from ..data.preferences import Preference
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever
from ..scoring import is_empty, score
from ..statistics.intervals import mean_ci
from ..templates import contexts, icl_context


def influence(
    prompts: Sequence[Preference],
    retrievers: Mapping[str, Retriever],
    lm: LanguageModel,
    protocol: Protocol,
    seed: int = 0,
) -> pd.DataFrame:
    """Leave-one-out influence: S of the same candidates when each demonstration in turn is taken out of the context.

    Columns: domain, prompt_id, position (1: next to the prompt), demo_id, demonstration (its prompt), shift (mean over the
    candidates of S minus S without it, nats), spread (standard deviation of this difference over the candidates, which is
    what can change the choice), and changed (1 if the choice of S differs, else 0).
    """
    demos = retrieve(prompts, retrievers, protocol.n_demos)
    whole = [contexts(ds, p.prompt, protocol, lm.render) for ds, p in zip(demos, prompts, strict=True)]
    sampled = lm.sample([c["icl"] for c in whole], protocol.n_candidates, protocol, seed)
    one_less = [
        [icl_context(ds[:i] + ds[i + 1 :], p.prompt, "chosen", protocol, lm.render) for i in range(len(ds))]
        for ds, p in zip(demos, prompts, strict=True)
    ]
    texts = [  # of each prompt: x, [d; x], and [d; x] without each demonstration
        [c["base"], c["icl"], *less] for c, less in zip(whole, one_less, strict=True)
    ]
    asked = [(text, ys) for own, ys in zip(texts, sampled, strict=True) for text in own]
    scored = iter(lm.logprobs([text for text, _ in asked], [ys for _, ys in asked]))
    rows = []
    for p, ds, own, ys in zip(prompts, demos, texts, sampled, strict=True):
        base, *icls = [np.array([y.sum(dtype=np.float64) for y in next(scored)]) for _ in own]
        n_tokens, empty = np.array([len(y.token_ids) for y in ys]), is_empty(y.text for y in ys)
        s, *without = [score("S", {"base": base, "icl": v}, n_tokens, protocol.reduction, empty=empty) for v in icls]
        for i, (d, left) in enumerate(zip(ds, without, strict=True)):
            difference = s[~empty] - left[~empty]
            rows.append({
                "domain": p.domain, "prompt_id": p.prompt_id, "demo_id": d.prompt_id, "demonstration": d.prompt,
                "position": i + 1 if protocol.most_similar_last else len(ds) - i,
                "shift": difference.mean() if len(difference) else 0.0,
                "spread": difference.std(ddof=1) if len(difference) > 1 else 0.0,
                "changed": float(np.argmax(s) != np.argmax(left)),
            })  # fmt: skip
    return pd.DataFrame(rows)


def influence_table(found: pd.DataFrame, totals: str = "macro", seed: int = 0) -> pd.DataFrame:
    """Means of `influence` by position: shift and spread in nats, and the share of prompts whose choice changes."""
    rows = []
    for position, part in found.sort_values("position").groupby("position"):
        groups = {name: [g.to_numpy() for _, g in part.groupby("domain")[name]] for name in ("shift", "spread", "changed")}
        bounds = {"changed": (0.0, 1.0)}
        cells = {name: str(mean_ci(values, totals, seed, bounds.get(name))) for name, values in groups.items()}
        rows.append({
            "position": f"{position}{' (next to the prompt)' if position == 1 else ''}",
            "mean change in S, nats": cells["shift"], "spread over candidates, nats": cells["spread"],
            "share of choices that change": cells["changed"], "prompts": len(part),
        })  # fmt: skip
    return pd.DataFrame(rows)
