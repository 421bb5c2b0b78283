"""A check-up of a preference set: lengths, duplicates and leaks, and how far chosen and rejected can be told apart.

Ŝ (Eq. 11) contrasts chosen with rejected demonstrations. According to the paper (section 3.2, RQ3) "the estimation of S
collapses" if these "are not sufficiently good/bad", and R makes it worse. So the check-up measures whether the two sides can be
told apart at all: by length, by the model's own NLL per token, and by sentence embeddings.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet, domains_of
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..protocol import RECOMMENDED, Protocol
from ..retrieval.retrievers import Retriever, TwoStageRetriever, words
from ..templates import base_context, icl_context

SIDES = ("chosen", "rejected")
LONGER, LIKELIER, EMBEDDED = "longer", "lower NLL per token", "embeddings, cross-validated"  # what tells the sides apart
CHANCE = 0.5  # share of pairs that a coin would order as labelled
FOLDS = 5  # of the cross-validation, over prompts
NEAR = 0.95  # cosine from which on two prompts are considered nearly the same
SPEAKERS = {"human", "assistant"}  # words of a dialogue that nobody says
SPLITS = ("support", "dev", "test")


def all_pairs(data: PreferenceSet) -> pd.DataFrame:
    """The pairs of all splits: columns split and those of a `Preference`."""
    rows = [{"split": split, **vars(p)} for split in SPLITS for p in getattr(data, split)]
    return pd.DataFrame(rows)


def split_sizes(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs, distinct prompts and pairs by domain of each split."""
    rows = []
    for split, part in pairs.groupby("split", sort=False):
        by_domain = ", ".join(f"{n} {domain}" for domain, n in part["domain"].value_counts(sort=False).items())
        rows.append({"split": split, "pairs": len(part), "prompts": part["prompt"].nunique(), "by domain": by_domain})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- lengths


def text_lengths(
    pairs: pd.DataFrame,
    prompts: Sequence[Preference],
    retrievers: Mapping[str, Retriever],
    lm: LanguageModel,
    protocol: Protocol = RECOMMENDED,
    limits: tuple[int, int] = (0, 0),
) -> pd.DataFrame:
    """Lengths in tokens of the model: of prompts, of both sides, and of the contexts [d; x] of the test prompts.

    `limits`: the longest prompt and response that the run keeps, 0 for no limit. Returns columns text, n, median, 95 %,
    longest, over the limit, and beyond the window: shares of the texts, the latter of those that the model cannot read with
    what belongs to them (a side with its prompt, a context with `max_new_tokens` more).
    """
    demos = [retrievers[p.domain].retrieve([p.prompt], protocol.n_demos)[0] for p in prompts]
    contexts = [icl_context(ds, p.prompt, "chosen", protocol, lm.render) for ds, p in zip(demos, prompts, strict=True)]
    window = lm.max_length or np.inf
    n_prompt = np.array(lm.count_tokens(list(pairs["prompt"])))
    counted = {"prompt": (n_prompt, limits[0], n_prompt)}
    for side in SIDES:
        n = np.array(lm.count_tokens(list(pairs[side])))
        counted[side] = (n, limits[1], n_prompt + n)
    n_context = np.array(lm.count_tokens(contexts))
    counted["context [d; x]"] = (n_context, 0, n_context + protocol.max_new_tokens)
    rows = []
    for name, (n, limit, whole) in counted.items():
        quantiles = {"median": int(np.median(n)), "95 %": int(np.quantile(n, 0.95)), "longest": int(n.max())}
        over = f"{(n > limit).mean():.0%} (over {limit})" if limit else "–"
        rows.append({"text": name, "n": len(n), **quantiles, "over the limit": over,
                     "beyond the window": f"{(whole > window).mean():.0%}"})  # fmt: skip
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- duplicates and leaks


