"""What of the paper holds in the sandbox: eight claims, each a contrast that has one value a prompt.

The paper says that Ŝ and R improve the method "step by step" (RQ3): `CLAIMS` asks for that improvement. Whether they at least
do no harm is a weaker question of ours, asked beside it (`NON_INFERIORITY`) and never counted among the paper's claims.
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
from ..statistics.intervals import mean_ci
from ..statistics.verdicts import OPEN, Reported, n_to_decide, verdict
from ..templates import base_context
from .comparison import METHODS, Method, chosen_responses
from .sampling import sample_candidates

# The smallest difference in reward that matters: the least that any rule of the true reward gives or takes for one occurrence,
# an unknown word. It is fixed by the rules, before any result.
MARGIN = min(abs(points) for points, *_ in RULES.values())
NLL_MARGIN = 0.05  # nats per token: 5 % in the probability of a token
CLAIMS = {  # name -> (what is claimed, the smallest contrast that matters)
    "1 ICL > Base": ("Demonstrations help at all", MARGIN),
    "2 S > ICL": ("S picks better than chance among the same responses", MARGIN),
    "3 Ŝ > S": ("Rejected demonstrations make a better amateur", MARGIN),
    "4 ŜR > Ŝ": ("Retrieved demonstrations of a teacher serve better than random ones", MARGIN),
    "5 R: A > raw": ("Retrieval helps less, or hurts, with raw demonstrations", MARGIN),
    "6 A > B": ("ICDPO is better with the familiar teacher A, though B's own responses score higher", MARGIN),
    "7 NLL: B > A": ("The responses of B are less likely to the base model (nats per token)", NLL_MARGIN),
    "8 S > π*": ("S picks better than the expert alone", MARGIN),
}
NON_INFERIORITY = {  # the contrast of a claim -> ours, not the paper's: a loss of `MARGIN` can be excluded
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
    """One row a prompt: prompt_id, domain, and the contrast of every claim but the seventh (see `nll_gap`)."""
    candidates = with_rewards(sample_candidates(prompts, data, {lm.name: lm}, embed, protocol, seed), reward=reward)
    chosen = chosen_responses(candidates, {**METHODS, "π*": Method("ICL", "random")})
    wide = chosen.pivot(index=["domain", "prompt_id"], columns=["source", "method"], values="reward")
    wide = wide.loc[[(p.domain, p.prompt_id) for p in prompts]]  # in the order of the prompts
    a, retrieval = wide["teacher-a"], {s: wide[s]["ICDPO + ŜR"] - wide[s]["ICDPO + Ŝ"] for s in SOURCES}
    found = pd.DataFrame({
        "1 ICL > Base": a["ICL"] - a["Base"],
        "2 S > ICL": a["ICDPO"] - a["ICL"],
        "3 Ŝ > S": a["ICDPO + Ŝ"] - a["ICDPO"],
        "4 ŜR > Ŝ": retrieval["teacher-a"],
        "5 R: A > raw": retrieval["teacher-a"] - retrieval["raw"],
        "6 A > B": a["ICDPO"] - wide["teacher-b"]["ICDPO"],
        "8 S > π*": a["ICDPO"] - a["π*"],
    })  # fmt: skip
    return found.reset_index()[["prompt_id", "domain", *found]]


def nll_gap(data: Mapping[str, PreferenceSet], lm: LanguageModel, domains: Sequence[str], n: int) -> pd.DataFrame:
    """Claim 7 on n support prompts of each domain: NLL per token of B's response minus A's, given only the prompt."""
    a, b = ([p for d in domains for p in in_domains(data[s].support, [d])[:n]] for s in ("teacher-a", "teacher-b"))
    if [p.prompt_id for p in a] != [p.prompt_id for p in b]:
        raise InputError(
            "claim 7 is paired: both teachers must answer the same support prompts; load them without a length filter"
        )
    contexts = [base_context(p.prompt) for p in a]
    nll = [
        np.array([-found[0].mean() for found in lm.logprobs(contexts, [[lm.encode_response(p.chosen)] for p in side])])
        for side in (a, b)
    ]
    return pd.DataFrame(
        {"prompt_id": [p.prompt_id for p in a], "domain": [p.domain for p in a], "7 NLL: B > A": nll[1] - nll[0]}
    )


def verdicts(
    lm: str, runs: Sequence[pd.DataFrame], nll: pd.DataFrame, claims: Mapping[str, tuple[str, float]] = CLAIMS
) -> pd.DataFrame:
    """Every claim for one model: the mean contrast with its paired interval, the mean of each seed, and the verdict.

    `runs`: `contrasts` of each seed. `claims`: `CLAIMS` or `NON_INFERIORITY`. A prompt's value is its mean over the seeds;
    intervals are over prompts. The verdict is one of `verdicts.VERDICTS`, held against the paper's claim that the contrast is
    above 0 (of `NON_INFERIORITY`: not below); column decide: prompts that would decide what one cannot tell.
    """
    paper = Reported(words="above 0", sign=1, at_least=claims is NON_INFERIORITY)
    rows = []
    for claim, (meaning, margin) in claims.items():
        parts = [nll] if claim in nll else list(runs)
        mean = pd.concat(parts).groupby(["domain", "prompt_id"], sort=False)[claim].mean()
        found = mean_ci([group.to_numpy() for _, group in mean.groupby("domain")])
        seeds = [part.groupby("domain")[claim].mean().mean() for part in parts]
        said = verdict(found, margin, paper, float((mean == 0).mean()))
        rows.append({
            "model": lm, "claim": claim, "meaning": meaning, **vars(found),
            "each seed": ", ".join(f"{s:.2f}" for s in seeds), "verdict": said,
            "decide": n_to_decide(found, margin) if said == OPEN else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)
