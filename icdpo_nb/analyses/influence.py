"""Leave-one-out influence of a demonstration on S and on the choice."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..data.preferences import Preference
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever
from ..scoring import is_empty, score
from ..statistics.intervals import mean_ci
from ..templates import contexts


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
    rows = []
    for p in prompts:
        demos = retrievers[p.domain].retrieve([p.prompt], protocol.n_demos)[0]
        whole = contexts(demos, p.prompt, protocol)
        responses = lm.sample([whole["icl"]], protocol.n_candidates, protocol, seed)[0]
        without = [contexts([d for j, d in enumerate(demos) if j != i], p.prompt, protocol)["icl"] for i in range(len(demos))]
        scored = lm.logprobs([whole["base"], whole["icl"], *without], [responses] * (2 + len(demos)))
        sums = [np.array([y.sum(dtype=np.float64) for y in row]) for row in scored]
        n_tokens, empty = np.array([len(y.token_ids) for y in responses]), is_empty(y.text for y in responses)

        def of(icl: np.ndarray, base: np.ndarray = sums[0], n_tokens: np.ndarray = n_tokens, empty: np.ndarray = empty):
            return score("S", {"base": base, "icl": icl}, n_tokens, protocol.reduction, empty=empty)

        s = of(sums[1])
        for i, d in enumerate(demos):
            left = of(sums[2 + i])
            difference = (s - left)[~empty]
            rows.append({
                "domain": p.domain, "prompt_id": p.prompt_id, "demo_id": d.prompt_id, "demonstration": d.prompt,
                "position": i + 1 if protocol.most_similar_last else len(demos) - i,
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
