"""Small parts that several tests build with: an encoder, a retriever, a reward, a candidates table."""

import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest


class TinyEmbedder:
    """Unit vectors of letter counts, and a count of how often each text was embedded."""

    name = fingerprint = "letters"

    def __init__(self):
        self.calls: list[str] = []
        self.known: dict[str, np.ndarray] = {}

    def __call__(self, texts):
        for t in dict.fromkeys(texts):
            if t not in self.known:
                self.calls.append(t)
                v = np.array([t.lower().count(c) + 1e-3 for c in "abcdefghijklmnopqrstuvwxyz"])
                self.known[t] = v / np.linalg.norm(v)
        return np.stack([self.known[t] for t in texts])

    def keep(self, texts):
        self(texts)


class Fixed:
    """A retriever that always returns the same demonstrations."""

    def __init__(self, demos):
        self.support = tuple(demos)

    def retrieve(self, prompts, k):
        return [list(self.support[:k]) for _ in prompts]


class Length:
    """A reward that is the length of the response; counts what it scores."""

    name, note, fingerprint = "length", "A test's reward.", "0"

    def __init__(self):
        self.scored = []

    def score(self, prompts, responses):
        self.scored += zip(prompts, responses, strict=True)
        return np.array([float(len(y)) for y in responses])


def made(rewards, s, s_hat) -> pd.DataFrame:
    """Two prompts with candidates of these rewards and scores."""
    rows = [
        {
            "prompt_id": p,
            "domain": "all",
            "candidate_id": j,
            "response": f"{p}{j}",
            "reward": rewards[i][j],
            "S": s[i][j],
            "S_hat": s_hat[i][j],
        }
        for i, p in enumerate("pq")
        for j in range(len(rewards[i]))
    ]
    return pd.DataFrame(rows)


@contextmanager
def two_workers(module: str):
    """Two workers on this machine, to which what a test module has is sent as it is: they cannot import that module."""
    from icdpo_nb.models.workers import Workers

    cloudpickle = pytest.importorskip("ray").cloudpickle
    cloudpickle.register_pickle_by_value(sys.modules[module])
    made = Workers(2)
    try:
        yield made
    finally:
        made.close()
