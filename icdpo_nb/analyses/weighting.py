"""What RPO's weights do on a model: how large its scores are, and whether weightings differ in their gradients and answers.

The weights of a row sum to 1 and stand inside log σ (arXiv:2402.10958, Eqs. 11, 12 and 14). While |β ω (r_i - r_j)| is small,
log σ is a straight line there, in which such weights cancel: every weighting then has nearly the same gradient, and trains the
same policy. So before a table of weightings is read, one looks at the size of the scores.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..data.preferences import Preference
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..models.lm import load_lm
from ..protocol import RECOMMENDED, Protocol
from ..statistics.verdicts import INERT
from ..store.stored import stored
from ..templates import base_context
from ..training.finetune import Plan, drawn, fine_tune_all
from ..training.losses import contrast_matrix, diagonal_weights, gradient_cosine, prompt_weights, uniform_weights
from ..training.recipes import TAUS, Recipe
from .policies import Trained, adapter_name

WEIGHTINGS = {f"τ = {tau}": ("embedding", tau) for tau in (0.25, 0.5, 0.75)} | {
    "diagonal": ("diagonal", 0.0)
}  # against uniform


def log_ratios(
    pairs: Sequence[Preference], policy: LanguageModel, reference: LanguageModel, protocol: Protocol = RECOMMENDED
) -> tuple[np.ndarray, np.ndarray]:
    """log π - log π_ref of the chosen and of the rejected responses, EOS included, summed over tokens, nats; shapes (M,)."""
    always, contexts = protocol.but(eos_scored="always"), [base_context(p.prompt, protocol) for p in pairs]
    given = [[policy.encode_response(y, always) for y in (p.chosen, p.rejected)] for p in pairs]
    logps = [np.array([[v.sum(dtype=float) for v in ys] for ys in lm.logprobs(contexts, given)]) for lm in (policy, reference)]
    chosen, rejected = (logps[0] - logps[1]).T
    return chosen, rejected


def contrasts(
    pairs: Sequence[Preference],
    policy: LanguageModel,
    reference: LanguageModel,
    embed: Embedder,
    recipe: Recipe,
    protocol: Protocol = RECOMMENDED,
) -> tuple[np.ndarray, np.ndarray]:
    """What paired RPO sees of M prompts: its weights (Eqs. 10 to 13) and β (r_i - r_j) (Eq. 9); shapes (M, M), nats.

    The row is the chosen, the column the rejected response.
    """
    scores = contrast_matrix(*log_ratios(pairs, policy, reference, protocol), beta=recipe.beta)
    return _weights(pairs, recipe.weighting, recipe.tau, recipe.alpha, embed).numpy(), scores.numpy()


def _weights(pairs: Sequence[Preference], weighting: str, tau: float, alpha: float, embed: Embedder | None):
    if weighting == "uniform":
        return uniform_weights(len(pairs), len(pairs))
    if weighting == "diagonal":
        return diagonal_weights(len(pairs), alpha)
    vectors = embed([p.prompt for p in pairs])
    return prompt_weights(vectors, vectors, tau or TAUS["RPO-Paired"])


def weight_effect(
    pairs: Sequence[Preference],
    policy: LanguageModel,
    reference: LanguageModel,
    embed: Embedder,
    recipe: Recipe,
    protocol: Protocol = RECOMMENDED,
) -> dict[str, float]:
    """At a policy of paired RPO: the size of its scores, and how far other weightings would have another gradient there.

    "size": the median of |β ω (r_i - r_j)| over all contrasts, with the recipe's own weights, nats. "cosine, …": of the
    gradient by the log-ratios under a weighting and under uniform weights (`losses.gradient_cosine`). `pairs` make matrices as
    in training; the cosines are means over them, and what does not fill a matrix is left out unless there is no other.
    """
    m = min(recipe.matrix or recipe.batch, len(pairs))
    sizes, cosines = [], {name: [] for name in WEIGHTINGS}
    for i in range(0, len(pairs) - m + 1, m):
        part = pairs[i : i + m]
        chosen, rejected = log_ratios(part, policy, reference, protocol)
        own, uniform = _weights(part, recipe.weighting, recipe.tau, recipe.alpha, embed), uniform_weights(m, m)
        sizes.append(contrast_matrix(chosen, rejected, own, recipe.beta).abs().flatten())
        for name, (weighting, tau) in WEIGHTINGS.items():
            weights = _weights(part, weighting, tau, recipe.alpha, embed)
            cosines[name].append(gradient_cosine(chosen, rejected, weights, uniform, recipe.beta))
    means = {f"cosine, {name}": float(np.mean(values)) for name, values in cosines.items()}
    return {"size": float(np.median(np.concatenate(sizes))), **means}


def weight_effects(
    policies: Mapping[tuple[str, int], str],
    recipes: Mapping[str, Recipe],
    references: Mapping[int, LanguageModel],
    pairs: Sequence[Preference],
    embed: Embedder,
    protocol: Protocol = RECOMMENDED,
    n: int = 64,
    store: bool = True,
) -> pd.DataFrame:
    """`weight_effect` of every policy of paired RPO on the last n pairs that it learned: columns method, seed, adapter, ….

    `policies` as from `relative_preference.train_cases`, `pairs` those that they were taught from.
    """
    rows, seen = [], set()
    for (name, seed), model in policies.items():
        recipe = recipes[name]
        if recipe.method != "RPO-Paired" or model in seen:  # a policy that answers at several temperatures counts once
            continue
        seen.add(model)
        last = drawn(pairs, Recipe(recipe.method, n_pairs=recipe.n_pairs, seed=seed))[-n:]
        policy = stored(load_lm(model), store)
        effect = weight_effect(last, policy, references[seed], embed, recipe, protocol)
        rows.append({"method": name, "seed": seed, "adapter": adapter_name(model), **effect})
    return pd.DataFrame(rows)


def identical_share(answers: pd.DataFrame, against: str = "RPO-Paired") -> pd.DataFrame:
    """How many of a policy's answers are, word for word, another's to the same prompt from the same training seed.

    Columns policy, against, share, n. Where the share is `INERT` or more, the two settings trained the same policy, and no
    number of prompts could tell them apart. `answers` as from `relative_preference.case_answers`. Answers are compared where
    both policies have one of that number: at temperature 0 there is one a prompt.
    """
    keys = ["seed", "prompt_id", "candidate_id"]
    base = answers[answers["method"] == against][[*keys, "response"]]
    rows = []
    for policy, part in answers[answers["method"] != against].groupby("method", sort=False):
        both = part[[*keys, "response"]].merge(base, on=keys, suffixes=("", " there"))
        rows.append((policy, against, float((both["response"] == both["response there"]).mean()), len(both)))
    return pd.DataFrame(rows, columns=["policy", "against", "share", "n"])


def same_answers(answers: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """`identical_share` of each pair of policies: what `verdicts.claims` takes as `same`."""
    shares = {b: identical_share(answers, b).set_index("policy")["share"] for b in dict.fromkeys(method for method, _ in pairs)}
    return [float(shares[method][baseline]) for method, baseline in pairs]


def inert_table(effects: pd.DataFrame, shares: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of `weight_effects`, beside `identical_share`: a row for each policy of paired RPO."""
    means = effects.drop(columns=["seed", "adapter"]).groupby("method", sort=False).mean().reset_index()
    found = means.merge(shares[["policy", "share"]], left_on="method", right_on="policy", how="left").drop(columns="policy")
    return found.rename(columns={"share": "identical answers"})


