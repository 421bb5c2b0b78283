"""Drafts: guesses of a response's next tokens, which one decoding step checks together.

A step reads all weights and all keys however few tokens it computes, so it computes the last token of a response and drafts
of those that follow (speculative decoding, arXiv:2211.17192, with drafts from n-grams instead of a second model). The random
numbers of a response are given for each place, so a token depends on those before it alone, and a draft is either that
token or wrong. Drafts depend on other responses, and change the shape of a step: only where this changes no bit of the results
(`Engine.invariant`) are there any.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDERS = (3, 1)  # tokens of the n-grams; what followed the longest known one is the guess
LONGEST = max(ORDERS)
MOST = 8  # drafts for each response
KEPT = 2**18  # n-grams: some 50 MB
STREAK = 3  # n-grams with longer streaks count as one kind
# What a step costs on a CPU besides its tokens: a pass as much as so many tokens, and reading the keys of a row as much as
# the attention of so many tokens to them.
PASS, READ = 20, 10


class DraftModel:
    """What has followed each n-gram of the contexts and responses of one call, and how often such guesses were right.

    An n-gram's streak is how often in a row it was followed by the same token again. Guesses from n-grams of the same order
    and streak count as one kind, of which a share was right.
    """

    def __init__(self):
        self.followers: dict[tuple[int, ...], tuple[int, int]] = {}  # the latest follower of an n-gram, and the streak
        self.right: Counter = Counter()
        self.made: Counter = Counter()

    def read(self, ids: Sequence[int]) -> None:
        """Learn what follows the n-grams of a context."""
        for end in range(1, len(ids)):
            self._learn(ids, end)

    def follow(self, ids: Sequence[int], new: int) -> None:
        """Learn from the last `new` tokens of a response, and which of them were guessed."""
        for end in range(len(ids) - new, len(ids)):
            token, kind = self._next(ids, end)
            self.made[kind] += 1
            self.right[kind] += token == ids[end]
            self._learn(ids, end)

    def guess(self, ids: Sequence[int], most: int) -> list[tuple[float, int]]:
        """At most `most` tokens that may follow `ids`, each with the chance that it is right and all before it are."""
        known, guesses, chance = list(ids), [], 1.0
        while len(guesses) < most:
            token, kind = self._next(known, len(known))
            if token is None:
                break
            chance *= (self.right[kind] + 1) / (self.made[kind] + 4)  # begins with a fourth
            guesses.append((chance, token))
            known.append(token)
        return guesses

    def _learn(self, ids: Sequence[int], end: int) -> None:
        if len(self.followers) > KEPT:
            self.followers.clear()
        for order in ORDERS:
            if order <= end:
                ngram = tuple(ids[end - order : end])
                before, streak = self.followers.get(ngram, (None, 0))
                self.followers[ngram] = ids[end], min(streak + 1, STREAK) if before == ids[end] else 0

    def _next(self, ids: Sequence[int], end: int) -> tuple[int | None, tuple[int, int]]:
        """What followed the longest known n-gram before the token at `end`, and the kind of this guess: order and streak."""
        for order in ORDERS:
            if order <= end and (known := self.followers.get(tuple(ids[end - order : end]))):
                return known[0], (order, known[1])
        return None, (0, 0)


def best_drafts(live: Sequence[int], chances: Sequence[Sequence[float]], attention: float) -> list[int]:
    """The number of drafts of each row with which a step yields most tokens for its cost.

    Row k computes `live[k]` tokens in any case, and may compute drafts that are right with `chances[k]`, in descending
    order. In attention every row has as many cells as the one with most tokens has tokens, and a cell costs `attention` tokens.
    """
    n, least, certain = len(live), max(live), sum(live)
    grid = np.zeros((n, max(first + len(each) for first, each in zip(live, chances, strict=True))))
    for row, first, each in zip(grid, live, chances, strict=True):
        row[first : first + len(each)] = each
    rate, before = 0.0, -1.0
    while rate > before:  # Dinkelbach's method: most of yield - rate * cost has a higher rate, up to the highest
        worth = np.maximum(grid - rate, 0).sum(0) - rate * attention * n
        cells = least + int(np.cumsum([0.0, *worth[least:]]).argmax())
        taken = np.where(grid[:, :cells] > rate, grid[:, :cells], 0)
        cost = PASS + certain + np.count_nonzero(taken) + attention * n * (READ + cells)
        before, rate = rate, (certain + taken.sum()) / cost
    return np.count_nonzero(taken, axis=1).tolist()
