"""Preference sets: pairs in support, dev and test splits.

Supports HH-RLHF (whole dialogues), SyntheticGPT and other sets with prompt/chosen/rejected columns, TL;DR comparisons,
and lists of chat messages; see `load_preferences`. Unusable rows are counted by reason in `PreferenceSet.dropped`.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..common.errors import InputError
from ..common.files import checksum
from .frames import is_in_memory, read_rows
from .pairs import Preference, Row, assigned_splits, parse_rows, reasons, within
from .teachers import column_of, written_by


@dataclass(frozen=True)
class PreferenceSet:
    """A loaded preference set. Demonstrations come from `support`, evaluation prompts from `test`."""

    name: str
    revision: str
    demonstrations: str  # source of the `chosen` responses in the support split
    support: tuple[Preference, ...]
    dev: tuple[Preference, ...]
    test: tuple[Preference, ...]
    dropped: dict[str, int]  # reason -> number of rows
    sha256: str  # of the kept rows of all splits
    test_responses: dict[str, str] = field(default_factory=dict)  # prompt_id -> the teacher's response to a test prompt
    teacher: str = ""  # who wrote the teacher's responses, where a record says so

    @property
    def domains(self) -> list[str]:
        """The domains of the test prompts, in alphabetical order."""
        return domains_of(self.test)

    def but(self, support: tuple[Preference, ...], dropped: dict[str, int]) -> "PreferenceSet":
        """A copy with another support split, the given `dropped` counts, and an updated digest."""
        digest = _digest({"support": support, "dev": self.dev, "test": self.test})
        return replace(self, support=support, dropped=dropped, sha256=digest)

    def describe(self) -> str:
        """One line with the name, revision, hash, split sizes and dropped rows."""
        teacher = f" ({self.teacher})" if self.teacher else ""
        return (
            f"{self.name}, {self.demonstrations} demonstrations{teacher}, {self.revision}, sha256 {self.sha256[:12]}: "
            f"{len(self.support)} support, {len(self.dev)} dev, {len(self.test)} test prompts; "
            f"dropped: {reasons(self.dropped)}"
        )


def load_preferences(
    source: object,
    *,
    data_dir: str | None = None,
    demonstrations: str = "raw",
    max_tokens: tuple[int, int] | None = None,
    count_tokens: Callable[[Sequence[str]], Sequence[int]] | None = None,
    revision: str | None = None,
    seed: int = 0,
) -> PreferenceSet:
    """Load a preference set by name, path or hub id, or from a table in memory.

    - `source`: a packaged name (`pocket`, `pocket/helpful`), a short name (`hh-rlhf`, `synthetic-gpt`, `tldr`), a file
      (.jsonl .json .csv .parquet, also .gz), a folder of such files named after their split, or a hub id; or a pandas
      DataFrame, a `datasets.Dataset` or `DatasetDict`, or a list of dicts. The same rows give the same set from each.
    - `data_dir`: a sub-folder. For HH-RLHF, `harmless-base` or `helpful-base`, which also sets the domain.
    - `demonstrations`: the column of the support responses: "raw" for `chosen`, "teacher-a" for `teacher_a`, and so on.
      Dev and test prompts keep their own `chosen`. A teacher's responses to test prompts are stored in `test_responses`.
    - `max_tokens`: the maximum length of prompts and of responses, as counted by `count_tokens` (Appendix A: 320 and 128
      for HH-RLHF, 128 and 200 for SyntheticGPT).

    A set without a test split is split at random by `seed`: a tenth of the prompts for test, a tenth for dev, and no
    prompt in two splits. It needs at least three prompts.

    Raises `InputError` if the source cannot be found, read or parsed.
    """
    if max_tokens and count_tokens is None:
        raise InputError("data: max_tokens needs count_tokens, the token counter of the language model (lm.count_tokens)")
    if max_tokens and min(max_tokens) < 1:
        raise InputError(f"data: max_tokens is {max_tokens}, but both limits must be at least 1")
    raw, name, version = read_rows(source, data_dir, revision)
    given = name if is_in_memory(source) else str(source)
    dropped: Counter = Counter()
    rows = list(parse_rows(raw, column_of(demonstrations), dropped))
    if max_tokens:
        rows = list(within(rows, max_tokens, count_tokens, dropped))
    if not rows:
        raise InputError(
            f"{given}: no usable preference pair (dropped: {reasons(dropped)}); give rows with a prompt and two different "
            "responses"
        )
    kept, answers = _parts(rows, assigned_splits(rows, seed, given))
    details = {"dropped": dict(dropped), "sha256": _digest(kept), "test_responses": answers}
    return PreferenceSet(name, version, demonstrations, **kept, **details, teacher=written_by(source, demonstrations))


def load_sources(names: Sequence[str], source: object, **options) -> dict[str, PreferenceSet]:
    """Load a preference set for each source of demonstrations: a column of `source` (`raw`, `teacher-a`) or a file.

    A file is a separate set whose chosen responses are the demonstrations. `options` are those of `load_preferences`.
    """
    sets = {}
    for name in names:
        if Path(name).exists():
            sets[Path(name).stem] = load_preferences(name, **options | {"data_dir": None})
        else:
            sets[name] = load_preferences(source, demonstrations=name, **options)
    return sets


def _parts(rows: Sequence[Row], splits: Sequence[str]) -> tuple[dict[str, tuple[Preference, ...]], dict[str, str]]:
    """The pairs of each split, and the teacher's responses to test prompts by prompt_id."""
    parts: dict[str, list[Preference]] = {"support": [], "dev": [], "test": []}
    answers = {}
    for split, row in zip(splits, rows, strict=True):
        parts[split].append(row.demonstrated if split == "support" else row.pair)
        if split == "test" and row.answer:
            answers[row.pair.prompt_id] = row.answer
    return {s: tuple(p) for s, p in parts.items()}, answers


def _digest(parts: dict[str, Sequence[Preference]]) -> str:
    return checksum(json.dumps({s: [vars(p) for p in ps] for s, ps in parts.items()}))


def first(prompts: Sequence[Preference], n: int) -> list[Preference]:
    """The first n prompts of each domain, in order. Raises `InputError` for n below 1."""
    if n < 1:
        raise InputError(f"n_prompts is {n}, but must be at least 1")
    count: Counter = Counter()
    kept = []
    for p in prompts:
        count[p.domain] += 1
        if count[p.domain] <= n:
            kept.append(p)
    return kept


def domains_of(prompts: Sequence[Preference]) -> list[str]:
    """The domains of the prompts, in alphabetical order."""
    return sorted({p.domain for p in prompts})


def in_domains(prompts: Sequence[Preference], domains: Sequence[str]) -> list[Preference]:
    """The prompts of the given domains, or all prompts if `domains` is empty. Raises `InputError` for unknown domains."""
    unknown = set(domains) - set(domains_of(prompts))
    if unknown:
        raise InputError(
            f"there are no test prompts of {', '.join(sorted(unknown))}; the domains are {', '.join(domains_of(prompts))}"
        )
    return [p for p in prompts if not domains or p.domain in domains]


def spread(prompts: Sequence[Preference], n: int) -> list[Preference]:
    """n evenly spaced prompts, to cover all domains and topics. Raises `InputError` for n below 1."""
    if n < 1:
        raise InputError(f"n_prompts is {n}, but must be at least 1")
    n = min(n, len(prompts))
    return [prompts[i * len(prompts) // n] for i in range(n)]
