"""What a context transfers in the sandbox: heading, level, style, helper. One cause is changed at a time, the rest kept.

A prompt is answered alone, under the template without demonstrations, with demonstrations made for the purpose (every
level in every style, the helper always the current one), and with those of each source. The true reward of the samples
says what came across, and its points by attribute say what was lost. Nothing here selects or trains anything.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice

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
SAME_FAMILY = "courteous, level 3, same topic family"  # beside random topics: what the helper adds
Shown = tuple[list[Preference], str | None]  # demonstrations, and the heading's side; None is the prompt alone


def made_demonstrations(domain: str, level: int, style: str, n: int, seed: int, family: str | None = None) -> list[Preference]:
    """n fresh demonstrations of one level and style on topics of a domain (and family), with current helpers."""
    rng, helpers, made = random.Random(seed), references("current"), []
    for topic in rng.choices([t for t in TOPICS[domain] if family in (None, t.family)], k=n):
        prompt = draw_prompt(rng, topic, domain != "instructions" and rng.random() < 1 / 3)
        response = respond(rng, topic, level, style, helpers[topic.family])
        made.append(Preference(f"made-{len(made)}", domain, prompt, response, response))
    return made


def situations(
    prompts: Sequence[Preference], data: Mapping[str, PreferenceSet], protocol: Protocol = RECOMMENDED, seed: int = 0
) -> dict[str, list[Shown]]:
    """What is shown before each prompt, by the name of the situation; all demonstrations are drawn at random."""
    found: dict[str, list[Shown]] = {"prompt alone": [([], None)] * len(prompts)}
    for side in ("chosen", "rejected"):
        found[f"{side} heading alone"] = [([], side)] * len(prompts)
    for style in STYLES:
        for level in LEVELS:
            seeds = [seed_of(seed, "diagnosis", style, level, p.prompt_id) for p in prompts]
            found[f"{style}, level {level}"] = [
                (made_demonstrations(p.domain, level, style, protocol.n_demos, s), "chosen")
                for p, s in zip(prompts, seeds, strict=True)
            ]
    near = [(p, find_topic(p.prompt), seed_of(seed, "diagnosis", "family", p.prompt_id)) for p in prompts]
    found[SAME_FAMILY] = [
        (made_demonstrations(p.domain, 3, "courteous", protocol.n_demos, s, topic and topic.family), "chosen")
        for p, topic, s in near
    ]
    for source, given in data.items():
        retrievers = by_domain("random", given.support, domains_of(prompts), protocol, seed=seed)
        shown = [retrievers[p.domain].retrieve([p.prompt], protocol.n_demos)[0] for p in prompts]
        found[source] = [(demos, "chosen") for demos in shown]
        if source == "raw":  # the amateur of Ŝ with any source: teachers have no rejected responses of their own
            found["raw, rejected"] = [(demos, "rejected") for demos in shown]
    return found


@cache
def _marks() -> dict[str, frozenset[str]]:
    """The longest fixed words of each style's frames that no other style has."""
    marks = {}
    for style in STYLES:
        frames = [f for kind in FRAMES.values() for f in kind[style]]
        frames = [f for nested in frames for f in (nested if isinstance(nested, list) else [nested])]
        parts = {max(f.replace("{tail}", "{p}").replace("{who}", "{p}").split("{p}"), key=len).strip(" .?") for f in frames}
        marks[style] = {part.lower() for part in parts}
    shared = {m for a in STYLES for b in STYLES if a < b for m in marks[a] & marks[b]}  # "Then", casual and courteous
    return {style: frozenset(marks[style] - shared) for style in STYLES}


def style_of(response: str) -> str | None:
    """The style that a response speaks: whose frames it holds most of, by their longest fixed words; None for none."""
    said = response.lower()
    count = {style: sum(mark in said for mark in marks) for style, marks in _marks().items()}
    best = max(count, key=count.get)
    return best if count[best] else None


