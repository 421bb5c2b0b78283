"""The claims of both papers, as data.

`claims.csv` is the registry, a claim a row: paper, place and claim; what the paper `found`, after the name of its source where
it prints one ("raw: …", parts separated by " | "), and in which `unit`; the `notebook` that tests it, the `preset`, and
`where`, the value that a parameter must have; the `names` of the claim in that notebook's headline, held to the `roles` of the
demonstrations if there are any; `ours`, our unit; `also`, tests of it in other notebooks; `exhibit`, the heading to look at;
and the `reason` why nothing tests it. A claim without names is shown in a report, without a verdict.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REGISTRY = Path(__file__).parent / "claims.csv"


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: a row of the registry."""

    paper: str
    place: str
    claim: str
    found: str
    unit: str
    notebook: str
    preset: str
    where: str
    names: str
    roles: str
    ours: str
    also: str
    exhibit: str
    reason: str

    @property
    def tests(self) -> dict[str, list[str]]:
        """Notebook -> the claim's names in its headline; the notebook that is meant for it first."""
        others = [part.partition(": ") for part in parts_of(self.also)]
        return ({self.notebook: parts_of(self.names)} if self.names else {}) | {n: [name] for n, _, name in others}

    def unit_in(self, notebook: str) -> str:
        """The unit of our numbers; those of `also` are rewards, but for losses."""
        return self.ours if notebook == self.notebook or self.ours.startswith("nats") else "points of reward"

    @property
    def found_by_role(self) -> dict[str, str]:
        """The paper's source -> what it found with it; under "" what is said of no source."""
        parts = [part.partition(": ") for part in self.found.split(" | ")]
        named = all(role in parts_of(self.roles) for role, *_ in parts)
        return {role: text for role, _, text in parts} if named else {"": self.found}

    @property
    def command(self) -> str:
        """What to run; "" where nothing tests the claim."""
        preset = f" --preset {self.preset}" if self.preset else ""
        return f"icdpo-nb report {self.notebook}{preset}" if self.notebook else ""


@cache
def read_claims() -> tuple[Claim, ...]:
    """The claims of both papers, in the order of the papers."""
    with REGISTRY.open(encoding="utf-8", newline="") as file:
        return tuple(Claim(**row) for row in csv.DictReader(file))


def parts_of(text: str) -> list[str]:
    """The parts of a cell that holds several."""
    return [part for part in text.split("; ") if part]
