"""The notes of a rehearsal: what each call of a model, an encoder, a reward or a judge will cost.

They are lines of JSON in the file that ICDPO_REHEARSAL names, one a call.
"""

import json
import os
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from .pace import Passes

REHEARSAL = "ICDPO_REHEARSAL"  # set for a rehearsal: the file of its notes


class Beside(NamedTuple):
    """What runs side by side with others of its group, so many at a time."""

    group: int
    at_a_time: int
    name: str


BESIDE: ContextVar[Beside | None] = ContextVar("beside", default=None)  # set in each thread of those that run side by side


@dataclass(frozen=True)
class Note:
    """What a call will cost, and what it cost in the rehearsal."""

    stage: str  # sampling, scoring, embedding or rewards
    part: str  # the name of the model
    items: int
    tokens: int  # exact, but for the lengths of responses that are not sampled yet
    sampled: int  # of these, those of responses
    spent: float  # in the rehearsal
    beside: Beside | None  # None: nothing ran side by side with it
    seconds: float = 0.0  # forecast for an encoder or a reward
    work: Passes = Passes()  # of a language model
    measured: tuple[tuple[Passes, float], ...] = ()  # calls with a few of the items, and their seconds
    longest: int = 0  # tokens of the longest context
    n: int = 0  # responses to each context
    limit: int = 0  # their largest number of tokens
    money: float = 0.0  # at most, in the currency of the judge's prices
    described: str = ""  # for a model without weights, its task: CausalLM or SequenceClassification


def rehearsing() -> bool:
    """Whether this process rehearses."""
    return REHEARSAL in os.environ


def write_note(**values) -> None:
    """Add a line to the notes."""
    line = json.dumps(asdict(Note(beside=BESIDE.get(), **values))) + "\n"
    with open(os.environ[REHEARSAL], "a", encoding="utf-8") as file:
        file.write(line)


def read_notes(path: Path) -> list[Note]:
    """The notes of a rehearsal, in order."""
    if not path.exists():
        return []
    return [_read(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _read(beside: list | None, work: dict, measured: list, **values) -> Note:
    calls = tuple((Passes(**done), seconds) for done, seconds in measured)
    return Note(beside=Beside(*beside) if beside else None, work=Passes(**work), measured=calls, **values)
