"""The effect of RPO's weights: the size of the scores, and differences between weightings in gradients and answers.

The weights of a row sum to 1 and are applied inside log σ (arXiv:2402.10958, Eqs. 11, 12 and 14). If |β ω (r_i - r_j)| is
small, log σ is nearly linear and the weights cancel, so that all weightings have almost the same gradient and train the same
policy. A comparison of weightings is therefore informative only if the scores are large enough.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..data.preferences import Preference
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..models.replicas import load_model
from ..protocol import RECOMMENDED, Protocol
from ..statistics.verdicts import INERT
from ..store.stored import stored
from ..templates import base_context
from ..training.finetune import Plan, drawn, fine_tune_all
from ..training.losses import contrast_matrix, diagonal_weights, gradient_cosine, prompt_weights, uniform_weights
from ..training.recipes import TAUS, Recipe
from .policies import Trained, adapter_name

WEIGHTINGS = {  # compared with uniform weights: name -> (weighting, τ)
    "τ = 0.25": ("embedding", 0.25),
    "τ = 0.5": ("embedding", 0.5),
    "τ = 0.75": ("embedding", 0.75),
    "diagonal": ("diagonal", 0.0),
}


def log_ratios(
    pairs: Sequence[Preference], policy: LanguageModel, reference: LanguageModel, protocol: Protocol = RECOMMENDED
) -> tuple[np.ndarray, np.ndarray]:
    """log π - log π_ref of the chosen and the rejected responses, summed over tokens including EOS, in nats; shapes (M,)."""
    with_eos = protocol.but(eos_scored="always")
    contexts = [base_context(p.prompt, protocol) for p in pairs]
    responses = [[policy.encode_response(y, with_eos) for y in (p.chosen, p.rejected)] for p in pairs]

    def sums(lm: LanguageModel) -> np.ndarray:
        return np.array([[v.sum(dtype=float) for v in row] for row in lm.logprobs(contexts, responses)])

    chosen, rejected = (sums(policy) - sums(reference)).T
    return chosen, rejected


def contrasts(
    pairs: Sequence[Preference],
    policy: LanguageModel,
    reference: LanguageModel,
    embed: Embedder,
    recipe: Recipe,
    protocol: Protocol = RECOMMENDED,
) -> tuple[np.ndarray, np.ndarray]:
    """The weights (Eqs. 10 to 13) and scores β (r_i - r_j) (Eq. 9, nats) of paired RPO for M prompts; shapes (M, M).

    Rows are chosen responses, columns are rejected responses.
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
    """The size of the scores of a paired RPO policy, and the similarity of the gradients under different weightings.

    "size" is the median of |β ω (r_i - r_j)| over all contrasts with the weights of the recipe, in nats. "cosine, …" compares
    the gradients with respect to the log-ratios under a weighting and under uniform weights (`losses.gradient_cosine`), as a
    mean over matrices. `pairs` are divided into matrices as in training; an incomplete matrix is used only if it is the only
    one.
    """
    m = min(recipe.matrix or recipe.batch, len(pairs))
    uniform = uniform_weights(m, m)
    sizes, cosines = [], {name: [] for name in WEIGHTINGS}
    for i in range(0, len(pairs) - m + 1, m):
        part = pairs[i : i + m]
        chosen, rejected = log_ratios(part, policy, reference, protocol)
        own = _weights(part, recipe.weighting, recipe.tau, recipe.alpha, embed)
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
    """`weight_effect` of every paired RPO policy on its last n training pairs, with columns method, seed and adapter.

    `policies`: the output of `relative_preference.train_cases`. `pairs`: the pairs from which the training pairs were drawn.
    """
    rows, seen = [], set()
    for (name, seed), model in policies.items():
        recipe = recipes[name]
        if recipe.method != "RPO-Paired" or model in seen:  # count a policy once if it has several temperatures
            continue
        seen.add(model)
        last = drawn(pairs, Recipe(recipe.method, n_pairs=recipe.n_pairs, seed=seed))[-n:]
        policy = stored(load_model(model), store)
        effect = weight_effect(last, policy, references[seed], embed, recipe, protocol)
        rows.append({"method": name, "seed": seed, "adapter": adapter_name(model), **effect})
    return pd.DataFrame(rows)


