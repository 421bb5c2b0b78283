"""ICDPO workbook: align a language model with a few demonstrations in its context, and see how sure one can be.

In-Context Direct Preference Optimization (Song et al., arXiv:2402.09320; NAACL 2025, 2025.naacl-long.8). The modules, in
reading order; each imports only from those above it. Public names load on first use, so importing the package costs nothing.
"""

from importlib import import_module

READING_ORDER = {
    "protocol": ["PAPER", "PROTOCOLS", "RECOMMENDED", "REFERENCE", "InputError", "Protocol", "named_protocol"],
    "sources": [],
    "shapes": [],
    "data": ["Preference", "PreferenceSet", "domains_of", "first", "in_domains", "load_preferences", "spread"],
    "linear": [],
    "encoder": ["Embedder"],
    "retrieval": [
        "BM25Retriever", "RandomRetriever", "SBERTRetriever", "TwoStageRetriever", "by_domain", "leaked_prompts",
        "encoder_sentence", "leaks_sentence", "settle_leaks", "without_leaks",
    ],
    "templates": ["base_context", "contexts", "icl_context"],
    "attention": [],
    "memory": [],
    "packing": [],
    "decoding": [],
    "proof": [],
    "engine": [],
    "oasst": [],
    "checkpoints": [],
    "lm": ["CausalLM", "Response", "load_lm"],
    "store": ["Store"],
    "kept": ["stored"],
    "scoring": ["SCORES", "is_empty", "score"],
    "algorithm": ["add_scores", "candidates_table", "icdpo", "select"],
    "rewards": [
        "EmbeddingReward", "NeighbourReward", "RewardModel", "SandboxReward", "TeacherReward", "correct_order", "load_reward",
        "scored_by",
    ],
    "baselines": [
        "base", "greedy", "greedy_table", "icl", "icl_uni", "one_at_random", "one_sample", "rm_aug", "rm_aug_table", "rm_bon",
    ],
    "metrics": ["Estimate", "holm", "mean_ci", "rank_correlation"],
    "paper": [
        "published", "published_gain", "published_rewards", "published_rpo", "published_sources", "published_win_gain",
        "role_of",
    ],
    "parameters": [],
    "safety": [],
    "figures": [
        "plot_along", "plot_by_n", "plot_claims", "plot_contrasts", "plot_gain", "plot_losses", "plot_means", "plot_per_prompt",
        "plot_settings", "plot_token_gaps", "plot_weight_effects", "plot_win_rates",
    ],
    "notebook": ["project", "show_answer", "show_note", "show_table", "show_text", "start"],
    "tables": [
        "TOTAL", "as_text", "estimate", "method_gains", "method_means", "per_prompt", "show_estimates", "totals_of",
    ],
    "verdicts": [
        "Reported", "by_model", "claims", "claims_sentence", "family_sentence", "icdpo_paper", "in_words", "show_claims",
    ],
    "beside": ["beside_published", "roles_sentence", "show_beside"],
    "seeds": ["prompt_means", "seed_estimates", "seed_gains", "seeds_sentence"],
    "experiment": [
        "answers", "empties", "for_models", "method_rewards", "method_tables", "picks", "shown_once", "source_rewards",
        "work_done", "work_sentence",
    ],
    "ablation": ["RETRIEVERS", "demonstration_similarity", "gain_and_similarity", "retrieval_picks", "window_similarity"],
    "likelihood": [
        "common_prompts", "forecast_sentence", "forecasts", "load_sources", "pairs_of", "rewards_of_run", "source_nll",
    ],
    "consistency": [
        "MEASURES", "SCORERS", "chance_mrr", "consistency_mrr", "consistency_sentence", "pair_accuracy", "pair_scores",
    ],
    "judges": ["EndpointJudge", "RewardJudge", "judge_pairs", "load_judge"],
    "winrate": [
        "agreement_sentence", "comparisons", "judged", "order_sentence", "preview", "win_gains", "win_means", "win_shares",
    ],
    "rpo": [
        "contrast_matrix", "diagonal_weights", "gradient_cosine", "gradient_of", "ipo_loss", "prompt_weights", "rpo_loss",
        "uniform_weights",
    ],
    "recipes": ["LEARNING_RATES", "RECIPES", "SAMPLING", "Recipe", "paper_recipe", "recipe_settings"],
    "rpo_trainer": ["RPOTrainer"],
    "finetune": ["Plan", "adapter_at", "drawn", "fine_tune", "fine_tune_all", "loss_curves", "training", "training_cost"],
    "policies": [
        "along_means", "along_sentence", "along_training", "first_candidates", "mean_of_seeds", "policy_table", "policy_tables",
        "reward_by_n", "train_policies", "tuned_picks", "tuned_rewards",
    ],
    "rpo_tables": [
        "RPO_TABLES", "Case", "beside_paper", "best_of_paper", "case_answers", "paper_sentence", "rpo_rows", "train_cases",
    ],
    "weighting": [
        "contrasts", "effect_sentence", "identical_share", "inert_table", "same_answers", "score_sizes", "weight_effect",
        "weight_effects",
    ],
    "progress": [],
    "kernel": [],
    "origins": [],
    "report": ["run_notebook"],
    "compare": [],
    "cli": [],
}  # fmt: skip
_HOME = {name: module for module, names in READING_ORDER.items() for name in names}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
