"""BM25 against rank-bm25's loop, and how near the engine comes to what the machine can do: `make bench-kernels`.

Each figure is the median of several runs in turn, in one process. Prefill: floating-point operations a second of the model's
products in scoring, against a large matrix product of the same kind. Decode: bytes of weights read a second, against a copy.
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from results import write

import icdpo_nb as nb
from icdpo_nb.linear import PackedLinear
from icdpo_nb.retrieval import words

RUNS = 5


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
        return [[int(d.prompt_id) for d in ds] for ds in nb.BM25Retriever(support, window).retrieve(asked, k)]

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
def roofline(name: str = "smollm2") -> dict:
    """Prefill and decode of a model against a matrix product and a copy in the same process."""
    lm = nb.load_lm(name)
    layers = [m for m in lm.engine.body.modules() if isinstance(m, PackedLinear | torch.nn.Linear)]
    probe = torch.nn.Linear(2048, 2048, bias=False)
    fast = PackedLinear(probe) if isinstance(layers[0], PackedLinear) else probe
    x, weights = torch.randn(2048, 2048), [m.packed if isinstance(m, PackedLinear) else m.weight for m in layers]
    n_weights = sum(w.numel() for w in weights)
    text = "Human: " + "Tell me a long story about the sea. " * 80 + "\n\nAssistant:"
    contexts = [text + str(i) for i in range(4)]
    responses = [[lm.encode_response("The sea is wide, and the ships are many. " * 4)] for _ in contexts]
    source, target = torch.randn(2**27), torch.empty(2**27)
    found: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for kind, layer in (("torch product, GFLOP/s", probe), ("product, GFLOP/s", fast)):
            found.setdefault(kind, []).append(2 * 2048**3 / seconds(lambda layer=layer: layer(x)) / 1e9)
        before = lm.engine.work["scored"] + lm.engine.work["prefill"]
        took = seconds(lambda: lm.logprobs(contexts, responses))
        tokens = lm.engine.work["scored"] + lm.engine.work["prefill"] - before
        found.setdefault("prefill, GFLOP/s", []).append(2 * n_weights * tokens / took / 1e9)
        found.setdefault("copy, GB/s", []).append(2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e9)
        short = nb.RECOMMENDED.but(max_new_tokens=33, stop="anywhere")
        one = seconds(lambda short=short: lm.sample(["Human: Count"], 1, short.but(max_new_tokens=1)))
        steps = lm.engine.work["decode"]
        took = seconds(lambda short=short: lm.sample(["Human: Count"], 1, short)) - one
        steps = lm.engine.work["decode"] - steps
        read = 4 * (n_weights + lm.engine.model.config.vocab_size * lm.engine.model.config.hidden_size)
        found.setdefault("decode, GB/s", []).append(read * steps / took / 1e9)
    middle = {kind: statistics.median(values) for kind, values in found.items()}
    return middle | {"prefill / product": middle["prefill, GFLOP/s"] / middle["product, GFLOP/s"],
                     "decode / copy": middle["decode, GB/s"] / middle["copy, GB/s"]}  # fmt: skip


def main() -> None:
    """Both, printed and written to reports/bench/kernels.json."""
    found = {"bm25": bm25(), "roofline": roofline()}
    for part, values in found.items():
        print(part, *(f"  {k:24}{v:10.2f}" for k, v in values.items()), sep="\n", flush=True)
    write("kernels", found)


if __name__ == "__main__":
    main()