def identical_share(answers: pd.DataFrame, against: str = "RPO-Paired") -> pd.DataFrame:
    """The share of each policy's answers that are identical to those of another to the same prompt with the same seed.

    Returns columns policy, against, share, n. If the share is at least `INERT`, the two settings trained practically the same
    policy, and more prompts could not distinguish them. `answers`: the output of `relative_preference.case_answers`. Answers
    are compared if both policies have a candidate of the same number; at temperature 0 there is one per prompt.
    """
    keys = ["seed", "prompt_id", "candidate_id"]
    other = answers[answers["method"] == against][[*keys, "response"]]
    rows = []
    for policy, part in answers[answers["method"] != against].groupby("method", sort=False):
        both = part[[*keys, "response"]].merge(other, on=keys, suffixes=("", "_other"))
        rows.append((policy, against, float((both["response"] == both["response_other"]).mean()), len(both)))
    return pd.DataFrame(rows, columns=["policy", "against", "share", "n"])


def same_answers(answers: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """`identical_share` of each pair of policies, for the column `same` that `verdicts.claims` reads."""
    methods = dict.fromkeys(method for method, _ in pairs)
    shares = {method: identical_share(answers, method).set_index("policy")["share"] for method in methods}
    return [float(shares[method][baseline]) for method, baseline in pairs]


def inert_table(effects: pd.DataFrame, shares: pd.DataFrame) -> pd.DataFrame:
    """Mean `weight_effects` over the seeds and `identical_share`, with one row for each paired RPO policy."""
    means = effects.drop(columns=["seed", "adapter"]).groupby("method", sort=False).mean().reset_index()
    identical = shares[["policy", "share"]].set_axis(["method", "identical answers"], axis=1)
    return means.merge(identical, on="method", how="left")


def effect_sentence(table: pd.DataFrame, against: str = "RPO-Paired") -> str:
    """Summary of `inert_table` in up to three sentences."""
    size, cosines = table["size"].median(), table.filter(like="cosine")
    shares = table.dropna(subset="identical answers").set_index("method")["identical answers"]
    low, high = cosines.min(axis=None), cosines.max(axis=None)
    summary = (
        f"The median score |β ω (r_i − r_j)| of the policies is {size:.2g} nats, and the gradients under other weightings have "
        f"a cosine of {low:.3f} to {high:.3f} with the gradient under uniform weights."
    )
    if shares.empty:
        return summary
    summary += f" Under {len(shares)} other settings, {shares.min():.0%} to {shares.max():.0%} of the answers are identical to"
    summary += f" those of {against}."
    if inert := [name for name, share in shares.items() if share >= INERT]:
        summary += f" The share is {INERT:.0%} or more for {', '.join(inert)}, so these settings had no effect."
    return summary


def score_sizes(
    reference: LanguageModel,
    pairs: Sequence[Preference],
    dev: Sequence[Preference],
    embed: Embedder,
    recipes: Mapping[str, Recipe],
    protocol: Protocol = RECOMMENDED,
) -> pd.DataFrame:
    """The size of the scores under each recipe of paired RPO on dev pairs: `weight_effect` with a column recipe.

    It determines the scale of a second set of experiments: the smallest change at which the size reaches about 1. The quality
    of the answers plays no part in this choice.
    """
    folders = fine_tune_all({name: Plan(reference, pairs, recipe, embed) for name, recipe in recipes.items()}, protocol)
    rows = []
    for name, folder in folders.items():
        policy = load_model(Trained(reference, folder).model)
        rows.append({"recipe": name, **weight_effect(dev, policy, reference, embed, recipes[name], protocol)})
    return pd.DataFrame(rows)
