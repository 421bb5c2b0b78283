"""ICDPO workbook: align a language model with a few in-context demonstrations, and quantify the uncertainty of the results.

In-Context Direct Preference Optimization (Song et al., arXiv:2402.09320; NAACL 2025, 2025.naacl-long.8). `ROOMS` gives
the reading order; each room imports only from the rooms above it. Public names are imported on first use, so importing
the package itself is fast.
"""

import os
from importlib import import_module

# libgomp reads it when torch is loaded: idle threads sleep soon. Spinning as long as they do by default, they take the cores
# from each other where two processes compute; alone, this costs up to 15 % of the time.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")

ROOMS = (
    "common",
    "protocol",
    "data",
    "templates",
    "engine",
    "models",
    "retrieval",
    "scoring",
    "store",
    "algorithm",
    "sandbox",
    "judging",
    "baselines",
    "statistics",
    "training",
    "analyses",
    "reports",
    "sweeps",
    "cli",
    "__main__",
)
PUBLIC = {  # public name -> module; import everything else from its room
    "InputError": "common.errors",
    "PAPER": "protocol",
    "Protocol": "protocol",
    "RECOMMENDED": "protocol",
    "REFERENCE": "protocol",
    "domains_of": "data.preferences",
    "first": "data.preferences",
    "in_domains": "data.preferences",
    "load_preferences": "data.preferences",
    "Preference": "data.preferences",
    "PreferenceSet": "data.preferences",
    "spread": "data.preferences",
    "contexts": "templates",
    "Embedder": "models.encoder",
    "CausalLM": "models.lm",
    "LanguageModel": "models.interface",
    "load_lm": "models.lm",
    "BM25Retriever": "retrieval.retrievers",
    "by_domain": "retrieval.retrievers",
    "RandomRetriever": "retrieval.retrievers",
    "SBERTRetriever": "retrieval.retrievers",
    "TwoStageRetriever": "retrieval.retrievers",
    "score": "scoring",
    "Store": "store.store",
    "stored": "store.stored",
    "candidates_table": "algorithm",
    "icdpo": "algorithm",
    "select": "algorithm",
    "load_reward": "judging.rewards",
    "TeacherReward": "judging.rewards",
    "load_judge": "judging.judges",
    "base": "baselines",
    "greedy": "baselines",
    "icl": "baselines",
    "icl_uni": "baselines",
    "rm_aug": "baselines",
    "rm_bon": "baselines",
    "microscope_html": "reports.microscope",
    "show_alarms": "reports.microscope",
    "show_answer": "reports.tables",
    "show_beside": "reports.tables",
    "show_claims": "reports.tables",
    "show_estimates": "reports.tables",
    "show_figure": "reports.tables",
    "show_microscope": "reports.microscope",
    "Playground": "reports.playground",
    "show_playground": "reports.widgets",
    "show_note": "reports.tables",
    "show_table": "reports.tables",
    "show_text": "reports.tables",
    "show_summary": "reports.summary",
    "start": "reports.run",
    "setup": "reports.setup",
    "report": "reports.in_python",
    "run_notebook": "reports.report",
}
__all__ = sorted(PUBLIC)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
