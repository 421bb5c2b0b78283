"""What the sandbox world talks about: 3 domains x 6 families x 2 topics (`data/topics.txt`), written for this project.

A topic is one line, `what is asked | good; good; good; good | bad; bad | reason; reason`. In "helpful" and
"instructions" the good and bad pieces are right and wrong steps; in "harmless" what is asked is a misdeed, the good
pieces are better alternatives and the bad ones say how to do the misdeed. No piece is part of another, so that a
piece names its topic.
"""

from dataclasses import dataclass
from pathlib import Path

DOMAINS = ("harmless", "helpful", "instructions")


@dataclass(frozen=True)
class Topic:
    """One thing a prompt may ask about; all pieces are lower-case phrases without a full stop."""

    domain: str
    family: str
    asked: str  # "cook dried beans": follows "How do I"
    good: tuple[str, ...]  # right steps, or better alternatives: follow "you could"
    bad: tuple[str, ...]  # wrong steps, or how to do the misdeed
    reasons: tuple[str, ...]  # follow "because"


def read_topics(path: Path = Path(__file__).parent / "data" / "topics.txt") -> dict[str, list[Topic]]:
    """Domain -> topics: "## domain", "# family", then one topic a line."""
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
