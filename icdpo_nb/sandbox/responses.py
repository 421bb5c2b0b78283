"""Responses of the sandbox world. The hidden quality level (0 to 3) sets their content, the style their wording."""

import random

from . import phrases
from .topics import Topic

# The probability of each trait at levels 0, 1, 2 and 3
RATES = {
    "opener": (0.10, 0.30, 0.55, 0.75),
    "rude": (0.45, 0.20, 0.05, 0.01),  # excludes opener and closing
    "lazy": (0.45, 0.25, 0.08, 0.02),  # replaces the answer
    "refusal": (0.10, 0.40, 0.80, 0.96),  # harmless; otherwise the response complies
    "right": (0.15, 0.50, 0.85, 0.97),  # each step of an answer
    "reason": (0.05, 0.20, 0.50, 0.70),
    "reference": (0.05, 0.20, 0.50, 0.75),
    "closing": (0.05, 0.20, 0.45, 0.65),
}
# Weights of 1, 2, 3 steps (helpful, instructions) and of 0, 1, 2 alternatives (harmless) at each level
N_STEPS = ((80, 20, 0), (60, 30, 10), (30, 45, 25), (15, 40, 45))
N_ALTERNATIVES = ((90, 10, 0), (65, 30, 5), (35, 45, 20), (20, 45, 35))
LEAD_RATE, TAIL_RATE = 0.5, 0.4  # rates of leads in ornate sentences, and of tails in ornate steps and alternatives


def say(rng: random.Random, kind: str, style: str, piece: str = "", place: int = 0) -> str:
    """A sentence of the given kind and style. Ornate sentences may have a lead (`phrases.LEADS`)."""
    frames = phrases.FRAMES[kind][style]
    if isinstance(frames[0], list):  # the frames of steps depend on their place
        frames = frames[min(place, len(frames) - 1)]
    tail = rng.choice(phrases.TAILS) if rng.random() < TAIL_RATE else ""
    sentence = rng.choice(frames).format(p=piece, who=piece, tail=tail)
    if style != "ornate" or rng.random() >= LEAD_RATE:
        return sentence
    if not sentence.startswith(("I ", *phrases.TITLES)):
        sentence = sentence[0].lower() + sentence[1:]
    return f"{rng.choice(phrases.LEADS)}, {sentence}"


def _pieces(rng: random.Random, topic: Topic, n: int, p_right: float, style: str) -> list[str]:
    """n pieces of a topic, each right with probability `p_right`.

    They keep the topic's order unless the style is ornate or a piece is wrong.
    """
    n_right = sum(rng.random() < p_right for _ in range(n))
    n_wrong = min(n - n_right, len(topic.bad))
    good = sorted(rng.sample(range(len(topic.good)), n_right))
    pieces = [topic.good[i] for i in good] + rng.sample(topic.bad, n_wrong)
    if style == "ornate" or n_wrong:
        rng.shuffle(pieces)
    return pieces


def _answer(rng: random.Random, topic: Topic, level: int, style: str) -> list[str]:
    """The sentences of the answer: steps, a refusal with alternatives, or the steps of a misdeed."""
    if rng.random() < RATES["lazy"][level]:
        return [say(rng, "lazy", style)]
    if topic.domain != "harmless":
        n = rng.choices((1, 2, 3), N_STEPS[level])[0]
        steps = _pieces(rng, topic, n, RATES["right"][level], style)
        return [say(rng, "step", style, p, place) for place, p in enumerate(steps)]
    if rng.random() < RATES["refusal"][level]:
        n = rng.choices((0, 1, 2), N_ALTERNATIVES[level])[0]
        alternatives = _pieces(rng, topic, n, 1.0, style)
        return [say(rng, "refusal", style), *(say(rng, "alternative", style, p) for p in alternatives)]
    misdeed = rng.sample(topic.bad, rng.choice((1, 2)))
    return [say(rng, "comply", style), *(say(rng, "step", style, p, place) for place, p in enumerate(misdeed))]


def respond(rng: random.Random, topic: Topic, level: int, style: str, reference: str) -> str:
    """A response with a quality level (0-3) and a style. `reference` is the helper that it may recommend."""
    has = {trait: rng.random() < rates[level] for trait, rates in RATES.items()}
    sentences = []
    if has["rude"]:
        sentences.append(say(rng, "rude", style))
    elif has["opener"]:
        sentences.append(say(rng, "opener", style))
    sentences += _answer(rng, topic, level, style)
    if has["reason"]:
        sentences.append(say(rng, "reason", style, rng.choice(topic.reasons)))
    if has["reference"]:
        sentences.append(say(rng, "reference", style, reference))
    if has["closing"] and not has["rude"]:
        sentences.append(say(rng, "closing", style))
    return " ".join(sentences)
