"""A server that is no part of the tests: `ICDPO_TEST_SERVER=http://host:8000/v1` names one that serves SmolLM2 in float32."""

import os

import numpy as np
import pytest

from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED

URL = os.environ.get("ICDPO_TEST_SERVER")
pytestmark = pytest.mark.skipif(not URL, reason="no ICDPO_TEST_SERVER")
CONTEXTS = ["Human: Name three ferns.\n\nAssistant:", "Human: How do I boil an egg?\n\nAssistant:"]
NEAR = 1e-3  # nats between two implementations in float32


def test_samples_and_scores_are_those_of_the_model():
    served, here = load_lm(f"{URL}##smollm2"), load_lm("smollm2")
    sampled = served.sample(CONTEXTS, 12, RECOMMENDED.but(max_new_tokens=48, temperature=1.5))
    assert all(y.token_ids for ys in sampled for y in ys)
    for contexts, rescore in ((CONTEXTS, False), (CONTEXTS, True), (CONTEXTS[::-1], False)):
        there, expected = (lm.logprobs(contexts, sampled, rescore=rescore or lm is here) for lm in (served, here))
        for row, other in zip(there, expected, strict=True):
            for values, ours in zip(row, other, strict=True):
                np.testing.assert_allclose(values, ours, atol=NEAR)
