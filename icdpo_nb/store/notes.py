"""The notes of a rehearsal: what each call of a model, an encoder, a reward or a judge will cost.

They are lines of JSON in the file that ICDPO_REHEARSAL names, one a call.
"""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

REHEARSAL = "ICDPO_REHEARSAL"  # set for a rehearsal: the file of its notes


@dataclass(frozen=True)
class Note:
    """What a call will cost, and what it cost in the rehearsal."""

    stage: str  # sampling, scoring, embedding or rewards
    part: str  # the name of the model
    items: int
    tokens: int  # exact, but for the lengths of responses that are not sampled yet
    sampled: int  # of these, those of responses
    seconds: float  # forecast; for a model without weights, 0
    spent: float  # in the rehearsal
    thread: int  # 0: the notebook's own
    began: float  # when, seconds since 1970
    context: int = 0  # tokens by kind, for a model whose time is forecast from them
    steps: int = 0
    decoded: int = 0
    scored: int = 0
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
    thread = 0 if threading.current_thread() is threading.main_thread() else threading.get_ident()
    line = json.dumps(asdict(Note(thread=thread, began=time.time() - values["spent"], **values))) + "\n"
    with open(os.environ[REHEARSAL], "a", encoding="utf-8") as file:
        file.write(line)


def read_notes(path: Path) -> list[Note]:
    """The notes of a rehearsal, in order."""
    if not path.exists():
        return []
    return [Note(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