def repeats(pairs: pd.DataFrame) -> pd.DataFrame:
    """Texts that occur more than once, within and between splits, exactly and up to case, punctuation and white space.

    Returns columns finding, pairs (how many it concerns), of (how many could have it), and examples (ids).
    """
    x, (chosen, rejected) = pairs["prompt"].map(_normalised), (pairs[side].map(_normalised) for side in SIDES)
    triples = list(zip(x, chosen, rejected, strict=True))
    known = set(triples)
    swapped = pd.Series([(p, b, a) in known for p, a, b in triples], pairs.index)
    test = pairs["split"].eq("test")
    others_exact, others = set(pairs.loc[~test, "prompt"]), set(x[~test])
    exact_again = pairs.duplicated(["split", "prompt"])
    exact_leak, leak = test & pairs["prompt"].isin(others_exact), test & x.isin(others)
    several = pd.Series(False, pairs.index)
    for side in (chosen, rejected):
        several |= side.map(x.groupby(side).nunique()).gt(1)
    found = [
        ("prompt again in its split, exactly", exact_again, len(pairs)),
        ("prompt again in its split, nearly", pd.concat([pairs["split"], x], axis=1).duplicated() & ~exact_again, len(pairs)),
        ("same pair with the sides swapped", swapped, len(pairs)),
        ("same response to different prompts", several, len(pairs)),
        ("test prompt in another split, exactly", exact_leak, int(test.sum())),
        ("test prompt in another split, nearly", leak & ~exact_leak, int(test.sum())),
    ]
    return pd.DataFrame([_finding(name, pairs.loc[marked, "prompt_id"], of) for name, marked, of in found])


def near_demonstrations(
    prompts: Sequence[Preference], support: Sequence[Preference], embed: Embedder, lm: LanguageModel
) -> dict[str, object]:
    """A row of `repeats` for the test prompts whose nearest demonstration by R has a cosine of at least `NEAR`.

    Prompts that are the same up to case, punctuation and white space are left out, since `repeats` counts them.
    """
    nearest = [d[0] for d in TwoStageRetriever(support, embed, tokenize=lm.tokenize).retrieve([p.prompt for p in prompts], 1)]
    vectors = embed([p.prompt for p in prompts]), embed([d.prompt for d in nearest])
    cosine = (vectors[0] * vectors[1]).sum(1)
    differ = np.array([_normalised(p.prompt) != _normalised(d.prompt) for p, d in zip(prompts, nearest, strict=True)])
    ids = pd.Series([p.prompt_id for p in prompts])[(cosine >= NEAR) & differ]
    return _finding(f"test prompt with a demonstration of cosine {NEAR} or more", ids, len(prompts))


def repeats_sentence(found: pd.DataFrame) -> str:
    """What of `repeats` needs attention, in a sentence; `found` may hold further rows of its kind."""
    rows = [f"{r.finding} ({r.pairs:,} of {r.of:,})" for r in found.itertuples() if r.pairs]
    return (
        f"Texts that occur twice: {'; '.join(rows)}." if rows else "No text occurs twice, and no test prompt among the others."
    )


def _finding(name: str, ids: pd.Series, of: int) -> dict[str, object]:
    examples = ", ".join(ids.head(3)) + (", …" if len(ids) > 3 else "")
    return {"finding": name, "pairs": len(ids), "of": of, "examples": examples or "–"}


def _normalised(text: str) -> str:
    found = words(text)
    return " ".join(found) if set(found) - SPEAKERS else text.strip()  # a text without words stands for itself


# ---------------------------------------------------------------- telling the sides apart


def sampled_pairs(
    data: PreferenceSet, n: int, models: Mapping[str, LanguageModel], domains: Sequence[str] = (), seed: int = 0
) -> tuple[list[Preference], int]:
    """n random support pairs of each of the domains (all if none given), and how many of those drawn were left out.

    A pair whose texts exceed the window of a model is left out. Raises `InputError` if none is left.
    """
    rng = np.random.default_rng(seed)
    drawn: list[Preference] = []
    for domain in domains or domains_of(data.support):
        of_domain = [p for p in data.support if p.domain == domain]
        drawn += [of_domain[i] for i in sorted(rng.permutation(len(of_domain))[:n])]
    fits = np.ones(len(drawn), bool)
    for lm in models.values():
        n_prompt, *n_sides = (np.array(lm.count_tokens([getattr(p, name) for p in drawn])) for name in ("prompt", *SIDES))
        fits &= n_prompt + np.maximum(*n_sides) + 8 <= (lm.max_length or np.inf)  # 8: the words around them
    if not fits.any():
        raise InputError(f"no pair of {data.name} fits the window of {', '.join(models)}; choose a model with a longer one")
    return [p for p, fit in zip(drawn, fits, strict=True) if fit], int((~fits).sum())


