"""Confidence intervals, estimates, the papers' published numbers, and verdicts. Nothing is displayed here.

Read in this order; each module imports only from those before it: `intervals`, `ratios`, `published`, `estimates`,
`with_paper`, `findings`, `verdicts`, `answers`, `seeds`.
"""

from importlib import import_module

PUBLIC = {  # name -> module; loaded on first use, since scipy takes seconds
    "agreement_with_paper": "answers",
    "answer_sentences": "answers",
    "as_text": "estimates",
    "by_model": "verdicts",
    "claims": "verdicts",
    "estimate": "estimates",
    "Estimate": "intervals",
    "family_sentence": "verdicts",
    "holm": "intervals",
    "icdpo_paper": "verdicts",
    "in_words": "verdicts",
    "mean_ci": "intervals",
    "method_gains": "estimates",
    "method_means": "estimates",
    "per_prompt": "estimates",
    "prompt_means": "seeds",
    "published_gain": "published",
    "published_rewards": "published",
    "published_rpo": "published",
    "published_sources": "published",
    "published_win_gain": "published",
    "rank_correlation": "intervals",
    "ratio_ci": "ratios",
    "Reported": "verdicts",
    "role_of": "published",
    "roles_sentence": "with_paper",
    "seed_estimates": "seeds",
    "seed_gains": "seeds",
    "seeds_sentence": "seeds",
    "TOTAL": "estimates",
    "totals_of": "estimates",
    "with_published": "with_paper",
}
__all__ = sorted(PUBLIC)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
