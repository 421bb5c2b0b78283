"""What a context transfers in the sandbox: heading, level, style or helper. The factors are varied one at a time.

Each prompt is answered alone, under the template without demonstrations, with synthetic demonstrations (every level in every
style, always with the current helpers), and with the demonstrations of each source. The true reward of the samples measures
the transfer, and the points by attribute show what was lost. Nothing is selected or trained here.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, islice

import numpy as np
import pandas as pd

from ..data.preferences import Preference, PreferenceSet, domains_of
from ..models.interface import LanguageModel
from ..protocol import RECOMMENDED, Protocol, seed_of
from ..retrieval.retrievers import by_domain
from ..sandbox.phrases import FRAMES, STYLES
from ..sandbox.reward import RULES, attributes, find_topic, true_reward
from ..sandbox.reward_model import pair_texts
from ..sandbox.topics import TOPICS
from ..sandbox.world import (
    documents,
    draw_prompt,
    held_out_turns,
    last_turn,
    preferences,
    references,
    respond,
    teacher_document,
)
from ..statistics.intervals import mean_ci
from ..templates import base_context, icl_context

LEVELS = range(4)
SAME_FAMILY = "courteous, level 3, same topic family"  # against random topics, this shows the effect of the helper
Shown = tuple[list[Preference], str | None]  # demonstrations, and the side of the heading; None for the prompt alone


def made_demonstrations(domain: str, level: int, style: str, n: int, seed: int, family: str | None = None) -> list[Preference]:
    """n synthetic demonstrations of one level and style on topics of a domain (and family), with current helpers."""
    rng, helpers = random.Random(seed), references("current")
    made = []
    for topic in rng.choices([t for t in TOPICS[domain] if family in (None, t.family)], k=n):
        prompt = draw_prompt(rng, topic, domain != "instructions" and rng.random() < 1 / 3)
        response = respond(rng, topic, level, style, helpers[topic.family])
        made.append(Preference(f"made-{len(made)}", domain, prompt, response, response))
    return made


def situations(
    prompts: Sequence[Preference], data: Mapping[str, PreferenceSet], protocol: Protocol = RECOMMENDED, seed: int = 0
) -> dict[str, list[Shown]]:
    """The demonstrations shown before each prompt, by situation. All of them are drawn at random."""
    shown: dict[str, list[Shown]] = {"prompt alone": [([], None)] * len(prompts)}
    for side in ("chosen", "rejected"):
        shown[f"{side} heading alone"] = [([], side)] * len(prompts)
    for style in STYLES:
        for level in LEVELS:
            seeds = [seed_of(seed, "diagnosis", style, level, p.prompt_id) for p in prompts]
            shown[f"{style}, level {level}"] = [
                (made_demonstrations(p.domain, level, style, protocol.n_demos, s), "chosen")
                for p, s in zip(prompts, seeds, strict=True)
            ]
    shown[SAME_FAMILY] = []
    for p in prompts:
        topic, s = find_topic(p.prompt), seed_of(seed, "diagnosis", "family", p.prompt_id)
        demos = made_demonstrations(p.domain, 3, "courteous", protocol.n_demos, s, topic and topic.family)
        shown[SAME_FAMILY].append((demos, "chosen"))
    for source, source_data in data.items():
        retrievers = by_domain("random", source_data.support, domains_of(prompts), protocol, seed=seed)
        retrieved = [retrievers[p.domain].retrieve([p.prompt], protocol.n_demos)[0] for p in prompts]
        shown[source] = [(demos, "chosen") for demos in retrieved]
        if source == "raw":  # the amateur of Ŝ for every source, since teachers have no rejected responses of their own
            shown["raw, rejected"] = [(demos, "rejected") for demos in retrieved]
    return shown


@cache
def _marks() -> dict[str, frozenset[str]]:
    """The longest fixed phrase of each frame, by style, without the phrases that several styles share."""
    marks = {style: set() for style in STYLES}
    for style in STYLES:
        for frame in chain.from_iterable(kind[style] for kind in FRAMES.values()):
            for text in frame if isinstance(frame, list) else [frame]:
                fixed = re.split(r"\{(?:tail|who|p)\}", text)
                marks[style].add(max(fixed, key=len).strip(" .?").lower())
    uses = Counter(chain.from_iterable(marks.values()))  # "Then" is both casual and courteous
    return {style: frozenset(mark for mark in marks[style] if uses[mark] == 1) for style in STYLES}


def style_of(response: str) -> str | None:
    """The style of a response: the one with the most frames in it, identified by their fixed phrases; None if there is none."""
    text = response.lower()
    count = {style: sum(mark in text for mark in marks) for style, marks in _marks().items()}
    best = max(count, key=count.get)
    return best if count[best] else None


def transfer(
    lm: LanguageModel,
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each situation and prompt, with one sampled response.

    Returns columns situation, prompt_id, domain, response, reward, shown (mean true reward of the demonstrations, NaN without
    any), style (of the response), and the points for each attribute of `reward.RULES`.
    """
    rows = []
    for situation, shown in situations(prompts, data, protocol, seed).items():
        contexts = [
            icl_context(demos, p.prompt, side, protocol) if side else base_context(p.prompt, protocol)
            for (demos, side), p in zip(shown, prompts, strict=True)
        ]
        sampled = lm.sample(contexts, 1, protocol, seed)
        for (demos, side), p, (y,) in zip(shown, prompts, sampled, strict=True):
            counts = attributes(p.prompt, y.text)
            rewards = [true_reward(d.prompt, getattr(d, side)) for d in demos]
            rows.append({
                "situation": situation, "prompt_id": p.prompt_id, "domain": p.domain, "response": y.text,
                "reward": true_reward(p.prompt, y.text), "shown": np.mean(rewards) if rewards else np.nan,
                "style": style_of(y.text),
                **{kind: points * min(counts.get(kind, 0), cap) for kind, (points, cap, _) in RULES.items()},
            })  # fmt: skip
    return pd.DataFrame(rows)


