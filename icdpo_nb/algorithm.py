"""ICDPO (Algorithm 1 of arXiv:2402.09320) for one prompt, and the candidates table for many prompts.

All analyses start from the candidates table. It has one row per prompt and candidate. Its log-probabilities determine
S, Ŝ, the expert's score, the NLL and every ablation of the selection without sampling again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from .common.errors import InputError
from .data.preferences import Preference
from .models.interface import LanguageModel
from .models.tokens import Response
from .protocol import RECOMMENDED, Protocol
from .retrieval.retrievers import Retriever
from .scoring import SCORES, is_empty, score
from .templates import base_context, contexts

CONTEXTS = ("base", "icl", "icl_rejected")
ORIGIN = ["lm", "source", "retriever", "policy"]  # columns that identify the source table once several are concatenated


@dataclass(frozen=True, repr=False)
class Selection:
    """The result of `icdpo()` for one prompt. A notebook shows it as the score microscope (`reports.microscope`)."""

    prompt: str
    demos: list[Preference]  # most similar first
    responses: list[Response]  # n candidates
    logp: dict[str, np.ndarray]  # context -> (n,), nats
    scores: np.ndarray  # (n,)
    name: str = ""  # the score, or "" if a baseline chose
    protocol: Protocol = RECOMMENDED
    token_logp: dict[str, list[np.ndarray]] = field(default_factory=dict, repr=False)  # context -> n arrays (n_tokens,), nats
    lm: LanguageModel | None = field(default=None, repr=False)

    @property
    def best(self) -> Response:
        """The response with the highest score. Ties, including all-empty candidates, go to the first, as in Algorithm 1."""
        return self.responses[int(np.argmax(self.scores))]

    def __repr__(self) -> str:
        best, score = self.best, f"{self.name or 'score'} {max(self.scores):+.2f}"
        return f"Selection({best.text[:80]!r}, {score}, best of {len(self.responses)}, {len(self.demos)} demonstrations)"

    def _repr_html_(self) -> str | None:
        if not self.token_logp:
            return None  # the plain text remains
        from . import microscope_html  # a public name of the package, loaded when it is first shown

        return microscope_html(self)


def icdpo(
    prompt: str,
    retriever: Retriever,
    lm: LanguageModel,
    name: str = "S",
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    watch: Callable[[int, int, Sequence[int]], None] | None = None,
) -> Selection:
    """Run In-Context Direct Preference Optimization (Algorithm 1) on one prompt x.

    `name` is the score used for selection: S (Eq. 8), S_hat (Eq. 11), or ICL (the expert alone). `watch(0, j, ids)` sees
    response j grow while it is sampled; see `LanguageModel.sample`.
    """
    demos = retriever.retrieve([prompt], protocol.n_demos)[0]  # d, line 1
    context = contexts(demos, prompt, protocol, lm.render)  # x, [d+; x], [d-; x]
    responses = lm.sample([context["icl"]], protocol.n_candidates, protocol, seed, watch=watch)[0]  # y_1 … y_n, line 2
    token_logp = {c: lm.logprobs([context[c]], [responses])[0] for c in CONTEXTS}  # lines 6-7
    return selected(prompt, demos, responses, token_logp, lm, name, protocol)


def selected(
    prompt: str,
    demos: list[Preference],
    responses: list[Response],
    token_logp: dict[str, list[np.ndarray]],
    lm: LanguageModel,
    name: str = "S",
    protocol: Protocol = RECOMMENDED,
) -> Selection:
    """Lines 8-15 of Algorithm 1: the scores of the responses from their token log-probabilities; `.best` is the argmax."""
    logp = {c: np.array([lp.sum(dtype=np.float64) for lp in ys]) for c, ys in token_logp.items()}
    n_tokens = np.array([len(y.token_ids) for y in responses])
    scores = score(name, logp, n_tokens, protocol.reduction, empty=is_empty(y.text for y in responses))  # line 8
    return Selection(prompt, demos, responses, logp, scores, name, protocol, token_logp, lm)


def candidates_table(
    prompts: Sequence[Preference],
    retrievers: Mapping[str, Retriever] | None,
    lm: LanguageModel,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
    rescore: bool = False,
) -> pd.DataFrame:
    """Run lines 1-8 of Algorithm 1 on many prompts. Returns one row per prompt and candidate, with all scores.

    `retrievers` maps each domain to its retriever (see `retrievers.by_domain`). None samples from the base context, as
    the paper's Base does; there are then no demonstrations and no expert. Log-probabilities under the context a response
    was sampled from are reused from sampling. `rescore=True` recomputes them; both agree.

    Columns: prompt_id, domain, prompt, demo_ids (most similar first), candidate_id, response, n_tokens (scored tokens),
    finish ("stop", "eos", "length"), logp_base, logp_icl, logp_icl_rejected (nats), and S, S_hat, ICL.
    """
    if retrievers:
        sampled_from = "icl"
        demos = retrieve(prompts, retrievers, protocol.n_demos)
        text = [contexts(ds, p.prompt, protocol, lm.render) for ds, p in zip(demos, prompts, strict=True)]
    else:
        sampled_from = "base"
        demos = [[] for _ in prompts]
        text = [{"base": base_context(p.prompt, protocol, lm.render)} for p in prompts]
    bar = partial(tqdm, desc="sampling", leave=False)
    sampled = lm.sample([t[sampled_from] for t in text], protocol.n_candidates, protocol, seed, bar)
    return responses_table(prompts, demos, text, sampled, lm, protocol, rescore)


def responses_table(
    prompts: Sequence[Preference],
    demos: Sequence[Sequence[Preference]],
    text: Sequence[Mapping[str, str]],
    sampled: Sequence[Sequence[Response]],
    lm: LanguageModel,
    protocol: Protocol = RECOMMENDED,
    rescore: bool = False,
) -> pd.DataFrame:
    """The candidates table of given responses.

    `sampled[i]` are the responses to prompt i, and `text[i]` its contexts by name, under which they are scored. Contexts
    besides `CONTEXTS` become further columns `logp_…`.
    """
    names = dict.fromkeys([*CONTEXTS, *(c for t in text for c in t)])
    logp = _score_contexts(lm, text, sampled, rescore)
    rows = [
        {
            "prompt_id": p.prompt_id,
            "domain": p.domain,
            "prompt": p.prompt,
            "demo_ids": tuple(d.prompt_id for d in demos[i]),
            "candidate_id": j,
            "response": y.text,
            "n_tokens": len(y.token_ids),
            "finish": y.finish,
            **{f"logp_{c}": logp[c, i][j] if (c, i) in logp else np.nan for c in names},
        }
        for i, p in enumerate(prompts)
        for j, y in enumerate(sampled[i])
    ]
    return add_scores(pd.DataFrame(rows), protocol)


def _score_contexts(
    lm: LanguageModel, text: Sequence[Mapping[str, str]], sampled: Sequence[Sequence[Response]], rescore: bool
) -> dict[tuple[str, int], list[float]]:
    """Σ log π of each prompt's responses under each of its contexts, keyed by (context name, prompt index)."""
    cases = [(c, i) for i, t in enumerate(text) for c in t]
    bar = partial(tqdm, desc="scoring", leave=False)
    scored = lm.logprobs([text[i][c] for c, i in cases], [sampled[i] for _, i in cases], bar, rescore)
    return {case: [values.sum(dtype=np.float64) for values in ys] for case, ys in zip(cases, scored, strict=True)}


