"""A teacher's responses to a set's prompts, as a column that everything else reads; so the paper made its two teacher sets.

The teacher answers each prompt alone, without demonstrations (section 3.1): in its chat template, or after `Assistant:`.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol as Interface

from ..common.errors import InputError
from ..common.files import digest, write_whole
from ..data.frames import read_rows
from ..data.pairs import Row, assigned_splits, parse_rows
from ..data.rows import messages, named_split
from ..data.teachers import column_of, record_file, records, teacher_column, write_records
from ..models.addresses import is_address
from ..models.conversation import ChatServer, Reply
from ..models.interface import NO_BAR
from ..models.licence import licence_of
from ..models.lm import load_lm
from ..protocol import Protocol, seed_of
from ..store.store import Store
from ..store.stored import stored
from ..templates import base_context

AT_A_TIME = 32  # prompts that are answered, and stored, together
SPLITS = ("support", "dev", "test")


class Teacher(Interface):
    """Answers prompts. What it answered is stored, so that an interrupted call goes on."""

    name: str
    revision: str
    fingerprint: str

    def answers(self, prompts: Sequence[str], progress: Callable = NO_BAR) -> list[Reply]:
        """A reply to each prompt ("Human: …")."""


class ModelTeacher:
    """A language model, here or behind a completion server, as a teacher."""

    def __init__(self, name: str, protocol: Protocol, seed: int = 0, store: Store | None = None):
        self.lm, self.protocol, self.seed = stored(load_lm(name), store=store), protocol, seed
        self.name, self.revision, self.fingerprint = self.lm.name, self.lm.revision, self.lm.fingerprint

    def answers(self, prompts: Sequence[str], progress: Callable = NO_BAR) -> list[Reply]:
        """One sampled response to each prompt."""
        contexts = [base_context(x, self.protocol, self.lm.render) for x in prompts]
        replies = []
        with progress(total=len(contexts)) as bar:
            for start in range(0, len(contexts), AT_A_TIME):
                sampled = self.lm.sample(contexts[start : start + AT_A_TIME], 1, self.protocol, self.seed)
                replies += [Reply(y.text, y.finish) for (y,) in sampled]
                bar.update(len(sampled))
        return replies


class ChatTeacher:
    """A chat model behind an endpoint as a teacher. Its server applies the chat template."""

    def __init__(self, name: str, protocol: Protocol, seed: int = 0, store: Store | None = None, **options):
        self.server, self.seed, self.store = ChatServer(name, **options), seed, store or Store()
        self.settings = {k: getattr(protocol, k) for k in ("max_new_tokens", "temperature", "top_p")}
        self.name, self.revision = name, self.server.revision
        self.identity = {"model": self.server.model, "host": self.server.endpoint.host, "seed": seed, **self.settings}
        self.fingerprint = digest(self.identity)

    def answers(self, prompts: Sequence[str], progress: Callable = NO_BAR) -> list[Reply]:
        """One reply to each prompt."""

        def run(indices: list[int]) -> list:
            bodies = [self._request(prompts[i]) for i in indices]
            return [list(reply) for reply in self.server.replies(bodies)]

        with progress(total=len(prompts)) as bar:
            return [Reply(*found) for found in self.store.compute("teach", self.identity, list(prompts), run, bar, AT_A_TIME)]

    def _request(self, prompt: str) -> dict:
        return self.server.request(messages(prompt), {**self.settings, "seed": seed_of(self.seed, "teach", prompt)})


def load_teacher(name: str, protocol: Protocol, seed: int = 0) -> Teacher:
    """A teacher by the name of a model or the address of a server, which with template chat is asked for chat completions."""
    return (ChatTeacher if is_address(name) and protocol.template == "chat" else ModelTeacher)(name, protocol, seed)


def teach(
    lm: str,
    preferences: str,
    name: str,
    out: Path | str,
    protocol: Protocol,
    *,
    data_dir: str | None = None,
    splits: Sequence[str] = ("support", "test"),
    limit: int = 0,
    licence: str = "",
    seed: int = 0,
    progress: Callable = NO_BAR,
) -> str:
    """Write the rows of a set with the responses of a teacher in a column of their own, and its record beside them.

    `name`: of the source of demonstrations, "teacher-x" for the column `teacher_x`. `splits`: which prompts are answered, the
    first `limit` of each split and domain (0: all). Rows of other splits are kept as they are, but support rows without an
    answer, which could not be demonstrated, are left out. Returns a sentence that says what was written.

    Raises `InputError` for a file that something else wrote, and for whatever the teacher or the set complain of.
    """
    file, column = Path(out).expanduser(), teacher_column(name)
    _check(file, column, preferences, splits)
    rows, data = _rows(preferences, data_dir, column, seed)
    asked = _asked(rows, splits, limit)
    teacher = load_teacher(lm, protocol, seed)
    replies = teacher.answers([row.pair.prompt for _, row in asked], progress)
    if not any(reply.text for reply in replies):
        raise InputError(f"{teacher.name} answered none of {len(asked)} prompts; use another template or model")
    answers = {id(row): reply.text for (_, row), reply in zip(asked, replies, strict=True)}
    kept = [
        _written(split, row, column, answers.get(id(row)))
        for split, row in rows
        if id(row) in answers or split not in splits and split != "support"
    ]
    entry = {
        "name": name, **_of_teacher(teacher, lm, licence, protocol), "seed": seed, "date": time.strftime("%Y-%m-%d"), **data,
        "responses": {split: sum(s == split for s, _ in asked) for split in splits},
        "empty": sum(not r.text for r in replies), "cut by length": sum(r.finish == "length" for r in replies),
    }  # fmt: skip
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    write_records(file, {**records(preferences), column: entry})
    return _sentence(file, len(kept), entry)


def _of_teacher(teacher: Teacher, lm: str, licence: str, protocol: Protocol) -> dict:
    """What the record says of the teacher and of how it was sampled."""
    stated = licence or (None if is_address(lm) else licence_of(lm)) or "not stated"
    sampling = {k: getattr(protocol, k) for k in ("template", "temperature", "top_p", "max_new_tokens")}
    identity = {"lm": teacher.name, "revision": teacher.revision, "fingerprint": teacher.fingerprint, "licence": stated}
    return {**identity, **sampling, "icdpo-nb": version("icdpo-nb")}


def _sentence(file: Path, n_rows: int, entry: dict) -> str:
    asked = ", ".join(f"{n} {split}" for split, n in entry["responses"].items())
    return (
        f"{file}: {n_rows} rows, with responses of {entry['lm']} to {asked} prompts in the column {column_of(entry['name'])}, "
        f"{entry['empty']} of them empty and {entry['cut by length']} cut by length; read it with demonstrations "
        f"{entry['name']}; {record_file(file).name} is its record."
    )


def _check(file: Path, column: str, preferences: str, splits: Sequence[str]) -> None:
    """Raise `InputError` for a file that cannot be written, or that something else wrote, and for an unknown split."""
    if unknown := [s for s in splits if s not in SPLITS]:
        raise InputError(f"splits: {unknown[0][:40]!r} is no split; name some of {', '.join(SPLITS)}")
    if not file.name.endswith(".jsonl"):
        raise InputError(f"{file}: the teacher's rows are written as JSON Lines; give a name that ends with .jsonl")
    if not file.parent.is_dir():
        raise InputError(f"{file}: there is no folder {file.parent}; make it, or choose another")
    if file.exists() and (column not in records(file) or file.resolve() == Path(preferences).expanduser().resolve()):
        raise InputError(f"{file} exists and was not made by this command; choose another name for the output")


def _rows(preferences: str, data_dir: str | None, column: str, seed: int) -> tuple[list[tuple[str, Row]], dict]:
    """The usable rows of a set with their splits, and what the record says of the set."""
    raw, name, revision = read_rows(preferences, data_dir)
    dropped: Counter = Counter()
    rows = list(parse_rows(raw, "chosen", dropped, keep=True))
    if taken := next((row for row in rows if column in row.raw), None):
        raise InputError(
            f"{name} already has a column {column!r}, of the prompt {taken.pair.prompt[:60]!r}; choose another name"
        )
    if not rows:
        raise InputError(f"{name}: no usable row; give rows with a prompt and two different responses")
    said = {"preferences": name, "data_dir": data_dir, "data revision": revision, "rows left out": dict(dropped)}
    return list(zip(assigned_splits(rows, seed, name), rows, strict=True)), said


def _asked(rows: Sequence[tuple[str, Row]], splits: Sequence[str], limit: int) -> list[tuple[str, Row]]:
    """The rows of the splits, the first `limit` of each split and domain."""
    count: Counter = Counter()
    asked = []
    for split, row in rows:
        count[split, row.pair.domain] += 1
        if split in splits and (not limit or count[split, row.pair.domain] <= limit):
            asked.append((split, row))
    return asked


def _written(split: str, row: Row, column: str, answer: str | None) -> dict:
    """A row as it is written: with its split, and with the teacher's response if there is one."""
    named = {} if named_split(row.raw) == split else {"split": split}
    return {**row.raw, **named, **({} if answer is None else {column: answer})}
