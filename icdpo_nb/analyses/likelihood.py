"""The likelihood of the sources' responses under a base model (Figure 5), and the forecast that follows from it.

According to Appendix E, the source whose responses have the lower loss is closer to the model and so provides the better
demonstrations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..common.errors import InputError
from ..data.preferences import Preference, PreferenceSet, domains_of, first
from ..models.interface import LanguageModel
from ..protocol import Protocol
from ..retrieval.retrievers import RandomRetriever
from ..statistics.estimates import GROUPS, estimate, method_gains
from ..statistics.findings import HIGHER, LOWER, OPEN, SMALL, needed_text
from ..statistics.intervals import Estimate
from ..statistics.published import published, role_of
from ..statistics.verdicts import Reported, by_model, claims, finding, in_words, n_to_decide
from ..templates import base_context, icl_context

ALONE, WITH_DEMOS = "x alone", "[d; x]"  # the two contexts
NEARER, BETTER = "NLL: GPT-3.5 > LLaMA2-chat", "ICDPO: LLaMA2-chat > GPT-3.5"  # the paper's two claims on its teachers


def common_prompts(sources: Mapping[str, PreferenceSet], domains: Sequence[str], n: int) -> list[Preference]:
    """The first n support prompts of each domain that every source answers. Raises `InputError` if there are none."""
    answered = [{p.prompt for p in s.support} for s in sources.values()]
    shared = set.intersection(*answered)
    first_source = next(iter(sources.values()))
    common = [p for p in first_source.support if p.prompt in shared and (not domains or p.domain in domains)]
    if not common:
        sizes = ", ".join(f"{name} ({len(a)} prompts)" for name, a in zip(sources, answered, strict=True))
        raise InputError(f"the sources {sizes} have no prompt in common; give files that answer the same prompts")
    return first(common, n)


def source_nll(
    asked: Sequence[Preference],
    sources: Mapping[str, PreferenceSet],
    lm: LanguageModel,
    protocol: Protocol,
    seed: int = 0,
) -> pd.DataFrame:
    """NLL per token (mean reduction, nats) of every source's response to each prompt, without and with demonstrations.

    Demonstrations are drawn at random from the same source and domain, excluding the prompts `asked`. Returns columns lm,
    source (the context: "x alone" or "[d; x]"), method (the source of the response), domain, prompt_id, nll, n_tokens, and
    response.
    """
    prompts, parts = [p.prompt for p in asked], []
    for name, preferences in sources.items():
        answer = {p.prompt: p.chosen for p in preferences.support}
        texts = [answer[x] for x in prompts]
        responses = [[lm.encode_response(y, protocol)] for y in texts]
        others = [p for p in preferences.support if p.prompt not in set(prompts)]
        pools = {d: RandomRetriever([p for p in others if p.domain == d], seed) for d in domains_of(asked)}
        demos = [pools[p.domain].retrieve([p.prompt], protocol.n_demos)[0] for p in asked]
        contexts = {
            ALONE: [base_context(x, protocol, lm.render) for x in prompts],
            WITH_DEMOS: [icl_context(ds, x, "chosen", protocol, lm.render) for ds, x in zip(demos, prompts, strict=True)],
        }
        for kind, context in contexts.items():
            logps = [values[0] for values in lm.logprobs(context, responses)]
            parts.append(pd.DataFrame({
                "lm": lm.name, "source": kind, "method": name, "domain": [p.domain for p in asked],
                "prompt_id": [p.prompt_id for p in asked], "nll": [-float(v.mean()) for v in logps],
                "n_tokens": [len(v) for v in logps], "response": texts,
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every later source paired with every earlier one: ["a", "b", "c"] gives (b, a), (c, a), (c, b)."""
    return [(later, earlier) for i, earlier in enumerate(names) for later in names[i + 1 :]]


