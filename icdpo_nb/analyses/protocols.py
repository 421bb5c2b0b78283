"""The same prompts under PAPER, REFERENCE and RECOMMENDED, and one setting at a time from RECOMMENDED to REFERENCE.

Settings act at three stages. Those of `SAMPLING` change what is sampled: the context, the distribution or where a response
ends. Those of `SCORING` change only which tokens are scored, under which contexts and how they are summed: the same candidates
are scored again. `totals` changes only how domains are averaged. Random numbers are common to all protocols: that of token t of
response j depends on the seed, the context and j alone, so under an equal context a response differs only where its setting
makes a difference.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import pandas as pd

from ..algorithm import responses_table, retrieve, select
from ..data.preferences import Preference, PreferenceSet, domains_of
from ..models.interface import LanguageModel
from ..models.tokens import Response
from ..protocol import PAPER, RECOMMENDED, REFERENCE, Protocol
from ..retrieval.retrievers import by_domain
from ..statistics.estimates import method_means, totals_of
from ..statistics.findings import HIGHER, LOWER, OPEN, SAME, SMALL
from ..templates import contexts
from .sampling import BASE, tables_of

SAMPLING = frozenset({
    "n_demos", "n_candidates", "top_p", "top_k", "temperature", "max_new_tokens", "stop",
    "template", "line_breaks", "most_similar_last", "bm25_window", "support",
})  # fmt: skip
SCORING = frozenset({"scored_tokens", "eos_scored", "reduction", "amateur"})
SUMMARY = frozenset({"totals"})
WHOLE = ("REFERENCE", "PAPER")  # variants that are whole protocols
START = "RECOMMENDED"
KEYS = ["lm", "source", "method", "domain", "prompt_id"]
AS_SAMPLED = {"scored_tokens": "sampled", "eos_scored": "if_sampled"}  # keeps every sampled token, whatever is scored later


def differences(a: Protocol, b: Protocol) -> dict[str, tuple[object, object]]:
    """The settings in which two protocols differ, with both values, in the order of the protocol's fields."""
    one, other = a.settings(), b.settings()
    return {name: (one[name], other[name]) for name in one if name != "name" and one[name] != other[name]}


def variants(own: Mapping[str, object] | None = None) -> dict[str, Protocol]:
    """The protocols to compare, by name: RECOMMENDED; each setting in which REFERENCE differs, alone; REFERENCE; PAPER.

    `own`: settings that hold in all of them, such as a notebook's n_demos; a setting among them is not varied. `totals` has
    no variant, since it changes no choice.
    """
    start, reference, paper = (p.but(**(own or {})) for p in (RECOMMENDED, REFERENCE, PAPER))
    steps = {k: new for k, (_, new) in differences(start, reference).items() if k not in SUMMARY}
    alone = {f"{name} = {value}": start.but(**{name: value}) for name, value in steps.items()}
    return {START: start, **alone, "REFERENCE": reference, "PAPER": paper}


def stage(protocol: Protocol, start: Protocol) -> str:
    """What a protocol changes against another one: "sampling", "scoring", both, or "nothing"."""
    changed = set(differences(start, protocol))
    return " and ".join(s for s, names in (("sampling", SAMPLING), ("scoring", SCORING)) if changed & names) or "nothing"


def settings_table(own: Mapping[str, object] | None = None) -> pd.DataFrame:
    """The settings in which the three protocols differ: their values, and the stage at which a setting acts."""
    protocols = [p.but(**(own or {})) for p in (RECOMMENDED, REFERENCE, PAPER)]
    stages = {**dict.fromkeys(SAMPLING, "sampling"), **dict.fromkeys(SCORING, "scoring"), **dict.fromkeys(SUMMARY, "summary")}
    names = {**differences(*protocols[:2]), **differences(protocols[0], protocols[2])}
    values = [[str(getattr(p, name)) for p in protocols] for name in names]
    rows = [(name, *of, stages[name]) for name, of in zip(names, values, strict=True)]
    return pd.DataFrame(rows, columns=["setting", START, *WHOLE, "acts in"])


def compare(
    prompts: Sequence[Preference],
    preferences: PreferenceSet,
    models: Mapping[str, LanguageModel],
    protocols: Mapping[str, Protocol],
    seed: int = 0,
    source: str = "",
) -> pd.DataFrame:
    """`candidates_under` of every model with the demonstrations of one source, with the columns of `ORIGIN`."""

    def table(lm: LanguageModel) -> pd.DataFrame:
        return candidates_under(prompts, preferences.support, lm, protocols, seed)

    return tables_of(models, {(source, "random", BASE): table})


def candidates_under(
    prompts: Sequence[Preference],
    support: Sequence[Preference],
    lm: LanguageModel,
    protocols: Mapping[str, Protocol],
    seed: int = 0,
) -> pd.DataFrame:
    """The candidates table under every protocol, with a column `variant` that names it; random demonstrations.

    Protocols with equal sampling settings share their candidates, which are sampled once and scored as each protocol says.
    """
    tables, groups = {}, {}
    for name, protocol in protocols.items():
        key = tuple(getattr(protocol, setting) for setting in sorted(SAMPLING))
        groups.setdefault(key, []).append(name)
    for names in groups.values():
        first = protocols[names[0]].but(**AS_SAMPLED)
        retrievers = by_domain("random", support, domains_of(prompts), first, seed=seed)
        demos = retrieve(prompts, retrievers, first.n_demos)
        texts = [contexts(ds, p.prompt, first, lm.render)["icl"] for ds, p in zip(demos, prompts, strict=True)]
        sampled = lm.sample(texts, first.n_candidates, first, seed)
        for name in names:
            tables[name] = _scored(prompts, demos, sampled, lm, protocols[name]).assign(variant=name)
    return pd.concat([tables[name] for name in protocols], ignore_index=True)


