"""Confidence intervals, estimates, the papers' published numbers, and verdicts. Nothing is displayed here.

Read in this order; each module imports only from those before it: `intervals`, `published`, `estimates`, `with_paper`,
`verdicts`, `answers`, `seeds`.
"""

from .answers import agreement_with_paper, answer_sentences
from .estimates import TOTAL, as_text, estimate, method_gains, method_means, per_prompt, totals_of
from .intervals import Estimate, holm, mean_ci, rank_correlation
from .published import (
    published_gain,
    published_rewards,
    published_rpo,
    published_sources,
    published_win_gain,
    role_of,
)
from .seeds import prompt_means, seed_estimates, seed_gains, seeds_sentence
from .verdicts import Reported, by_model, claims, claims_sentence, family_sentence, icdpo_paper, in_words
from .with_paper import roles_sentence, with_published

__all__ = [
    "Estimate",
    "Reported",
    "TOTAL",
    "agreement_with_paper",
    "answer_sentences",
    "as_text",
    "by_model",
    "claims",
    "claims_sentence",
    "estimate",
    "family_sentence",
    "holm",
    "icdpo_paper",
    "in_words",
    "mean_ci",
    "method_gains",
    "method_means",
    "per_prompt",
    "prompt_means",
    "published_gain",
    "published_rewards",
    "published_rpo",
    "published_sources",
    "published_win_gain",
    "rank_correlation",
    "role_of",
    "roles_sentence",
    "seed_estimates",
    "seed_gains",
    "seeds_sentence",
    "totals_of",
    "with_published",
]
