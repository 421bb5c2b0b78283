"""What sampling and scoring cost: tokens, seconds and memory, held against the published procedure."""

from collections.abc import Mapping

import pandas as pd

from ..models.interface import SECONDS, TOKENS, LanguageModel


def work_done(models: Mapping[str, LanguageModel]) -> pd.DataFrame:
    """What sampling and scoring cost, a row for each model: tokens that went through it, and time and memory they took.

    Tokens, seconds and memory are those of the time when the results were computed, by this run or by an earlier one whose
    results the store kept; the columns "added …" are of this run alone. `results` counts what the run used, each once, and
    `without cost` those that were stored before costs were kept: no other column knows of them.

    "× fewer" compares with the published procedure on the same contexts and responses: a context anew for every candidate,
    `max_new_tokens` decoded for each, and a pass over context and response for every candidate and context. Seconds are those
    of the clock; where models ran side by side, each had a part of the machine.
    """
    rows = []
    for name, lm in models.items():
        cost, added = lm.cost(), lm.work()
        tokens, seconds = sum(cost[kind] for kind in TOKENS[:3]), sum(cost[stage] for stage in SECONDS)
        rows.append({
            "model": name,
            **{f"{kind} tokens": cost[kind] for kind in TOKENS[:3]},
            "tokens": tokens,
            "published": cost["published"],
            "× fewer": cost["published"] / tokens if tokens else float("nan"),
            **{f"{stage}, s": cost[stage] for stage in SECONDS},
            "tokens/s": tokens / seconds if tokens else float("nan"),
            "peak memory, GB": cost["peak"] / 1e9,
            "added tokens": sum(added[kind] for kind in TOKENS[:3]),
            "added published": added["published"],
            "added, s": sum(added[stage] for stage in SECONDS),
            "results": cost["results"],
            "without cost": cost["without cost"],
            "machine": "; ".join(cost["machines"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def work_sentence(work: pd.DataFrame) -> str:
    """The totals of `work_done` in sentences: what the results cost when computed, what this run added, what is not known."""
    total = work.sum(numeric_only=True)
    tokens, added, lacking = int(total["tokens"]), int(total["added tokens"]), int(total["without cost"])
    said = []
    if tokens:
        seconds = total[[f"{stage}, s" for stage in SECONDS]].sum()
        machines = dict.fromkeys(m for row in work["machine"] for m in row.split("; ") if m)
        said.append(
            f"{tokens:,} tokens went through the model{'s' if len(work) > 1 else ''} when the results were computed "
            f"({seconds:,.0f} s; {'; '.join(machines)}); the published procedure would have needed {int(total['published']):,} "
            f"for the same, {total['published'] / tokens:.1f} times as many."
        )
    if added >= tokens > 0:
        said.append("All of it was computed in this run.")
    elif added:
        said.append(f"This run added {added:,} of these tokens ({total['added, s']:,.0f} s); the rest was found in the store.")
    elif tokens or lacking:
        said.append("This run computed nothing: everything was found in the store.")
    if lacking:
        said.append(f"For {lacking:,} of {int(total['results']):,} results the cost was not recorded.")
    return " ".join(said) or "No token went through a model."


def cost_facts(work: pd.DataFrame) -> dict[str, str]:
    """The totals of `work_done` by name, in a few words each, for a report's summary."""
    total = work.sum(numeric_only=True)
    tokens, added = int(total["tokens"]), int(total["added tokens"])
    seconds = total[[f"{stage}, s" for stage in SECONDS]].sum()
    facts = {"cost when computed": f"{tokens:,} tokens, {seconds:,.0f} s"}
    if tokens:
        facts["published procedure"] = f"{total['published'] / tokens:.1f} times as many tokens"
    facts["added by this run"] = f"{added:,} tokens" if added else "nothing: all results were in the store"
    return facts