def forecasts(
    gaps: pd.DataFrame,
    rewards: pd.DataFrame | None,
    margins: tuple[float, float],
    roles: Sequence[str] = (),
    totals: str = "macro",
    seed: int = 0,
) -> pd.DataFrame:
    """The forecast for each model and pair of sources, and its outcome by the rewards of ICDPO.

    `gaps`: `method_gains` of the NLL, later source minus earlier, given the prompt alone. `rewards`: the rewards of a run of
    01_method (`rewards_of_run`), or None. `margins`: the smallest differences that matter, in NLL (nats per token) and in
    reward. Returns columns lm, sources, NLL gap, forecast, reward gap, outcome, and the paper's difference in ICDPO's reward
    between the corresponding sources.
    """
    rows = []
    for (lm, later, earlier), part in gaps.groupby(["lm", "method", "baseline"], sort=False):
        gap = estimate(part)
        forecast = finding(gap, margins[0])
        reward = _reward_gap(rewards, lm, later, earlier, totals, seed)
        rows.append({
            "lm": lm, "sources": f"{later} - {earlier}", "NLL gap [95 % interval]": str(gap),
            "serves better, by forecast": {HIGHER: earlier, LOWER: later}.get(forecast, f"neither: {forecast}"),
            "reward gap of ICDPO": "–" if reward is None else str(reward),
            "outcome": _outcome(forecast, reward, margins[1]),
            "paper's reward gap": by_model(_published_gap(later, earlier, roles)) or "not reported",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _outcome(forecast: str, reward: Estimate | None, margin: float) -> str:
    """Whether a forecast came true, or why this is unknown."""
    if reward is None:
        return "not run"
    if forecast not in (HIGHER, LOWER):
        return "no forecast"
    observed = finding(reward, margin)
    if observed == OPEN:
        return f"{OPEN}; {needed_text(n_to_decide(reward, margin))}".removesuffix("; ")
    if observed not in (HIGHER, LOWER):
        return observed
    return "came true" if observed != forecast else "did not come true"  # a higher NLL forecasts a lower reward


def _published_gap(later: str, earlier: str, roles: Sequence[str]) -> dict[str, float]:
    """Published difference in ICDPO's total reward on HH-RLHF between the corresponding sources, later minus earlier."""
    rows = published().query("table == 2 and method == 'ICDPO' and domain == 'total'")
    first, second = (rows[rows["source"] == role_of(name, roles)].set_index("model")["value"] for name in (later, earlier))
    return {model: round(float(first[model] - second[model]), 2) for model in first.index.intersection(second.index)}


def _reward_gap(rewards: pd.DataFrame | None, lm: str, later: str, earlier: str, totals: str, seed: int) -> Estimate | None:
    """Paired difference in the reward of ICDPO between the demonstrations of two sources; None without both rewards."""
    both = _icdpo_rewards(rewards, later, earlier)
    of_lm = both[both["lm"] == lm]
    return None if of_lm.empty else estimate(method_gains(of_lm, [(later, earlier)], totals=totals, seed=seed))


def _icdpo_rewards(rewards: pd.DataFrame | None, *sources: str) -> pd.DataFrame:
    """The rewards of ICDPO by source of demonstrations, as methods, for the models that have them for all these sources."""
    columns = [*GROUPS, "method", "domain", "prompt_id", "reward"]
    if rewards is None:
        return pd.DataFrame(columns=columns)
    found = rewards[(rewards["method"] == "ICDPO") & rewards["source"].isin(sources)]
    found = found[found.groupby("lm")["source"].transform("nunique") == len(sources)]
    return found.assign(method=found["source"], source="")[columns]


def teacher_claims(
    nll: pd.DataFrame,
    rewards: pd.DataFrame | None,
    margins: tuple[float, float],
    roles: Sequence[str] = (),
    totals: str = "macro",
    seed: int = 0,
) -> pd.DataFrame:
    """The paper's two claims on its teachers, `NEARER` (Figure 5) and `BETTER` (Appendix E), as from `verdicts.claims`.

    `nll`: as from `source_nll`; the claim is on the prompt alone. The other arguments are those of `forecasts`. A column unit
    is added. Empty if no source stands for LLaMA2-chat or none for GPT-3.5.
    """
    named = {role_of(name, roles): name for name in nll["method"].unique()}
    near, far = named.get("LLaMA2-chat"), named.get("GPT-3.5")
    if near is None or far is None:
        return pd.DataFrame()
    alone = nll[nll["source"] == ALONE].assign(source=f"{far} − {near}")
    gains = method_gains(alone, [(far, near)], "nll", totals, seed)
    reported = in_words({(far, near): Reported(words="higher", sign=1)})
    tables = [claims(gains, margins[0], reported).assign(claim=NEARER, unit="nats per token")]
    both = _icdpo_rewards(rewards, near, far).assign(source=f"{near} − {far}")
    if len(both):
        gains = method_gains(both, [(near, far)], totals=totals, seed=seed)
        reported = in_words({(near, far): Reported(_published_gap(near, far, roles))})
        tables.append(claims(gains, margins[1], reported).assign(claim=BETTER, unit="points of reward"))
    return pd.concat(tables, ignore_index=True)


def forecast_sentence(found: pd.DataFrame, n: int) -> str:
    """How many comparisons yield a forecast, how many forecasts came true, and which did not."""
    outcomes = found["outcome"]
    made = int((~found["serves better, by forecast"].str.startswith("neither")).sum())
    forecast = f"The NLL of {n} responses per source gives a forecast in {made} of {len(found)} comparisons"
    if (outcomes == "not run").any():
        return f"{forecast}; there are no rewards to test it."
    failed = [f"{r.lm}: {r.sources}" for r in found.itertuples() if r.outcome == "did not come true"]
    counts = [f"it came true in {int((outcomes == 'came true').sum())}"]
    if failed:
        counts.append(f"did not in {len(failed)} ({'; '.join(failed)})")
    for kind in (SMALL, OPEN):
        if count := int(outcomes.str.startswith(kind).sum()):
            counts.append(f"{kind} in {count}")
    return f"{forecast}; {', '.join(counts)}."


def rewards_of_run(folder: Path | None) -> pd.DataFrame | None:
    """The rewards by method and prompt that a run of 01_method saved; None if there are none."""
    path = folder / "per_prompt.jsonl" if folder else None
    if path is None or not path.exists():
        return None
    return pd.read_json(path, lines=True, convert_dates=False, dtype={"prompt_id": str})