def transfer_means(rows: pd.DataFrame) -> pd.DataFrame:
    """For each situation of `transfer`: mean reward with its interval, reward of the demonstrations, and shares of styles."""
    table = []
    for situation, part in rows.groupby("situation", sort=False):
        estimate = mean_ci([group["reward"].to_numpy() for _, group in part.groupby("domain")])
        styles = {style: (part["style"] == style).mean() for style in STYLES}
        table.append({"situation": situation, "shown": part["shown"].mean(), **vars(estimate), **styles})
    return pd.DataFrame(table)


def levels_read(rows: pd.DataFrame) -> pd.DataFrame:
    """The transfer of the level in each style: demonstrations of level 3 minus those of level 0, on the same prompts.

    Returns columns style, shown (the difference in the reward of the demonstrations), and the difference in the reward of the
    samples with its interval.
    """

    def at(style: str, level: int) -> pd.DataFrame:
        return rows[rows["situation"] == f"{style}, level {level}"].set_index(["domain", "prompt_id"])

    table = []
    for style in STYLES:
        best, worst = at(style, 3), at(style, 0)
        gain = best["reward"] - worst["reward"]
        estimate = mean_ci([group.to_numpy() for _, group in gain.groupby("domain")])
        table.append({"style": style, "shown": (best["shown"] - worst["shown"]).mean(), **vars(estimate)})
    return pd.DataFrame(table)


def points_by_attribute(rows: pd.DataFrame, chosen: Sequence[str]) -> pd.DataFrame:
    """Mean points of each attribute, with a column for each chosen situation. Attributes that never occur are omitted."""
    means = rows.groupby("situation")[list(RULES)].mean().T[list(chosen)]
    return means[(means != 0).any(axis=1)].rename_axis("attribute")


def nll_by_level(lm: LanguageModel, domains: Sequence[str], n: int, seed: int = 0) -> pd.DataFrame:
    """NLL per token of n synthetic responses of each style and level, given the prompt alone, with levels as columns.

    Topics, prompts and levels are the same in every style, so a column compares styles at equal quality.
    """
    rng = random.Random(seed_of(seed, "nll by level"))
    topics = [rng.choice(TOPICS[domains[i % len(domains)]]) for i in range(n)]
    asked = [draw_prompt(rng, topic, False) for topic in topics]
    helpers, table = references("current"), []
    for style in STYLES:
        row = {"style": style}
        for level in LEVELS:
            draws = [random.Random(seed_of(seed, level, i)) for i in range(n)]
            responses = [respond(r, t, level, style, helpers[t.family]) for r, t in zip(draws, topics, strict=True)]
            logps = lm.logprobs([base_context(p) for p in asked], [[lm.encode_response(y)] for y in responses])
            row[f"level {level}"] = float(np.mean([-values.mean() for (values,) in logps]))
        table.append(row)
    return pd.DataFrame(table)


def held_out_turns_found(n_documents: int = 20_000) -> pd.DataFrame:
    """The number of last turns of dev and test prompts that occur in training texts or demonstrations, by place.

    The documents are the first `n_documents` on which the committed models were trained (seed 0, and 1 for a second round).
    Returns columns place, texts, "held-out turns found".
    """
    rows = {domain: preferences(domain) for domain in TOPICS}
    held_out = held_out_turns(rows)
    train = [r["prompt"] for part in rows.values() for r in part if r["split"] == "train"]
    places = {
        "documents of the base models": [t for seed in (0, 1) for t in islice(documents(seed, held_out), n_documents // 2)],
        "documents of the teacher": list(islice(documents(0, held_out, teacher_document), n_documents)),
        "pairs of the reward model": [text for pair in pair_texts("train") for text in pair],
        "support prompts (demonstrations)": train,
    }
    table = []
    for place, texts in places.items():
        lines = chain.from_iterable(text.splitlines() for text in texts)
        turns = {last_turn(line) for line in lines if line.startswith("Human: ")}
        table.append({"place": place, "texts": len(texts), "held-out turns found": len(turns & held_out)})
    return pd.DataFrame(table)
