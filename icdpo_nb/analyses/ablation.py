"""One setting at a time: what the number, order and choice of demonstrations do to ICDPO.

The paper uses m = 2 demonstrations and leaves other numbers open (Limitations). A `Variant` changes one setting of the base
configuration; all variants answer the same prompts with the same random numbers, so differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..algorithm import candidates_table, select
from ..common.errors import TooLongError
from ..common.escaping import signs
from ..data.preferences import Preference, PreferenceSet, domains_of
from ..judging.rewards import Reward, with_rewards
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.reranking import DiverseRetriever, ShuffledRetriever, WithoutNearDuplicates, near_duplicate
from ..retrieval.retrievers import Retriever, by_domain
from ..statistics.estimates import GROUPS, method_gains, totals_of
from ..statistics.findings import HIGHER, LOWER, OPEN, SAME, SMALL, listed
from ..statistics.verdicts import Reported, claims
from ..templates import contexts
from .consistency import reciprocal_rank

DEMOS, ORDER, RETRIEVER, WINDOW, DIVERSITY = "demonstrations (m)", "order", "retriever", "BM25 window (L)", "diversity"
LAST, FIRST, SHUFFLED = "most similar last", "most similar first", "shuffled"


@dataclass(frozen=True)
class Variant:
    """The base configuration with one setting changed to a value."""

    setting: str
    value: str
    protocol: Protocol
    retriever: str = "R"
    weight: float = 0.0  # of redundancy in maximal marginal relevance; 0: only the similarity to the prompt counts
    shuffled: bool = False

    def retrievers(self, support: Sequence[Preference], domains: Sequence[str], near: str, **options) -> dict[str, Retriever]:
        """The retriever of each domain. `near`: "drop" or "keep" near-duplicates of the prompt; `options` as in `by_domain`."""
        found = by_domain(self.retriever, support, domains, self.protocol, **options)
        if near == "drop":
            found = {domain: WithoutNearDuplicates(r) for domain, r in found.items()}
        if self.weight:
            found = {domain: DiverseRetriever(r, options["embed"], self.weight) for domain, r in found.items()}
        if self.shuffled:
            found = {domain: ShuffledRetriever(r, options["seed"]) for domain, r in found.items()}
        return found


def variants(
    base: Protocol, retriever: str, n_demos: Sequence[int], windows: Sequence[int], weights: Sequence[float]
) -> list[Variant]:
    """The base configuration and its variants, setting by setting. Each setting includes the base value.

    Order, window and diversity only matter to a retriever that ranks; with `retriever` "random" they are left out. L only
    matters to BM25 and R.
    """

    def but(setting: str, value: object, kind: str = retriever, **changes) -> Variant:
        own = {name: changes.pop(name) for name in ("weight", "shuffled") if name in changes}
        return Variant(setting, str(value), base.but(**changes), kind, **own)

    found = [but(DEMOS, m, n_demos=m) for m in sorted({*n_demos, base.n_demos})]
    found += [but(RETRIEVER, kind, kind) for kind in ("random", "BM25", "SBERT", "R")]
    if retriever != "random":
        own_order = base.most_similar_last
        found += [but(ORDER, _order(last), most_similar_last=last) for last in (own_order, not own_order)]
        found += [but(ORDER, SHUFFLED, shuffled=True)]
        found += [but(DIVERSITY, f"{w:g}", weight=w) for w in sorted({0.0, *weights})]
    if retriever in ("BM25", "R"):
        found += [but(WINDOW, w, bm25_window=w) for w in sorted({*windows, base.bm25_window})]
    return found


def _order(most_similar_last: bool) -> str:
    return LAST if most_similar_last else FIRST


def base_values(base: Protocol, retriever: str) -> dict[str, str]:
    """The value of each setting in the base configuration, by setting."""
    order = _order(base.most_similar_last)
    return {
        DEMOS: str(base.n_demos), RETRIEVER: retriever, ORDER: order, DIVERSITY: "0", WINDOW: str(base.bm25_window),
    }  # fmt: skip


def outcomes(
    found: Sequence[Variant],
    prompts: Sequence[Preference],
    preferences: PreferenceSet,
    lm: LanguageModel,
    reward: Reward,
    embed: Embedder,
    seed: int = 0,
    near: str = "drop",
) -> tuple[pd.DataFrame, list[Variant]]:
    """What ICDPO chooses under every variant, one row for each variant and prompt, and the variants that do not fit.

    Columns: lm, source (the setting), method (the value), domain, prompt_id, reward (of the choice of S), gain (this reward
    minus the mean over the candidates), mrr (reciprocal rank of the choice in the order of the reward), and tokens (through
    the model for the prompt, each context computed once). A variant does not fit if a context exceeds the model's window.
    """
    known: dict[tuple, pd.DataFrame] = {}  # the base configuration occurs under every setting
    parts, too_long = [], []
    for v in found:
        key = (v.protocol, v.retriever, v.weight, v.shuffled)
        try:
            if key not in known:
                options = {"seed": seed, "embed": embed, "tokenize": lm.tokenize}
                retrievers = v.retrievers(preferences.support, domains_of(prompts), near, **options)
                table = with_rewards(candidates_table(prompts, retrievers, lm, v.protocol, seed), reward=reward)
                known[key] = _per_prompt(table, preferences, lm, v.protocol)
            parts.append(known[key].assign(lm=lm.name, source=v.setting, method=v.value))
        except TooLongError:
            too_long.append(v)
    return pd.concat(parts, ignore_index=True)[[*GROUPS, "method", *known[next(iter(known))]]], too_long


def _per_prompt(table: pd.DataFrame, preferences: PreferenceSet, lm: LanguageModel, protocol: Protocol) -> pd.DataFrame:
    """The columns of `outcomes` from domain on, for one candidates table."""
    chosen = select(table, "S")
    by_prompt = table.groupby("prompt_id", sort=False)
    mrr = [reciprocal_rank(part["S"].to_numpy(), part["reward"].to_numpy()) for _, part in by_prompt]
    demos = {d.prompt_id: d for d in preferences.support}
    context = [
        contexts([demos[i] for i in ids], x, protocol, lm.render)
        for ids, x in zip(chosen["demo_ids"], chosen["prompt"], strict=True)
    ]
    before = np.add(*(lm.count_tokens([c[name] for c in context]) for name in ("icl", "base")))
    return chosen[["domain", "prompt_id", "reward"]].assign(
        gain=chosen["reward"] - by_prompt["reward"].mean().to_numpy(),
        mrr=mrr,
        tokens=before + 2 * by_prompt["n_tokens"].sum().to_numpy(),  # sampled under [d; x], scored under x
    )


def near_duplicates(prompts: Sequence[Preference], retrievers: Mapping[str, Retriever], k: int) -> list[tuple[str, str]]:
    """The (prompt_id, prompt_id of the demonstration) among the k best demonstrations that are near-duplicates of a prompt."""
    found = []
    for domain, retriever in retrievers.items():
        asked = [p for p in prompts if p.domain == domain]
        for p, demos in zip(asked, retriever.retrieve([p.prompt for p in asked], k), strict=True):
            found += [(p.prompt_id, d.prompt_id) for d in demos if near_duplicate(d.prompt, p.prompt)]
    return found


def effects(
    table: pd.DataFrame, base: Mapping[str, str], margin: float, value: str = "reward", totals: str = "macro", seed: int = 0
) -> pd.DataFrame:
    """Paired difference of every value of a setting from the base value, as from `verdicts.claims`; the paper reports none.

    `table`: as from `outcomes`; `base`: as from `base_values`; `margin`: the smallest difference that matters, in the unit of
    `value`. The columns source (the setting), method and baseline (values) name a difference.
    """
    parts = []
    for setting, part in table.groupby("source", sort=False):
        pairs = [(v, base[setting]) for v in part["method"].unique() if v != base[setting]]
        if pairs:
            parts.append(method_gains(part, pairs, value, totals, seed))
    gains = pd.concat(parts, ignore_index=True)
    return claims(gains, margin, lambda *_: Reported()).assign(method=gains["method"], baseline=gains["baseline"])


def effects_table(found: pd.DataFrame, by_mrr: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The effects on reward and on MRR and the cost of every value of a setting, as a table of texts for a reader."""
    means = table.groupby(["source", "method"], sort=False)[["reward", "tokens"]].mean()
    keys = ["source", "method"]
    reward, mrr = (totals_of(t).set_index(keys) for t in (found, by_mrr))
    rows = []
    for (setting, value), mean in means.iterrows():
        own = (setting, value) in reward.index
        rows.append({
            "setting": setting, "value": value, "mean reward": mean["reward"],
            "difference in reward": reward.loc[setting, value]["here"] if own else "base",
            "finding": reward.loc[setting, value]["finding"] if own else "–",
            "difference in MRR": mrr.loc[setting, value]["here"] if own else "base",
            "tokens per prompt": round(mean["tokens"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


WORDS = {  # what a sentence says of the values with a finding
    HIGHER: "a higher reward with {}",
    LOWER: "a lower reward with {}",
    SMALL: "no difference that matters with {}",
    SAME: "the same answers with {}",
    OPEN: "undecided with {}",
}


def effects_sentence(found: pd.DataFrame, where: str) -> str:
    """One sentence for all settings: which values give another mean reward than the base configuration, and by how much.

    `where` begins it: "For sandbox-large on 100 test prompts".
    """
    of = totals_of(found)
    named = {
        finding: listed([signs(f"{r.source} {r.method} ({r.mean:+.2f})") for r in of[of["finding"] == finding].itertuples()])
        for finding in (HIGHER, LOWER)
    }
    parts = [f"{finding} with {values}" for finding, values in named.items() if values]
    others = int((~of["finding"].isin([HIGHER, LOWER])).sum())
    if not parts:
        return (
            f"{where}, none of {len(of)} values of the settings is shown to change the mean reward of the base configuration."
        )
    rest = f"; the other {others} are not shown to change it" if others > 1 else "; the other one is not" if others else ""
    values = "value" if len(of) == 1 else "values"
    return f"{where}, of {len(of)} {values} of the settings the mean reward is {' and '.join(parts)}{rest}."


def effect_sentences(found: pd.DataFrame) -> list[str]:
    """One sentence for each setting: which values give a higher or lower reward than the base value, and by how much."""
    sentences = []
    for setting, part in totals_of(found).groupby("source", sort=False):
        parts = []
        for finding, words in WORDS.items():
            of = part[part["finding"] == finding]
            decided = finding in (HIGHER, LOWER)
            values = [f"{r.method}{signs(f' ({r.mean:+.2f})') if decided else ''}" for r in of.itertuples()]
            if values:
                parts.append(words.format(listed(values)))
        sentences.append(f"{setting[0].upper()}{setting[1:]}, against {part['baseline'].iloc[0]}: {'; '.join(parts)}.")
    return sentences
