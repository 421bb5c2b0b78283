"""What the records of runs say of the papers' claims: every comparison with its verdict, and one verdict for each claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..common.errors import InputError
from ..statistics.findings import AGREES, CONTRADICTS, NOT, OPEN, VERDICTS
from .html import is_done, read_record
from .registry import Claim, parts_of

MIXED = "mixed"  # a claim that agrees in some settings and contradicts in others


@dataclass(frozen=True)
class Setting:
    """One comparison of a run: a base model with one source of demonstrations."""

    name: str  # of the claim in the headline
    lm: str
    source: str
    part: str  # of the headline, if it has several
    verdict: str
    mean: float
    here: str  # estimate and interval
    n: int
    seeds: int
    decide: int  # prompts or seeds that would decide it; 0 where nothing is asked for


@dataclass(frozen=True)
class Record:
    """What a run left of itself, read so that nothing in it can break a page. `folder`: its name below the reports."""

    folder: str
    data: Mapping = field(default_factory=dict)

    def text(self, key: str) -> str:
        """A value as text; "" where there is none."""
        value = self.data.get(key)
        return "" if value is None else str(value)

    @property
    def parameters(self) -> Mapping:
        """The parameters of the run."""
        return _mapping(self.data.get("parameters"))

    @property
    def headline(self) -> Mapping:
        """Its headline numbers."""
        return _mapping(self.data.get("headline"))

    @property
    def models(self) -> list[str]:
        """The base models."""
        named = self.parameters.get("lms") or self.parameters.get("lm") or []
        return [str(name) for name in (named if isinstance(named, list) else [named])]

    @property
    def dataset(self) -> str:
        """The data: a preference set, and which part of it; the sandbox for a notebook that has no other."""
        domains = self.parameters.get("domains")
        parts = [self.parameters.get("data_dir"), *(domains if isinstance(domains, list) else [])]
        name = str(self.parameters.get("preferences") or "sandbox")
        return f"{name} ({', '.join(map(str, filter(None, parts)))})" if any(parts) else name

    @cached_property
    def settings(self) -> list[Setting]:
        """Every comparison of the headline that has a verdict."""
        claims = self.headline.get("claims")
        parts = claims if isinstance(claims, dict) else {"": claims}
        rows = [(str(part), row) for part, found in parts.items() for row in _rows(found)]
        return [_setting(part, row) for part, row in rows if row.get("verdict") in VERDICTS]

    def role(self, source: str) -> str | None:
        """The paper's source that one of this run's stands for."""
        from ..statistics.published import role_of

        given = self.parameters.get("roles")
        try:
            return role_of(source, [str(role) for role in given] if isinstance(given, list) else [])
        except InputError:
            return None


@dataclass(frozen=True)
class Tested:
    """What one run says of a claim."""

    record: Record
    settings: Sequence[Setting]

    @property
    def verdict(self) -> str:
        """That of the settings together."""
        return claim_verdict([s.verdict for s in self.settings])


def read_records(out: Path) -> tuple[list[Record], list[Record]]:
    """The finished and the failed runs below a folder, newest first."""
    found = [Record(path.parent.name, read_record(path)) for path in sorted(out.glob("*/run.json"))]
    found.sort(key=lambda record: record.text("finished"), reverse=True)
    return [r for r in found if is_done(r.data)], [r for r in found if r.text("status") == "failed"]


def claim_verdict(verdicts: Sequence[str]) -> str:
    """The verdict that more than half of the comparable settings have, and `MIXED` where some agree and others contradict.

    Without such a majority one cannot tell. Settings with which the paper cannot be compared do not count, unless all are so.
    """
    counted = [v for v in verdicts if v != NOT]
    if not counted:
        return NOT
    if {AGREES, CONTRADICTS} <= set(counted):
        return MIXED
    most = max(counted, key=counted.count)
    return most if 2 * counted.count(most) > len(counted) else OPEN


def tests_of(claim: Claim, records: Sequence[Record]) -> list[Tested]:
    """The runs that test a claim: those of its own notebook first, then those with default parameters, then the newest."""
    key, _, value = claim.where.partition("=")
    found = []
    for record in records:
        names = claim.tests.get(record.text("notebook"), [])
        if names and str(record.parameters.get(key, value)) == value:
            settings = [s for s in record.settings if s.name in names and _has_role(record, s, parts_of(claim.roles))]
            found += [Tested(record, settings)] if settings else []
    return sorted(found, key=lambda test: _rank(claim, test.record), reverse=True)


def shown_in(claim: Claim, records: Sequence[Record]) -> Record | None:
    """The run whose report shows what has no verdict of its own."""
    key, _, value = claim.where.partition("=")
    own = [r for r in records if r.text("notebook") == claim.notebook and str(r.parameters.get(key, value)) == value]
    return max(own, key=lambda record: _rank(claim, record), default=None)


def _rank(claim: Claim, record: Record) -> tuple[bool, bool, str]:
    default = record.folder == record.text("notebook") or bool(claim.preset)
    return record.text("notebook") == claim.notebook, default, record.text("finished")


def _has_role(record: Record, setting: Setting, roles: Sequence[str]) -> bool:
    return not (roles and setting.source) or record.role(setting.source) in roles


def _setting(part: str, row: Mapping) -> Setting:
    low, high, mean = (_number(row.get(key)) for key in ("low", "high", "mean"))
    here = str(row.get("here") or (f"{mean:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(low + mean + high) else "–"))
    lm = str(row.get("lm") or row.get("model") or "")
    first = _number(here.split(" ")[0])  # where the estimate stands in its text alone
    counts = [int(value) if 0 < (value := _number(row.get(key))) < math.inf else 0 for key in ("n", "seeds", "decide")]
    source = str(row.get("source") or "")
    return Setting(str(row.get("claim")), lm, source, part, row["verdict"], first if math.isnan(mean) else mean, here, *counts)


def _number(value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _mapping(value: object) -> Mapping:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> list[dict]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
