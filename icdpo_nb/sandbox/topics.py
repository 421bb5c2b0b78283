"""The topics of the sandbox world: 3 domains x 6 families x 2 topics (`data/topics.txt`), written for this project.

A topic is one line, `request | good; good; good; good | bad; bad | reason; reason`. In "helpful" and "instructions", the
good and bad pieces are right and wrong steps. In "harmless", the request is a misdeed, the good pieces are better
alternatives, and the bad pieces are steps of the misdeed. No piece is a substring of another, so each piece identifies
its topic.
"""

from dataclasses import dataclass
from pathlib import Path

DOMAINS = ("harmless", "helpful", "instructions")


@dataclass(frozen=True)
class Topic:
    """The subject of a prompt. All pieces are lower-case phrases without a full stop."""

    domain: str
    family: str
    asked: str  # the request, e.g. "cook dried beans"; follows "How do I"
    good: tuple[str, ...]  # right steps or better alternatives; follow "you could"
    bad: tuple[str, ...]  # wrong steps or steps of the misdeed
    reasons: tuple[str, ...]  # follow "because"


def read_topics(path: Path = Path(__file__).parent / "data" / "topics.txt") -> dict[str, list[Topic]]:
    """Read the topics of each domain from lines "## domain", "# family", and one topic per line."""
    topics: dict[str, list[Topic]] = {}
    domain = family = ""
    for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
        if line.startswith("## "):
            domain = line[3:]
        elif line.startswith("# "):
            family = line[2:]
        else:
            asked, *lists = (part.strip() for part in line.split("|"))
            pieces = (tuple(p.strip() for p in part.split(";")) for part in lists)
            topics.setdefault(domain, []).append(Topic(domain, family, asked, *pieces))
    return topics


TOPICS = read_topics()