def _scored(
    prompts: Sequence[Preference],
    demos: Sequence[Sequence[Preference]],
    sampled: Sequence[Sequence[Response]],
    lm: LanguageModel,
    protocol: Protocol,
) -> pd.DataFrame:
    """The candidates table of sampled responses with the tokens and under the contexts of a protocol."""
    text = [contexts(ds, p.prompt, protocol, lm.render) for ds, p in zip(demos, prompts, strict=True)]
    return responses_table(prompts, demos, text, [[lm.as_scored(y, protocol) for y in ys] for ys in sampled], lm, protocol)


def choices_under(candidates: pd.DataFrame, name: str = "S") -> pd.DataFrame:
    """What the score `name` chooses under each variant, and whether that is another choice than under RECOMMENDED.

    `candidates`: as from `candidates_under`, with `reward`, lm and source. Returns columns lm, source, method (the variant),
    domain, prompt_id, response, reward, and as 0 or 1: flipped (another response is chosen), index (another candidate j is
    chosen) and resampled (some candidate of the prompt is another text than under RECOMMENDED).
    """
    by = ["lm", "source", "variant"]
    parts = [select(part, name).assign(method=part["variant"].iloc[0]) for _, part in candidates.groupby(by, sort=False)]
    chosen = pd.concat(parts, ignore_index=True)
    keys = ["lm", "source", "prompt_id"]
    pools = candidates.groupby([*by, "prompt_id"], sort=False)["response"].apply(tuple).rename("pool").reset_index()
    chosen = chosen.merge(pools, on=[*by, "prompt_id"])
    start = chosen[chosen["method"] == START].set_index(keys)[["response", "candidate_id", "pool"]]
    there = chosen.join(start, on=keys, rsuffix=" before")
    changed = {"flipped": "response", "index": "candidate_id", "resampled": "pool"}
    values = {new: (there[column] != there[f"{column} before"]).astype(float) for new, column in changed.items()}
    return chosen.assign(**values)[[*KEYS, "response", "reward", *changed]]


def flips_table(choices: pd.DataFrame, protocols: Mapping[str, Protocol], totals: str = "macro") -> pd.DataFrame:
    """How often each variant chooses another response than RECOMMENDED, and why it can, as a table of texts."""
    columns = {"resampled": "other candidates", "index": "another index chosen", "flipped": "another response chosen"}
    means = {c: totals_of(method_means(choices, c, totals, bounds=(0, 1))).reset_index(drop=True) for c in columns}
    ids = means["flipped"][["lm", "method"]]
    texts = {columns[c]: [_percent(row) for row in m.itertuples()] for c, m in means.items()}
    changes = [stage(protocols[name], protocols[START]) for name in ids["method"]]
    table = pd.DataFrame({"model": ids["lm"], "protocol": ids["method"], "changes": changes, **texts})
    table = table[table["protocol"] != START]
    return table if table["model"].nunique() > 1 else table.drop(columns="model")


def _percent(row) -> str:
    mean, low, high = (f"{100 * v:.0f}" for v in (row.mean, row.low, row.high))
    return f"{mean} % [–]" if low == "nan" else f"{mean} % [{low}, {high}]"


def totals_sentence(choices: pd.DataFrame) -> str:
    """How far the mean reward under RECOMMENDED depends on `totals`: over domains (macro) or over prompts (micro)."""
    start = choices[choices["method"] == START]
    moved = []
    for _, part in start.groupby(["lm", "source"], sort=False):
        moved.append(part["reward"].mean() - part.groupby("domain")["reward"].mean().mean())
    largest = max(moved, key=abs)
    if abs(largest) < 5e-3:
        return "The setting totals = micro changes no choice, and here no mean either."
    return f"The setting totals = micro changes no choice, but moves a mean, by {largest:+.2f} points at most."


WORDS = {HIGHER: "raise the reward", LOWER: "lower the reward", OPEN: "undecided", SMALL: "too small to matter",
         SAME: "nothing changed"}  # fmt: skip


def matters_sentence(claims: pd.DataFrame) -> str:
    """Which settings matter, in one sentence, from the claims `setting > RECOMMENDED` of one domain; whole protocols apart.

    A setting stands under every finding that it has in some model, with the number of models where they differ.
    """
    claims = claims.assign(name=claims["claim"].str.partition(" > ")[0])
    alone = claims[~claims["name"].isin(WHOLE)]
    if alone.empty:
        return "The protocols differ in no setting that changes a choice."
    said = [f"{words}: {', '.join(names)}" for words, names in _by_finding(alone).items()]
    whole = [
        f"{name} as a whole: {_finding_of(part)}"
        for name, part in claims[claims["name"].isin(WHOLE)].groupby("name", sort=False)
    ]
    lead = f"Of {alone['name'].nunique()} settings, changed one at a time from RECOMMENDED to REFERENCE, "
    return f"{lead}{'; '.join(chain(said, whole))}."


def _by_finding(alone: pd.DataFrame) -> dict[str, list[str]]:
    found = {}
    for finding, words in WORDS.items():
        names = []
        for name, part in alone.groupby("name", sort=False):
            k = int((part["finding"] == finding).sum())
            if k:
                names.append(name + (f" (in {k} of {len(part)} models)" if k < len(part) else ""))
        if names:
            found[words] = names
    return found


def _finding_of(part: pd.DataFrame) -> str:
    counts = part["finding"].value_counts()
    return ", ".join(f"{f}{f' in {k} of {len(part)}' if len(counts) > 1 else ''}" for f, k in counts.items())
