"""The cost of sampling and scoring in tokens, seconds and memory, compared with the published procedure."""

import re
from collections import Counter
from collections.abc import Mapping

import pandas as pd

from ..models.interface import SECONDS, TOKENS, LanguageModel
from ..models.workers import account_text


def work_done(models: Mapping[str, LanguageModel]) -> pd.DataFrame:
    """The cost of sampling and scoring, with one row for each model: tokens processed, time and memory.

    Tokens, seconds and memory were recorded when the results were computed, by this run or by an earlier run whose results are
    in the store; the columns "added …" refer to this run alone. `results` is the number of distinct results that the run used.
    `without cost` counts those that were stored before costs were recorded; they are missing from all other columns.

    "× fewer" compares with the published procedure on the same contexts and responses, which encodes the context again for
    every candidate, decodes `max_new_tokens` for each, and runs one forward pass over context and response for every candidate
    and context. Seconds are wall-clock time; models that ran in parallel shared the machine.
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
            "products": ", ".join(f"{name} {n}" for name, n in sorted(lm.products.items())),
        })  # fmt: skip
    return pd.DataFrame(rows)


def work_sentence(work: pd.DataFrame) -> str:
    """The totals of `work_done`: the cost of computing the results, and how much of it this run added."""
    total = work.sum(numeric_only=True)
    tokens, added, unknown = (int(total[column]) for column in ("tokens", "added tokens", "without cost"))
    sentences = []
    if tokens:
        seconds = total[[f"{stage}, s" for stage in SECONDS]].sum()
        machines = dict.fromkeys(m for row in work["machine"] for m in row.split("; ") if m)
        sentences.append(
            f"The model{'s' if len(work) > 1 else ''} processed {tokens:,} tokens to compute these results "
            f"({seconds:,.0f} s; {'; '.join(machines)}). The published procedure would have needed "
            f"{int(total['published']):,}, {total['published'] / tokens:.1f} times as many."
        )
    if added >= tokens > 0:
        sentences.append("All of them were processed in this run.")
    elif added:
        seconds = total["added, s"]
        sentences.append(f"This run processed {added:,} of them ({seconds:,.0f} s); the other results were in the store.")
    elif tokens or unknown:
        sentences.append("This run computed nothing; all results were in the store.")
    products: Counter = Counter()
    for name, n in re.findall(r"(\w+) (\d+)", ", ".join(work["products"])):
        products[name] += int(n)
    if products:
        layers = ", ".join(f"{name} in {n:,} layers" for name, n in sorted(products.items()))
        sentences.append(f"Matrix products, the faster for each shape: {layers}.")
    if unknown:
        sentences.append(f"The cost of {unknown:,} of {int(total['results']):,} results was not recorded.")
    return " ".join(sentences) or "No tokens were processed."


def cost_facts(work: pd.DataFrame) -> dict[str, str]:
    """The totals of `work_done` by name, in a few words each, for a report's summary."""
    total = work.sum(numeric_only=True)
    tokens, added = int(total["tokens"]), int(total["added tokens"])
    seconds = total[[f"{stage}, s" for stage in SECONDS]].sum()
    facts = {"cost when computed": f"{tokens:,} tokens, {seconds:,.0f} s"}
    if tokens:
        facts["published procedure"] = f"{total['published'] / tokens:.1f} times as many tokens"
    facts["added by this run"] = f"{added:,} tokens" if added else "nothing: all results were in the store"
    if used := account_text():
        facts["workers"] = used
    return facts