def pair_values(
    pairs: Sequence[Preference], lm: LanguageModel, embed: Embedder, protocol: Protocol = RECOMMENDED, seed: int = 0
) -> pd.DataFrame:
    """NLL per token (nats) and tokens of both sides of each pair, and whether embeddings order it as labelled.

    Returns columns lm, domain, prompt_id (the first pair's with this prompt), nll_chosen, nll_rejected, tokens_chosen,
    tokens_rejected, and embedded (see `embedding_order`).
    """
    encoded = [[lm.encode_response(getattr(p, side), protocol) for side in SIDES] for p in pairs]
    logps = lm.logprobs([base_context(p.prompt, protocol, lm.render) for p in pairs], encoded)
    table = pd.DataFrame({"lm": lm.name, "domain": [p.domain for p in pairs], "prompt_id": prompt_groups(pairs)})
    for j, side in enumerate(SIDES):
        table[f"nll_{side}"] = [-float(values[j].mean()) for values in logps]
        table[f"tokens_{side}"] = [len(values[j]) for values in logps]
    return table.assign(embedded=embedding_order(pairs, embed, seed))


def prompt_groups(pairs: Sequence[Preference]) -> list[str]:
    """For each pair the id of the first with the same prompt, up to case, punctuation and white space."""
    first: dict[str, str] = {}
    return [first.setdefault(_normalised(p.prompt), p.prompt_id) for p in pairs]


def embedding_order(pairs: Sequence[Preference], embed: Embedder, seed: int = 0) -> np.ndarray:
    """1 for each pair that held-out embeddings order as labelled, 0 if they do not, 0.5 for ties; shape (n_pairs,).

    A Bradley-Terry head on sentence embeddings (as in `rewards.EmbeddingReward`) is fitted on the other folds; all pairs of a
    prompt are in the same fold. NaN for all pairs if there are fewer prompts than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    groups = np.unique(prompt_groups(pairs), return_inverse=True)[1]
    if groups.max() + 1 < FOLDS:
        return np.full(len(pairs), np.nan)
    turns = [p.prompt.rpartition("Human: ")[2] for p in pairs]  # the last turn only, so that the response fits the encoder
    chosen, rejected = (
        embed([f"Human: {x}\n\nAssistant: {getattr(p, side)}" for x, p in zip(turns, pairs, strict=True)]) for side in SIDES
    )
    gap = chosen.astype(float) - rejected
    features, labels = np.vstack([gap, -gap]), np.repeat([1, 0], len(gap))  # each pair in both directions: chance is 0.5
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    head = LogisticRegression(fit_intercept=False)
    margin = cross_val_predict(head, features, labels, groups=np.tile(groups, 2), cv=folds, method="decision_function")
    return (np.sign(margin[: len(gap)]) + 1) / 2


def shares(values: pd.DataFrame) -> pd.DataFrame:
    """Which way each prompt's pairs are ordered: an input for `estimates.method_means`, with values from 0 to 1.

    Returns columns lm, source, method (`LONGER`, `LIKELIER`, `EMBEDDED`), domain, prompt_id and share: of the prompt's pairs
    whose chosen response is longer, likelier, or above the rejected one by held-out embeddings; ties count one half.
    """
    signs = {
        LONGER: values["tokens_chosen"] - values["tokens_rejected"],
        LIKELIER: values["nll_rejected"] - values["nll_chosen"],
        EMBEDDED: 2 * values["embedded"] - 1,
    }
    ids = values[["lm", "domain", "prompt_id"]].assign(source="")
    parts = [ids.assign(method=name, share=(np.sign(sign) + 1) / 2) for name, sign in signs.items() if sign.notna().all()]
    return _by_prompt(pd.concat(parts, ignore_index=True), "share")


def side_values(values: pd.DataFrame, name: str) -> pd.DataFrame:
    """`nll` or `tokens` of both sides of each prompt, as an input for `estimates.method_gains`: the method is the side."""
    ids = values[["lm", "domain", "prompt_id"]].assign(source="")
    parts = [ids.assign(method=side, **{name: values[f"{name}_{side}"].astype(float)}) for side in SIDES]
    return _by_prompt(pd.concat(parts, ignore_index=True), name)


def _by_prompt(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """The mean over the pairs of a prompt, since these are not independent of each other."""
    return table.groupby(["lm", "source", "method", "domain", "prompt_id"], sort=False)[value].mean().reset_index()