def add_scores(table: pd.DataFrame, protocol: Protocol = RECOMMENDED) -> pd.DataFrame:
    """Add the columns S, S_hat and ICL, computed from the log-probabilities."""
    logp = {c: table[f"logp_{c}"].to_numpy(float) for c in CONTEXTS}
    empty = is_empty(table["response"])
    return table.assign(**{name: score(name, logp, table["n_tokens"], protocol.reduction, empty=empty) for name in SCORES})


def select(table: pd.DataFrame, name: str = "S") -> pd.DataFrame:
    """Select the candidate with the highest score for each prompt. Rows keep the order of the prompts; ties go to the first.

    Empty responses score -inf, so one is selected only if all candidates of its prompt are empty. It is then rewarded
    like any other response.
    """
    if table[name].isna().any():
        raise InputError(f"the table has no {name} for some candidates; was it sampled without demonstrations?")
    order = table.sort_values(name, ascending=False, kind="stable")
    return order.drop_duplicates("prompt_id").sort_index().reset_index(drop=True)


def retrieve(prompts: Sequence[Preference], retrievers: Mapping[str, Retriever], k: int) -> list[list[Preference]]:
    """Retrieve k demonstrations for each prompt, with one call to the retriever of each domain."""
    demos: dict[int, list[Preference]] = {}
    for domain in dict.fromkeys(p.domain for p in prompts):
        if domain not in retrievers:
            raise InputError(
                f"there are no demonstrations for the domain {domain!r}; the support set has {', '.join(retrievers)}"
            )
        indices = [i for i, p in enumerate(prompts) if p.domain == domain]
        demos.update(zip(indices, retrievers[domain].retrieve([prompts[i].prompt for i in indices], k), strict=True))
    return [demos[i] for i in range(len(prompts))]