def effect_sentence(table: pd.DataFrame, against: str = "RPO-Paired") -> str:
    """What `inert_table` says, in two sentences for the reader."""
    size, cosines = table["size"].median(), table.filter(like="cosine")
    shares = table.dropna(subset="identical answers").set_index("method")["identical answers"]
    low, high = cosines.min(axis=None), cosines.max(axis=None)
    said = (
        f"The median score |β ω (r_i − r_j)| of the policies is {size:.2g} nats, and the gradients of other weightings have a "
        f"cosine of {low:.3f} to {high:.3f} with that of uniform weights."
    )
    if shares.empty:
        return said
    same = [name for name, share in shares.items() if share >= INERT]
    some = f"; {INERT:.0%} or more for {', '.join(same)}: these settings did nothing" if same else ""
    return (
        f"{said} Of the answers under {len(shares)} other settings {shares.min():.0%} to {shares.max():.0%} are word for word "
        f"those of {against}{some}."
    )


def score_sizes(
    reference: LanguageModel,
    pairs: Sequence[Preference],
    dev: Sequence[Preference],
    embed: Embedder,
    recipes: Mapping[str, Recipe],
    protocol: Protocol = RECOMMENDED,
) -> pd.DataFrame:
    """How large the scores become under each recipe of paired RPO, on dev pairs: columns recipe and `weight_effect`'s.

    By this the scale of a second set of experiments is chosen: the smallest change at which the size reaches about 1. Which
    policy answers better is not looked at.
    """
    folders = fine_tune_all({name: Plan(reference, pairs, recipe, embed) for name, recipe in recipes.items()}, protocol)
    rows = []
    for name, folder in folders.items():
        policy = load_lm(Trained(reference, folder).model)
        rows.append({"recipe": name, **weight_effect(dev, policy, reference, embed, recipes[name], protocol)})
    return pd.DataFrame(rows)
