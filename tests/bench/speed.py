"""BM25 against rank-bm25's loop, and how near the engine comes to what the machine can do: `make bench`.

Each figure is the median of several runs in turn, in one process. Prefill: floating-point operations a second in scoring, those
that the model needs (its layers, attention over the keys each token may see, the output layer at response tokens), against a
large matrix product of the same kind. Decode: bytes of weights read a second, against a copy.
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from results import write

import icdpo_nb as nb
from icdpo_nb.engine.onednn import PackedLinear
from icdpo_nb.engine.prefix import prefix_groups
from icdpo_nb.retrieval.retrievers import words

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


def operations(lm, contexts: list[list[int]], responses: list[list[tuple[int, ...]]]) -> int:
    """Floating-point operations of scoring these responses, a multiplication and an addition counted as two.

    A shared prefix is computed once. A token at position p looks at p + 1 keys (of its context and its own response).
    """
    config = lm.engine.model.config
    positions: list[int] = []
    for prefix, members in prefix_groups(contexts, range(len(contexts))):
        positions += range(len(prefix))
        for i in members:
            rows = (range(len(contexts[i]) - 1, len(contexts[i]) - 1 + len(y)) for y in responses[i])
            positions += [*range(len(prefix), len(contexts[i]) - 1), *(p for row in rows for p in row)]
    layers = sum(m.packed.numel() if isinstance(m, PackedLinear) else m.weight.numel() for m in linears(lm))
    attention = 2 * config.num_hidden_layers * config.hidden_size * sum(p + 1 for p in positions)  # q k' and p v
    head = config.vocab_size * config.hidden_size * sum(len(y) for ys in responses for y in ys)
    return 2 * (layers * len(positions) + attention + head)


def linears(lm) -> list:
    """The linear layers of a model's body."""
    return [m for m in lm.engine.body.modules() if isinstance(m, PackedLinear | torch.nn.Linear)]


@torch.inference_mode()
def roofline(name: str = "smollm2") -> dict:
    """Prefill and decode of a model against a matrix product and a copy in the same process."""
    lm = nb.load_lm(name)
    lm.engine.begin()
    probe, x = torch.nn.Linear(2048, 2048, bias=False), torch.randn(2048, 2048)
    fast = PackedLinear(probe) if isinstance(linears(lm)[0], PackedLinear) else probe
    text = "Human: " + "Tell me a long story about the sea. " * 80 + "\n\nAssistant:"
    contexts = [text + str(i) for i in range(4)]
    responses = [[lm.encode_response("The sea is wide, and the ships are many. " * 4)] for _ in contexts]
    needed = operations(lm, [lm.encode_context(c) for c in contexts], [[y.token_ids for y in ys] for ys in responses])
    source, target = torch.randn(2**27), torch.empty(2**27)
    found: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for kind, layer in (("torch product, GFLOP/s", probe), ("product, GFLOP/s", fast)):
            found.setdefault(kind, []).append(2 * 2048**3 / seconds(lambda layer=layer: layer(x)) / 1e9)
        found.setdefault("prefill, GFLOP/s", []).append(needed / seconds(lambda: lm.logprobs(contexts, responses)) / 1e9)
        found.setdefault("copy, GB/s", []).append(2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e9)
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
    found = {"bm25": bm25(), "roofline": roofline()}
    for part, values in found.items():
        print(part, *(f"  {k:24}{v:10.2f}" for k, v in values.items()), sep="\n", flush=True)
    write("speed", found)


if __name__ == "__main__":
    main()
