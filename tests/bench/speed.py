"""BM25 against rank-bm25's loop, and how near the engine's passes come to what the machine can do: `make bench`.

Each figure is the median of several runs in turn, in one process. Prefill: the operations that scoring needs (see `roofline`)
a second, against a large product. Decode: bytes of weights read a second, against a copy.
"""

import random
import statistics

import torch
from results import write
from roofline import Work, rates, seconds

import icdpo_nb as nb
from icdpo_nb.retrieval.retrievers import words

RUNS = 5


def bm25(n_support: int = 40_000, n_prompts: int = 1_000, k: int = 2) -> dict:
    """Our retriever, index and all, against a loop over BM25Okapi.get_scores; the rankings must be the same.

    The loop is timed on a fiftieth of the prompts, and that time multiplied: it does the same for each.
    """
    from rank_bm25 import BM25Okapi

    rng = random.Random(0)
    vocabulary, weights = [f"w{i}" for i in range(20_000)], [1 / (i + 10) for i in range(20_000)]
    texts = [" ".join(rng.choices(vocabulary, weights, k=rng.randint(8, 60))) for _ in range(n_support + n_prompts)]
    support = [nb.Preference(str(i), "all", text, "yes", "no") for i, text in enumerate(texts[:n_support])]
    asked, window, some = texts[n_support:], 30, n_prompts // 50

    def ours() -> list[list[int]]:
        retriever = nb.BM25Retriever(support, window, lambda text: words(text))  # of a lambda no index is kept
        return [[int(d.prompt_id) for d in ds] for ds in retriever.retrieve(asked, k)]

    def theirs() -> list[list[int]]:
        index = BM25Okapi([words(p.prompt)[-window:] for p in support])
        scores = (index.get_scores(words(a)[-window:]) for a in asked[:some])
        return [sorted(range(n_support), key=lambda i: -s[i])[:k] for s in scores]

    assert ours()[:some] == theirs(), "the rankings differ"
    index = statistics.median(seconds(lambda: BM25Okapi([words(p.prompt)[-window:] for p in support])) for _ in range(3))
    pairs = [(index + (seconds(theirs) - index) * n_prompts / some, seconds(ours)) for _ in range(RUNS)]
    loop, product = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"support": n_support, "prompts": n_prompts, "rank_bm25 s": loop, "ours s": product,
            "× faster": statistics.median(a / b for a, b in pairs)}  # fmt: skip


@torch.inference_mode()
def passes(name: str = "smollm2") -> dict:
    """Prefill and decode of a model against a matrix product and a copy in the same process."""
    lm = nb.load_lm(name)
    lm.engine.begin()
    text = "Human: " + "Tell me a long story about the sea. " * 80 + "\n\nAssistant:"
    contexts = [text + str(i) for i in range(4)]
    responses = [[lm.encode_response("The sea is wide, and the ships are many. " * 4)] for _ in contexts]
    needed = Work(lm).scoring([lm.encode_context(c) for c in contexts], [[y.token_ids for y in ys] for ys in responses])
    found: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for kind, rate in rates().items():
            found.setdefault({"product": "product, GFLOP/s", "copy": "copy, GB/s"}[kind], []).append(rate / 1e9)
        found.setdefault("prefill, GFLOP/s", []).append(needed / seconds(lambda: lm.logprobs(contexts, responses)) / 1e9)
        short = nb.RECOMMENDED.but(max_new_tokens=33, stop="anywhere")
        one = seconds(lambda short=short: lm.sample(["Human: Count"], 1, short.but(max_new_tokens=1)))
        steps = lm.engine.work["decode"]
        took = seconds(lambda short=short: lm.sample(["Human: Count"], 1, short)) - one
        steps = lm.engine.work["decode"] - steps
        found.setdefault("decode, GB/s", []).append(4 * lm.engine.n_parameters * steps / took / 1e9)
    middle = {kind: statistics.median(values) for kind, values in found.items()}
    return middle | {"prefill / product": middle["prefill, GFLOP/s"] / middle["product, GFLOP/s"],
                     "decode / copy": middle["decode, GB/s"] / middle["copy, GB/s"]}  # fmt: skip


def main() -> None:
    """Both, printed and written to reports/bench/speed.json."""
    found = {"bm25": bm25(), "passes": passes()}
    for part, values in found.items():
        print(part, *(f"  {k:24}{v:10.2f}" for k, v in values.items()), sep="\n", flush=True)
    write("speed", found)


if __name__ == "__main__":
    main()
