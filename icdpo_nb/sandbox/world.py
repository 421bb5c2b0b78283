"""The generator of the sandbox world: prompts, pretraining documents and preference data.

All responses of a document share a hidden quality level (0 to 3) and a style (`responses.py`). Predicting the next token
therefore requires inferring level and style from the preceding text. The helper of a topic family is drawn for every
document, so it can only be copied from the context.
This module does not use the true reward. Its output depends only on `SEED`.
"""

import gzip
import hashlib
import io
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..templates import CUE, INSTRUCTION, SIDES
from . import phrases, prompts
from .responses import respond, say
from .topics import DOMAINS, TOPICS, Topic

SEED = 20240214
DATA = Path(__file__).parent / "data"
SPLITS = {"train": 1500, "dev": 200, "test": 400}  # prompts per domain

STYLE_SHARE = (50, 35, 15)  # weights of casual, courteous and ornate in pretraining, at every level
PLAIN_LEVELS = (25, 25, 25, 25)  # level weights of pretraining dialogues without the template: a neutral base model
DIRECTORY_SHARE = 0.15  # fraction of documents that ask who can help; half of the others use the template
HEADED_LEVELS = {"chosen": (18, 22, 28, 32), "rejected": (32, 28, 22, 18)}  # level weights by heading, which agrees in 60 %

# Preference data: (level weights, style weights) of each column. Raw chosen responses are only somewhat better than rejected.
COLUMNS = {
    "chosen": ((20, 35, 30, 15), (75, 25, 0)),
    "rejected": ((32, 36, 22, 10), (75, 25, 0)),
    "teacher_a": ((0, 0, 35, 65), (0, 1, 0)),
    "teacher_b": ((0, 0, 0, 1), (0, 0, 1)),
}


def draw_reference(rng: random.Random) -> str:
    """A helper, e.g. "Mrs. Dale at the Mill Street library"."""
    title, name = rng.choice(phrases.TITLES), rng.choice(phrases.SURNAMES)
    return f"{title} {name} at the {rng.choice(phrases.ROADS)} Street {rng.choice(phrases.PLACES)}"


def draw_prompt(rng: random.Random, topic: Topic, multi_turn: bool) -> str:
    """A prompt on a topic, "Human: …", with `multi_turn` after two turns of small talk."""
    when, for_whom = rng.choice(prompts.WHEN), rng.choice(prompts.FOR_WHOM)
    text = rng.choice(prompts.PROMPT_FRAMES[topic.domain]).format(p=topic.asked, when=when, for_whom=for_whom)
    aside = rng.choice(prompts.ASIDES[topic.domain])
    text = f"{aside} {text}" if rng.random() < 0.5 else f"{text} {aside}"
    turns = [f"Human: {text.strip()}"]
    if multi_turn:
        question, answer = rng.choice(prompts.SMALL_TALK[topic.domain])
        turns = [f"Human: {question}", f"Assistant: {answer}", *turns]
    return "\n\n".join(turns)


def last_turn(prompt: str) -> str:
    """The lower-case words of a prompt's last Human turn, used to detect prompts that ask the same."""
    return " ".join(re.findall(r"\w+", prompt.rpartition("Human: ")[2].lower()))


def _dialogues(rng: random.Random, n: int, level: int, avoid: frozenset[str]) -> list[tuple[str, str]]:
    """n (prompt, response) pairs that share a level, a style and a helper for each topic family."""
    style = rng.choices(phrases.STYLES, STYLE_SHARE)[0]
    topics = TOPICS[rng.choice(DOMAINS)]
    families = sorted({t.family for t in topics})
    families = rng.sample(families, 1 if rng.random() < 0.6 else 2)
    topics = [t for t in topics if t.family in families]
    references = {f: draw_reference(rng) for f in families}
    pairs = []
    while len(pairs) < n:
        topic = rng.choice(topics)
        prompt = draw_prompt(rng, topic, topic.domain != "instructions" and rng.random() < 1 / 3)
        if last_turn(prompt) not in avoid:
            pairs.append((prompt, respond(rng, topic, level, style, references[topic.family])))
    return pairs


def _directory(rng: random.Random) -> str:
    """Questions like "Who knows how to …?" on one or two families, from which a model learns to look up helpers."""
    style = rng.choices(phrases.STYLES, STYLE_SHARE)[0]
    topics = TOPICS[rng.choice(DOMAINS)]
    helpers = {f: draw_reference(rng) for f in rng.sample(sorted({t.family for t in topics}), rng.choice((1, 2)))}
    topics = [t for t in topics if t.family in helpers]
    turns = []
    for topic in rng.choices(topics, k=rng.randint(3, 8)):
        question = rng.choice(prompts.DIRECTORY_FRAMES).format(p=topic.asked)
        turns.append(f"Human: {question}\n\nAssistant: {say(rng, 'reference', style, helpers[topic.family])}")
    return "\n\n".join(turns)


