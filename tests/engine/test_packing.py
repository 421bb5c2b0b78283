"""Packing by hand: batches of rows of similar lengths."""

import numpy as np

from icdpo_nb.engine.packing import BAND, by_length, fitting, token_batches


def first_batch(contexts, responses, batch_tokens):
    """The indices of the first batch of rows with these lengths."""
    rows = [*zip(contexts, responses, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: by_length(rows[i]))
    return order[: fitting([rows[i] for i in order], batch_tokens)]


def test_batches_by_hand():
    assert token_batches([5, 9, 8, 2], 18) == [[1, 2], [0, 3]]
    assert token_batches([30, 1], 18) == [[0], [1]], "a row that is too long is a batch of its own"


def test_the_first_batch_by_hand():
    contexts, responses = [3 * BAND, 3 * BAND + 9, 3 * BAND + 5, BAND], [7, 20, 21, 40]
    width = 3 * BAND + 9 + 21
    assert first_batch(contexts, responses, 2 * width) == [2, 1], "of the longest contexts, those with the longest responses"
    assert first_batch(contexts, responses, 3 * width) == [2, 1, 0]
    assert first_batch(contexts, responses, 4 * (width + 19)) == [2, 1, 0, 3], "the responses of the last are the longest"
    assert first_batch(contexts, responses, 4 * (width + 19) - 1) == [2, 1, 0]
    assert first_batch(contexts, responses, 1) == [2]


def test_batches_keep_to_their_tokens_and_have_little_padding():
    rng = np.random.default_rng(0)
    contexts, responses = rng.integers(200, 700, 400), rng.integers(5, 300, 400)
    left, batches = [*range(400)], []
    while left:
        batch = [left[k] for k in first_batch(contexts[left], responses[left], 4000)]
        batches.append(batch)
        left = [i for i in left if i not in batch]
    padded = [len(b) * (contexts[b].max() + responses[b].max()) for b in batches]
    assert sorted(sum(batches, [])) == [*range(400)]
    assert max(padded) <= 4000
    assert sum(padded) < 1.1 * (contexts + responses).sum()
