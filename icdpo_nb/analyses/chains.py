"""The contexts between those that S and Ŝ compare, scored and sampled from.

A score is a difference of log-probabilities under two contexts. Contexts between them form a chain, and the differences of
neighbours add up to the score exactly.

- S leads from the prompt alone to the full template by adding: the prompt with `Assistant:`; with the cue instead; the template
  without demonstrations (cue and instruction); the full template.
- Ŝ compares two full templates, so nothing can be added. Its chain exchanges instead, component by component, what Figure 7 has
  for what Figure 6 has: the wording of the cues, the wording of the instruction, and the demonstrations' responses.

What a component adds depends on what is already there. Each chain is therefore walked in two orders, with the instruction
before the demonstrations and after them. With `amateur="template"` S begins at the template, and its cue and instruction add
nothing.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from ..algorithm import responses_table, retrieve
from ..data.preferences import Preference, PreferenceSet, domains_of
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import Retriever, by_domain
from ..templates import contexts, cue_context, icl_context, mixed_context
from .sampling import BASE, tables_of

PARTS = ("cue", "instruction", "demonstrations")
FIRST, LAST = "instruction first", "demonstrations first"  # the two orders of a chain
CHAINS = {  # score -> order -> the contexts of its chain, by their names in `chain_contexts`
    "S": {FIRST: ("base", "cue", "instruction", "icl"), LAST: ("base", "cue", "demonstrations", "icl")},
    "S_hat": {
        FIRST: ("icl_rejected", "rejected_cue", "rejected_instruction", "icl"),
        LAST: ("icl_rejected", "rejected_cue", "rejected_demonstrations", "icl"),
    },
}
SAMPLED = {  # context to sample from -> its name as a method
    "base": "prompt alone",
    "cue": "cue",
    "instruction": "cue and instruction",
    "demonstrations": "cue and demonstrations",
    "icl": "all three",
}


def chain_contexts(demos: Sequence[Preference], prompt: str, protocol: Protocol) -> dict[str, str]:
    """The contexts of all chains for one prompt, by name: those of `templates.contexts` and six between them."""
    cue = cue_context(prompt, protocol)
    between = {
        "cue": cue,
        "instruction": icl_context([], prompt, protocol=protocol),
        "demonstrations": mixed_context(demos, prompt, None, protocol=protocol) if demos else cue,
        "rejected_cue": mixed_context(demos, prompt, "rejected", "chosen", "rejected", protocol),
        "rejected_instruction": mixed_context(demos, prompt, "chosen", "chosen", "rejected", protocol),
        "rejected_demonstrations": mixed_context(demos, prompt, "rejected", "chosen", "chosen", protocol),
    }
    ends = contexts(demos, prompt, protocol)
    if protocol.amateur == "template":
        between |= {"cue": ends["base"], "instruction": ends["base"], "demonstrations": ends["icl"]}
    return ends | between


def chain_table(
    prompts: Sequence[Preference], retrievers: Mapping[str, Retriever], lm: LanguageModel, protocol: Protocol, seed: int = 0
) -> pd.DataFrame:
    """The candidates table of `algorithm.candidates_table`, with log-probabilities under every context of the chains.

    The candidates are the same, and a store finds them again; only the contexts between are scored anew.
    """
    demos = retrieve(prompts, retrievers, protocol.n_demos)
    text = [chain_contexts(ds, p.prompt, protocol) for ds, p in zip(demos, prompts, strict=True)]
    sampled = lm.sample([t["icl"] for t in text], protocol.n_candidates, protocol, seed)
    return responses_table(prompts, demos, text, sampled, lm, protocol)


def sampled_from_each(
    prompts: Sequence[Preference], retrievers: Mapping[str, Retriever], lm: LanguageModel, protocol: Protocol, seed: int = 0
) -> pd.DataFrame:
    """Responses sampled from each context of S's chains: columns method (see `SAMPLED`), domain, prompt_id, prompt, response.

    S chooses among responses that the full template has shaped already; this shows which part of it shapes them.
    """
    plain = protocol.but(amateur="prompt")
    demos = retrieve(prompts, retrievers, protocol.n_demos)
    text = [chain_contexts(ds, p.prompt, plain) for ds, p in zip(demos, prompts, strict=True)]
    rows = []
    for context, method in SAMPLED.items():
        sampled = lm.sample([t[context] for t in text], protocol.n_candidates, protocol, seed)
        for p, ys in zip(prompts, sampled, strict=True):
            rows += [(method, p.domain, p.prompt_id, p.prompt, y.text) for y in ys]
    return pd.DataFrame(rows, columns=["method", "domain", "prompt_id", "prompt", "response"])


def chain_tables(
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    models: Mapping[str, LanguageModel],
    protocol: Protocol,
    seed: int = 0,
) -> pd.DataFrame:
    """`chain_table` of every model and source of demonstrations, drawn at random, with the columns of `ORIGIN`."""
    return _for_each(prompts, data, models, protocol, seed, chain_table)


def samples_along(
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    models: Mapping[str, LanguageModel],
    protocol: Protocol,
    seed: int = 0,
) -> pd.DataFrame:
    """`sampled_from_each` of every model and source of demonstrations, drawn at random, with the columns of `ORIGIN`."""
    return _for_each(prompts, data, models, protocol, seed, sampled_from_each)


def _for_each(prompts, data, models, protocol, seed, run) -> pd.DataFrame:
    def of_source(source: str, lm: LanguageModel) -> pd.DataFrame:
        retrievers = by_domain("random", data[source].support, domains_of(prompts), protocol, seed=seed)
        return run(prompts, retrievers, lm, protocol, seed)

    return tables_of(models, {(source, "random", BASE): partial(of_source, source) for source in data})