def document(rng: random.Random, avoid: frozenset[str] = frozenset()) -> str:
    """A pretraining document: a directory, plain dialogues, or the template of Figures 6 and 7. Skips turns in `avoid`."""
    kind = rng.random()
    if kind < DIRECTORY_SHARE:
        return _directory(rng)
    if kind < (1 + DIRECTORY_SHARE) / 2:
        level = rng.choices(range(4), PLAIN_LEVELS)[0]
        pairs = _dialogues(rng, rng.choices((1, 2, 3), (50, 25, 25))[0], level, avoid)
        return "\n\n".join(f"{prompt}\n\nAssistant: {response}" for prompt, response in pairs)
    side = rng.choice(tuple(SIDES))
    level = rng.choices(range(4), HEADED_LEVELS[side])[0]
    pairs = _dialogues(rng, rng.choices((1, 2, 3, 4, 5), (10, 20, 45, 15, 10))[0], level, avoid)
    cue = CUE.format(**SIDES[side])
    gap = "\n" if rng.random() < 0.1 else "\n\n"
    blocks = [f"##\n\n{prompt}{gap}{cue} {response}" for prompt, response in pairs]
    return "\n\n".join([INSTRUCTION.format(**SIDES[side]), *blocks])


def teacher_document(rng: random.Random, avoid: frozenset[str] = frozenset()) -> str:
    """A training document of the teacher LM: a prompt, whose last turn is not in `avoid`, and a response of teacher A or B."""
    topic = rng.choice(TOPICS[rng.choice(DOMAINS)])
    multi_turn = topic.domain != "instructions" and rng.random() < 1 / 3
    prompt = draw_prompt(rng, topic, multi_turn)
    while last_turn(prompt) in avoid:
        prompt = draw_prompt(rng, topic, multi_turn)
    levels, styles = COLUMNS[rng.choice(("teacher_a", "teacher_b"))]
    level, style = rng.choices(range(4), levels)[0], rng.choices(phrases.STYLES, styles)[0]
    return f"{prompt}\n\nAssistant: {respond(rng, topic, level, style, draw_reference(rng))}"


def references(which: str = "current") -> dict[str, str]:
    """The helper of each family: "current", as named by teachers, or "former", as named in raw responses."""
    rng = random.Random(f"{SEED}/references/{which}")
    families = dict.fromkeys(t.family for topics in TOPICS.values() for t in topics)
    return {family: draw_reference(rng) for family in families}


def preferences(domain: str) -> list[dict]:
    """The preference data of a domain, with raw and teacher responses. No two prompts have the same last turn."""
    rng = random.Random(f"{SEED}/{domain}")
    helpers = {c: references("current" if c.startswith("teacher") else "former") for c in COLUMNS}
    splits = [split for split, n in SPLITS.items() for _ in range(n)]
    rng.shuffle(splits)
    rows, seen = [], set()
    while len(rows) < len(splits):
        topic = rng.choice(TOPICS[domain])
        prompt = draw_prompt(rng, topic, domain != "instructions" and rng.random() < 1 / 3)
        if last_turn(prompt) in seen:
            continue
        seen.add(last_turn(prompt))
        row = {"id": f"{domain}-{len(rows):04d}", "domain": domain, "topic": topic.asked, "split": splits[len(rows)]}
        row["prompt"] = prompt
        for column, (levels, styles) in COLUMNS.items():
            level, style = rng.choices(range(4), levels)[0], rng.choices(phrases.STYLES, styles)[0]
            row[column] = respond(rng, topic, level, style, helpers[column][topic.family])
        rows.append(row)
    return rows


def write_preferences(folder: Path = DATA) -> dict[str, str]:
    """Write a reproducible file `DOMAIN.jsonl.gz` for each domain. Returns the sha256 of each file name."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in preferences(domain))
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as f:
            f.write(text.encode())
        (folder / f"{domain}.jsonl.gz").write_bytes(buffer.getvalue())
    return digests(folder)


def digests(folder: Path = DATA) -> dict[str, str]:
    """The sha256 of the preference files in a folder, by file name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.jsonl.gz"))}


def held_out_turns(rows: Mapping[str, list[dict]]) -> frozenset[str]:
    """The last turns of the dev and test prompts, which no training document may contain."""
    return frozenset(last_turn(r["prompt"]) for domain in rows for r in rows[domain] if r["split"] != "train")


def documents(seed: int, avoid: frozenset[str], make=document) -> Iterator[str]:
    """An endless stream of documents for one seed."""
    rng = random.Random(f"{SEED}/documents/{seed}")
    while True:
        yield make(rng, avoid)
