"""Rows of a pool: a context, the responses that are sampled from it, their drafts, and the columns of their tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .drafting import LONGEST, MOST, DraftModel
from .sampling import Sampled


@dataclass
class Row:
    """A context in the pool: its index, its token ids, and the responses sampled from it."""

    index: int
    context: Sequence[int]
    sampled: list[Sampled]

    def __post_init__(self):
        self.live = [*range(len(self.sampled))]  # unfinished responses
        self.drafts: list[list[int]] = [[] for _ in self.live]  # of the unfinished responses, in the last pass

    @property
    def used(self) -> int:
        """Columns of the slot up to the last one that the next step reads."""
        tokens = (len(self.sampled[j].ids) + len(draft) for j, draft in zip(self.live, self.drafts, strict=True))
        return len(self.context) + len(self.sampled) * max(tokens)

    def history(self, j: int, n: int = 0) -> list[int]:
        """The last n tokens of response j and those before them that a guess or the next one depends on."""
        return [*self.context[-LONGEST:], *self.sampled[j].ids[-LONGEST - n :]]

    def guesses(self, model: DraftModel, steps: int) -> list[tuple[float, int, int]]:
        """Guesses of the tokens that follow in the unfinished responses, the likeliest first.

        Each is the chance that it is right, the place of its response among the unfinished ones, and the token. Those of one
        response are in order, since each depends on those before it.
        """
        most = [min(MOST, steps - len(self.sampled[j].ids) - 1) for j in self.live]
        each = [model.guess(self.history(j), n) for j, n in zip(self.live, most, strict=True)]
        return sorted(((chance, k, token) for k, one in enumerate(each) for chance, token in one), key=lambda g: -g[0])

    def draft(self, guesses: Iterable[tuple[float, int, int]]) -> None:
        """Have the next step check these guesses."""
        self.drafts = [[] for _ in self.live]
        for _, k, token in guesses:
            self.drafts[k].append(token)

    def fed(self) -> Iterator[tuple[int, int, int, int]]:
        """Token, response, number of tokens before it, and column of each token that the next step computes.

        The responses take turns in the columns after the context. A token takes the place of a wrong draft, and wrong drafts
        further on are seen by no query before they are replaced, since their positions are later.
        """
        for j, draft in zip(self.live, self.drafts, strict=True):
            ids = self.sampled[j].ids
            for k, token in enumerate([ids[-1], *draft], len(ids) - 1):
                yield token, j, k, len(self.context) + k * len(self.sampled) + j