def transfer(
    lm: LanguageModel,
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a situation and prompt, one sampled response each.

    Columns: situation, prompt_id, domain, response, reward, shown (mean true reward of the demonstrations, NaN for none),
    style (of the response), and for each attribute of `reward.RULES` the points it earned.
    """
    rows = []
    for situation, shown in situations(prompts, data, protocol, seed).items():
        pairs = list(zip(shown, prompts, strict=True))
        contexts = [icl_context(d, p.prompt, s, protocol) if s else base_context(p.prompt, protocol) for (d, s), p in pairs]
        sampled = lm.sample(contexts, 1, protocol, seed)
        for ((demos, side), p), (y,) in zip(pairs, sampled, strict=True):
            found = attributes(p.prompt, y.text)
            own = [true_reward(d.prompt, getattr(d, side)) for d in demos]
            rows.append({
                "situation": situation, "prompt_id": p.prompt_id, "domain": p.domain, "response": y.text,
                "reward": true_reward(p.prompt, y.text), "shown": np.mean(own) if own else np.nan, "style": style_of(y.text),
                **{kind: points * min(found.get(kind, 0), cap) for kind, (points, cap, _) in RULES.items()},
            })  # fmt: skip
    return pd.DataFrame(rows)


def transfer_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Each situation of `transfer`: reward with its interval over prompts, own reward of what was shown, style of what came."""
    table = []
    for situation, part in rows.groupby("situation", sort=False):
        found = mean_ci([group["reward"].to_numpy() for _, group in part.groupby("domain")])
        styles = {style: (part["style"] == style).mean() for style in STYLES}
        table.append({"situation": situation, "shown": part["shown"].mean(), **vars(found), **styles})
    return pd.DataFrame(table)


def levels_read(rows: pd.DataFrame) -> pd.DataFrame:
    """How much of a level comes across in each style: demonstrations of level 3 minus those of level 0, on the same prompts.

    Columns style, shown (that difference in the demonstrations' own reward), and in the samples' reward with its interval.
    """
    table = []
    for style in STYLES:
        best, worst = (
            rows[rows["situation"] == f"{style}, level {level}"].set_index(["domain", "prompt_id"]) for level in (3, 0)
        )
        gain = best["reward"] - worst["reward"]
        found = mean_ci([group.to_numpy() for _, group in gain.groupby("domain")])
        table.append({"style": style, "shown": (best["shown"] - worst["shown"]).mean(), **vars(found)})
    return pd.DataFrame(table)


def points_by_attribute(rows: pd.DataFrame, chosen: Sequence[str]) -> pd.DataFrame:
    """Mean points of each attribute in the chosen situations, a column each; what never occurs is left out."""
    means = rows.groupby("situation")[list(RULES)].mean().T[list(chosen)]
    return means[(means != 0).any(axis=1)].rename_axis("attribute")


def nll_by_level(lm: LanguageModel, domains: Sequence[str], n: int, seed: int = 0) -> pd.DataFrame:
    """NLL per token of n made responses of each style and level, given the prompt alone; levels as the columns.

    The same topics, prompts and levels stand in every style, so that a column compares styles at equal quality.
    """
    rng = random.Random(seed_of(seed, "nll by level"))
    topics = [rng.choice(TOPICS[domains[i % len(domains)]]) for i in range(n)]
    asked = [draw_prompt(rng, topic, False) for topic in topics]
    helpers, table = references("current"), []
    for style in STYLES:
        row = {"style": style}
        for level in LEVELS:
            draws = [random.Random(seed_of(seed, level, i)) for i in range(n)]
            said = [respond(r, t, level, style, helpers[t.family]) for r, t in zip(draws, topics, strict=True)]
            found = lm.logprobs([base_context(p) for p in asked], [[lm.encode_response(y)] for y in said])
            row[f"level {level}"] = float(np.mean([-logps.mean() for (logps,) in found]))
        table.append(row)
    return pd.DataFrame(table)


def held_out_turns_found(n_documents: int = 20_000) -> pd.DataFrame:
    """How many last turns of dev and test prompts occur in what is trained on or demonstrated; columns place, texts, found.

    Documents are those that the committed models were trained on (seed 0, and 1 for a second round), the first `n_documents`.
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
        asked = {last_turn(line) for text in texts for line in text.splitlines() if line.startswith("Human: ")}
        table.append({"place": place, "texts": len(texts), "held-out turns found": len(asked & held_out)})
    return pd.DataFrame(table)
