"""The published procedure against the engine, side by side: `make bench`.

Published: transformers' generate with num_return_sequences and no stop strings, then one full-context pass for every candidate
under every context with full logits, as the released code does (arXiv:2402.09320), all prompts of a case in one left-padded
batch. Engine: `CausalLM.sample` and `.logprobs`. Each run is a process of its own, the two sides in turn; ratios are medians
over the pairs, tokens are counted exactly. Memory is the largest resident set during the run, looked at every few
milliseconds; "working" is what of it came on top of the loaded model.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

CASES = {  # name -> (model, candidates, contexts to score under, prompts)
    "smollm2 n=3 S": ("smollm2", 3, ("icl", "base"), 4),
    "smollm2 n=3 S and Ŝ": ("smollm2", 3, ("icl", "base", "icl_rejected"), 4),
    "smollm2 n=16 S": ("smollm2", 16, ("icl", "base"), 2),
    "sandbox-medium n=3 S and Ŝ": ("sandbox-medium", 3, ("icl", "base", "icl_rejected"), 16),
}
NEW_TOKENS = 128
OUT = Path(__file__).parents[2] / "reports" / "bench"


def texts(n_prompts: int, n_demos: int) -> list[dict[str, str]]:
    """Contexts of pocket's test prompts with demonstrations of teacher B, the longest of its sources."""
    import icdpo_nb as nb

    data = nb.load_preferences("pocket", demonstrations="teacher-b")
    prompts = nb.spread(data.test, n_prompts)
    found = nb.RandomRetriever(data.support).retrieve([p.prompt for p in prompts], n_demos)
    return [nb.contexts(demos, p.prompt) for demos, p in zip(found, prompts, strict=True)]


def padded(rows: list[list[int]]):
    """Token ids padded on the left, and the attention mask."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def published(lm, contexts: list[dict[str, str]], n: int, scored: tuple[str, ...]) -> int:
    """The published procedure. Returns the tokens that went through the model, padding not counted."""
    import torch

    from icdpo_nb.protocol import REFERENCE
    from icdpo_nb.templates import stop_position

    model = lm.engine.model
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        prompts = [lm.encode_context(t["icl"]) for t in contexts]
        ids, mask = padded(prompts)
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_p=0.8,
            num_return_sequences=n,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )
        tokens = sum(n * (len(p) + NEW_TOKENS) for p in prompts)
        said = [lm.decode(row[ids.shape[1] :].tolist()) for row in out]
        responses = [lm.encode_response(t[: stop_position(t, REFERENCE)], REFERENCE).token_ids for t in said]
        for name in scored:
            rows = [[*lm.encode_context(contexts[i // n][name]), *y] for i, y in enumerate(responses)]
            ids, mask = padded(rows)
            logp = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.float(), -1)
            logp[:, :-1].gather(-1, ids[:, 1:, None])
            del logp
            tokens += sum(map(len, rows))
    return tokens


def engine(lm, contexts: list[dict[str, str]], n: int, scored: tuple[str, ...]) -> int:
    """The engine on all prompts at once. Returns the tokens that went through the model, padding not counted."""
    from icdpo_nb.protocol import RECOMMENDED

    responses = lm.sample([t["icl"] for t in contexts], n, RECOMMENDED.but(max_new_tokens=NEW_TOKENS))
    lm.logprobs([t[name] for name in scored for t in contexts], responses * len(scored))
    return sum(lm.engine.work[stage] for stage in ("prefill", "decode", "scored"))


class PeakMemory:
    """The largest resident set of this process while the block runs, in bytes, looked at by a thread."""

    def __enter__(self):
        self.process, self.done = psutil.Process(), threading.Event()
        self.start = self.peak = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.004):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()


def run_side(side: str, case: str) -> None:
    """One timed run in this process; prints seconds, tokens and peak memory as JSON."""
    import torch

    import icdpo_nb.engine
    from icdpo_nb.lm import load_lm

    if side == "published":
        icdpo_nb.engine.pack_linears = lambda model: None  # the model as transformers loads it
    model, n, scored, n_prompts = CASES[case]
    lm, contexts = load_lm(model), texts(n_prompts, 4 if model == "smollm2" else 2)
    lm.logprobs(["Human: Hi"], [[lm.encode_response("Hello.")]])  # what is loaded on first use
    lm.engine.work.clear()
    torch.manual_seed(0)
    with PeakMemory() as memory:
        start = time.perf_counter()
        tokens = {"published": published, "engine": engine}[side](lm, contexts, n, scored)
        seconds = time.perf_counter() - start
    found = {"seconds": seconds, "tokens": tokens, "peak_bytes": memory.peak, "working_bytes": memory.peak - memory.start}
    found["context_tokens"] = statistics.mean(len(lm.encode_context(t["icl"])) for t in contexts)
    print(json.dumps(found))


def compare(case: str, pairs: int) -> dict:
    """The two sides in turn; medians, and the median of the ratios pair by pair."""
    runs: dict[str, list[dict]] = {"published": [], "engine": []}
    for _ in range(pairs):
        for side, found in runs.items():
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, "--case", case], capture_output=True, text=True, check=True
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {side: {k: statistics.median(r[k] for r in found) for k in found[0]} for side, found in runs.items()}
    both = list(zip(runs["published"], runs["engine"], strict=True))
    ratios = {k: statistics.median(a[k] / b[k] for a, b in both) for k in ("seconds", "tokens", "peak_bytes", "working_bytes")}
    return {"case": case, "pairs": pairs, "ratios": ratios, **middle}


def main() -> None:
    """Run the cases that are named (all by default), print the table of ratios, and write reports/bench/engine.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--side", choices=("published", "engine"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return run_side(args.side, args.case[0])
    results = []
    columns = ("published", "engine", "× faster", "× fewer tokens", "× less memory", "× less working")
    print(f"{'case':28}", *(f"{c:>15}" for c in columns))
    for case in args.case or CASES:
        r = compare(case, args.pairs)
        results.append(r)
        seconds = [f"{r[side]['seconds']:14.1f}s" for side in ("published", "engine")]
        print(f"{case:28}", *seconds, *(f"{x:15.1f}" for x in r["ratios"].values()), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "engine.json").write_text(
        json.dumps({"machine": platform.processor() or platform.machine(), "cases": results}, indent=1)
    )
    return None


if __name__ == "__main__":
    main()
