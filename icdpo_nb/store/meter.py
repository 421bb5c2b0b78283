"""What the results of a language model cost: measured as they are computed, summed as they are used."""

from collections import Counter

from ..models.interface import SECONDS, TOKENS, LanguageModel


class Meter:
    """Measures the cost of a language model's results for a store, and sums the cost of all results used.

    Each wrapped model has its own meter. A result counts once, however often it is used.
    """

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.used: dict[tuple[str, str], dict | None] = {}  # the cost of each result, or None if none is stored

    def start(self) -> None:
        """Record the model's counters, after the setup that no result is charged for."""
        self.lm.prepare()
        self.before = self.lm.work()

    def spent(self) -> dict:
        """The model's work since `start`, with the machine and the peak memory."""
        now, cost = self.lm.work(), self.lm.cost()
        where = {"machine": "; ".join(cost["machines"]), "peak": cost["peak"]}
        return {kind: now[kind] - self.before[kind] for kind in now} | {"where": where}

    def total(self) -> dict:
        """The total cost of all results used; see `interface.LanguageModel.cost`."""
        costs = [cost for cost in self.used.values() if cost is not None]
        sums: Counter = Counter()
        for cost in costs:
            sums.update({k: cost[k] for k in (*TOKENS, *SECONDS)})
        return {
            **{kind: round(sums[kind]) for kind in TOKENS},  # items hold fractions of a chunk's counts
            **{stage: sums[stage] for stage in SECONDS},
            "machines": list(dict.fromkeys(filter(None, (cost["where"]["machine"] for cost in costs)))),
            "peak": max((cost["where"]["peak"] for cost in costs), default=0),
            "results": len(self.used),
            "without cost": len(self.used) - len(costs),
        }
