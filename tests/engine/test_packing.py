"""Packing by hand: batches of rows of similar lengths."""

import numpy as np

from icdpo_nb.engine.invariance import up
from icdpo_nb.engine.packing import BAND, equal_batches, fitting, padded


def first_batch(contexts, responses, batch_tokens):
    """The indices of the first batch of rows with these lengths."""
    rows = [*zip(contexts, responses, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: padded(rows[i]), reverse=True)
    return order[: fitting([rows[i] for i in order], batch_tokens)]


def test_equal_batches_by_hand():
    lengths = [BAND + 1, 3, 2 * BAND, BAND, 5, 2 * BAND + 1]
    assert equal_batches(lengths, 2 * BAND) == [[5], [2], [0], [3, 4], [1]]
    assert equal_batches(lengths, 100 * BAND) == [[5], [2, 0], [3, 4, 1]]
    assert equal_batches([3 * BAND, 1], 2 * BAND) == [[0], [1]], "a row that is too long is a batch of its own"
    assert equal_batches([], 9) == []


def test_the_first_batch_by_hand():
    contexts, responses = [3 * BAND, 3 * BAND - 9, 3 * BAND - 5, BAND, 3 * BAND], [40, 70, 65, 70, 90]
    width = (3 + 3) * BAND
    assert first_batch(contexts, responses, 2 * width) == [1, 2], "of the longest contexts, those with the longest responses"
    assert first_batch(contexts, responses, 3 * width - 1) == [1, 2]
    assert first_batch(contexts, responses, 3 * width) == [1, 2, 4]
    assert first_batch(contexts, responses, 100 * width) == [1, 2, 4], "the others are padded to other lengths"
    assert first_batch(contexts, responses, 1) == [1]


def test_batches_keep_to_their_tokens_and_have_little_padding():
    rng = np.random.default_rng(0)
    contexts, responses = rng.integers(200, 700, 400), rng.integers(5, 300, 400)
    left, batches = [*range(400)], []
    while left:
        batch = [left[k] for k in first_batch(contexts[left], responses[left], 4000)]
        batches.append(batch)
        left = [i for i in left if i not in batch]
    padded = [len(b) * (up(contexts[b].max(), BAND) + up(responses[b].max(), BAND)) for b in batches]
    assert sorted(sum(batches, [])) == [*range(400)]
    assert all(up(rows[b].min(), BAND) == up(rows[b].max(), BAND) for b in batches for rows in (contexts, responses))
    assert max(padded) <= 4000
    assert sum(padded) < 1.1 * (contexts + responses).sum()
