"""Eight claims of the paper, tested in the sandbox. Each is a contrast with one value per prompt.

According to the paper, Ŝ and R improve the method "step by step" (RQ3), and `CLAIMS` tests this improvement. Whether they do at
least no harm is a weaker question of our own. `NON_INFERIORITY` tests it separately, and it never counts as a claim of the
paper.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet, in_domains
from ..judging.rewards import Reward, with_rewards
from ..models.encoder import Embedder
from ..models.interface import LanguageModel
from ..protocol import RECOMMENDED, Protocol
from ..sandbox.reward import RULES
from ..statistics.estimates import as_text
from ..statistics.findings import OPEN
from ..statistics.intervals import mean_ci
from ..statistics.verdicts import Reported, n_to_decide, verdict
from ..templates import base_context
from .comparison import METHODS, Method, chosen_responses
from .sampling import sample_candidates

# The smallest difference in reward that matters: the smallest number of points, in absolute value, that any rule of the true
# reward assigns to one occurrence (an unknown word). The rules fix it before there are any results.
MARGIN = min(abs(points) for points, *_ in RULES.values())
NLL_MARGIN = 0.05  # nats per token, i.e. 5 % in the probability of a token
CLAIMS = {  # name -> (claim, smallest contrast that matters)
    "1 ICL > Base": ("Demonstrations improve the response", MARGIN),
    "2 S > ICL": ("S selects better than chance among the same responses", MARGIN),
    "3 Ŝ > S": ("Rejected demonstrations give a better amateur", MARGIN),
    "4 ŜR > Ŝ": ("Retrieved demonstrations of a teacher are better than random ones", MARGIN),
    "5 R: A > raw": ("Retrieval helps less, or is harmful, with raw demonstrations", MARGIN),
    "6 A > B": ("ICDPO is better with the familiar teacher A, although B's own responses have a higher reward", MARGIN),
    "7 NLL: B > A": ("The responses of B are less likely under the base model (nats per token)", NLL_MARGIN),
    "8 S > π*": ("S selects better than the expert alone", MARGIN),
}
NON_INFERIORITY = {  # our own weaker claims on the same contrasts: a loss of `MARGIN` is excluded
    "3 Ŝ > S": (f"Ŝ is no more than {MARGIN} worse than S", MARGIN),
    "4 ŜR > Ŝ": (f"ŜR is no more than {MARGIN} worse than Ŝ", MARGIN),
}
SOURCES = ("raw", "teacher-a", "teacher-b")


def contrasts(
    prompts: Sequence[Preference],
    data: Mapping[str, PreferenceSet],
    lm: LanguageModel,
    reward: Reward,
    embed: Embedder,
    protocol: Protocol = RECOMMENDED,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per prompt: prompt_id, domain, and the contrast of every claim except the seventh (see `nll_gap`)."""
    candidates = with_rewards(sample_candidates(prompts, data, {lm.name: lm}, embed, protocol, seed), reward=reward)
    chosen = chosen_responses(candidates, {**METHODS, "π*": Method("ICL", "random")})
    wide = chosen.pivot(index=["domain", "prompt_id"], columns=["source", "method"], values="reward")
    wide = wide.loc[[(p.domain, p.prompt_id) for p in prompts]]  # in the order of the prompts
    a = wide["teacher-a"]
    retrieval = {s: wide[s]["ICDPO + ŜR"] - wide[s]["ICDPO + Ŝ"] for s in SOURCES}
    contrast = pd.DataFrame({
        "1 ICL > Base": a["ICL"] - a["Base"],
        "2 S > ICL": a["ICDPO"] - a["ICL"],
        "3 Ŝ > S": a["ICDPO + Ŝ"] - a["ICDPO"],
        "4 ŜR > Ŝ": retrieval["teacher-a"],
        "5 R: A > raw": retrieval["teacher-a"] - retrieval["raw"],
        "6 A > B": a["ICDPO"] - wide["teacher-b"]["ICDPO"],
        "8 S > π*": a["ICDPO"] - a["π*"],
    })  # fmt: skip
    return contrast.reset_index()[["prompt_id", "domain", *contrast]]


def nll_gap(data: Mapping[str, PreferenceSet], lm: LanguageModel, domains: Sequence[str], n: int) -> pd.DataFrame:
    """Contrast of claim 7 on n support prompts of each domain: NLL per token of B's response minus A's, given the prompt."""

    def support_of(source: str) -> list[Preference]:
        return [p for domain in domains for p in in_domains(data[source].support, [domain])[:n]]

    a, b = support_of("teacher-a"), support_of("teacher-b")
    if [p.prompt_id for p in a] != [p.prompt_id for p in b]:
        raise InputError(
            "claim 7 is paired: both teachers must answer the same support prompts; load them without a length filter"
        )
    contexts = [base_context(p.prompt) for p in a]

    def nll(side: Sequence[Preference]) -> np.ndarray:
        responses = [[lm.encode_response(p.chosen)] for p in side]
        return np.array([-logps.mean() for (logps,) in lm.logprobs(contexts, responses)])

    ids = {"prompt_id": [p.prompt_id for p in a], "domain": [p.domain for p in a]}
    nll_a, nll_b = nll(a), nll(b)
    return pd.DataFrame(ids | {"7 NLL: B > A": nll_b - nll_a})


def verdicts(
    lm: str, runs: Sequence[pd.DataFrame], nll: pd.DataFrame, claims: Mapping[str, tuple[str, float]] = CLAIMS
) -> pd.DataFrame:
    """Every claim for one model: the mean contrast with its paired interval, the mean of each seed, and the verdict.

    `runs`: `contrasts` of each seed. `claims`: `CLAIMS` or `NON_INFERIORITY`. The value of a prompt is its mean over the seeds,
    and intervals are over prompts. The verdict, one of `findings.VERDICTS`, refers to the claim that the contrast is above 0
    (for `NON_INFERIORITY`: not below). The column decide is the number of prompts that would decide an open claim.
    """
    paper = Reported(words="above 0", sign=1, at_least=claims is NON_INFERIORITY)
    rows = []
    for claim, (meaning, margin) in claims.items():
        parts = [nll] if claim in nll else list(runs)
        mean = pd.concat(parts).groupby(["domain", "prompt_id"], sort=False)[claim].mean()
        estimate = mean_ci([group.to_numpy() for _, group in mean.groupby("domain")])
        seeds = [part.groupby("domain")[claim].mean().mean() for part in parts]
        result = verdict(estimate, margin, paper, float((mean == 0).mean()))
        rows.append({
            "model": lm, "claim": claim, "meaning": meaning, **vars(estimate),
            "each seed": ", ".join(f"{s:.2f}" for s in seeds), "verdict": result,
            "decide": n_to_decide(estimate, margin) if result == OPEN else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def for_summary(claims: pd.DataFrame) -> pd.DataFrame:
    """The table of `verdicts` with the columns that a report's summary shows."""
    return claims.assign(lm=claims["model"], source="", here=as_text(claims), paper="above 0")
