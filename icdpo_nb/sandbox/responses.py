"""What a response of the sandbox world says, by its hidden quality level (0 to 3), and how, by its style (`phrases.py`)."""

import random

from . import phrases
from .topics import Topic

# probability of each trait at level 0, 1, 2, 3
RATES = {
    "opener": (0.10, 0.30, 0.55, 0.75),
    "rude": (0.45, 0.20, 0.05, 0.01),  # then no opener and no closing
    "lazy": (0.45, 0.25, 0.08, 0.02),  # then no answer
    "refusal": (0.10, 0.40, 0.80, 0.96),  # harmless; else it complies
    "right": (0.15, 0.50, 0.85, 0.97),  # each step of an answer
    "reason": (0.05, 0.20, 0.50, 0.70),
    "reference": (0.05, 0.20, 0.50, 0.75),
    "closing": (0.05, 0.20, 0.45, 0.65),
}
# weights of 1, 2, 3 steps (helpful, instructions) and of 0, 1, 2 alternatives (harmless): better answers say more
N_STEPS = ((80, 20, 0), (60, 30, 10), (30, 45, 25), (15, 40, 45))
N_ALTERNATIVES = ((90, 10, 0), (65, 30, 5), (35, 45, 20), (20, 45, 35))
LEAD_RATE, TAIL_RATE = 0.5, 0.4  # of words before an ornate sentence, and after an ornate step or alternative


def say(rng: random.Random, kind: str, style: str, piece: str = "", place: int = 0) -> str:
    """A sentence of a kind in a style; an ornate one may have words before it."""
    frames = phrases.FRAMES[kind][style]
    if isinstance(frames[0], list):  # steps: frames by place
        frames = frames[min(place, len(frames) - 1)]
    tail = rng.choice(phrases.TAILS) if rng.random() < TAIL_RATE else ""
    said = rng.choice(frames).format(p=piece, who=piece, tail=tail)
    if style != "ornate" or rng.random() >= LEAD_RATE:
        return said
    begun = said if said.startswith(("I ", *phrases.TITLES)) else said[0].lower() + said[1:]
    return f"{rng.choice(phrases.LEADS)}, {begun}"


def _pieces(rng: random.Random, topic: Topic, n: int, right: float, style: str) -> list[str]:
    """n pieces of a topic, each right with probability `right`; in the topic's order, except in the ornate style."""
    n_right = sum(rng.random() < right for _ in range(n))
    n_wrong = min(n - n_right, len(topic.bad))
    good = sorted(rng.sample(range(len(topic.good)), n_right))
    pieces = [topic.good[i] for i in good] + rng.sample(topic.bad, n_wrong)
    if style == "ornate" or n_wrong:
        rng.shuffle(pieces)
    return pieces


def _answer(rng: random.Random, topic: Topic, level: int, style: str) -> list[str]:
    """The sentences that answer: steps, or a refusal with alternatives, or the steps of a misdeed."""
    if rng.random() < RATES["lazy"][level]:
        return [say(rng, "lazy", style)]
    if topic.domain != "harmless":
        n = rng.choices((1, 2, 3), N_STEPS[level])[0]
        steps = _pieces(rng, topic, n, RATES["right"][level], style)
        return [say(rng, "step", style, p, place) for place, p in enumerate(steps)]
    if rng.random() < RATES["refusal"][level]:
        n = rng.choices((0, 1, 2), N_ALTERNATIVES[level])[0]
        better = _pieces(rng, topic, n, 1.0, style)
        return [say(rng, "refusal", style), *(say(rng, "alternative", style, p) for p in better)]
    misdeed = rng.sample(topic.bad, rng.choice((1, 2)))
    return [say(rng, "comply", style), *(say(rng, "step", style, p, place) for place, p in enumerate(misdeed))]


def respond(rng: random.Random, topic: Topic, level: int, style: str, reference: str) -> str:
    """A response of a quality level (0-3) in a style; `reference` is the helper it may recommend."""
    has = {trait: rng.random() < rates[level] for trait, rates in RATES.items()}
    said = []
    if has["rude"]:
        said.append(say(rng, "rude", style))
    elif has["opener"]:
        said.append(say(rng, "opener", style))
    said += _answer(rng, topic, level, style)
    if has["reason"]:
        said.append(say(rng, "reason", style, rng.choice(topic.reasons)))
    if has["reference"]:
        said.append(say(rng, "reference", style, reference))
    if has["closing"] and not has["rude"]:
        said.append(say(rng, "closing", style))
    return " ".join(said)
