"""The published procedure against the engine, side by side: `make bench`.

Published: transformers' generate with num_return_sequences and no stop strings, then one full-context pass for every candidate
under every context with full logits, as the released code does (arXiv:2402.09320), all prompts of a case in one left-padded
batch. Engine: `CausalLM.sample` and `.logprobs`. Each run is a process of its own, the two sides in turn; ratios are medians
over the pairs, tokens are counted exactly. Memory is the largest resident set during the run, looked at every few
milliseconds; "working" is what of it came on top of the loaded model. The roofline is the least time that the engine's counted
work can take at the rates of this machine (see `roofline`); both sides are given as multiples of it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time

import psutil
from results import write
from roofline import least_seconds, rates

CASES = {  # name -> (model, candidates, prompts, demonstrations)
    "smollm2 n=3": ("smollm2", 3, 4, 4),
    "smollm2 n=3, 8 prompts": ("smollm2", 3, 8, 4),  # the published side's memory grows with its batch, ours does not
    "smollm2 n=16": ("smollm2", 16, 1, 4),
    "sandbox-medium n=3": ("sandbox-medium", 3, 32, 2),
    "7B shape n=3": ("7B shape", 3, 4, 5),  # random weights: for speed and memory only; needs a GPU
    "7B shape n=3, 16 prompts": ("7B shape", 3, 16, 5),
}
SHAPES = {  # Llama configurations; contexts of about 800 tokens of the sandbox's tokenizer
    "7B shape": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tiny shape": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
}
SCORES = {"S": ("icl", "base"), "S and Ŝ": ("icl", "base", "icl_rejected")}  # and the contexts they are scored under
NEW_TOKENS = 128


def texts(preferences: str, n_prompts: int, n_demos: int) -> list[dict[str, str]]:
    """Contexts of test prompts with demonstrations of teacher B, in pocket the longest of its sources."""
    import icdpo_nb as nb

    data = nb.load_preferences(preferences, demonstrations="teacher-b")
    prompts = nb.spread(data.test, n_prompts)
    found = nb.RandomRetriever(data.support).retrieve([p.prompt for p in prompts], n_demos)
    return [nb.contexts(demos, p.prompt) for demos, p in zip(found, prompts, strict=True)]


def load(name: str):
    """A model by its name, or one of a shape with random weights: in bfloat16 on a GPU, else in float32."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from icdpo_nb.models import packaged
    from icdpo_nb.models.lm import CausalLM, load_lm

    if name not in SHAPES:
        return load_lm(name)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    config = LlamaConfig(**SHAPES[name], vocab_size=32_000, max_position_embeddings=2048, eos_token_id=None)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation="icdpo_grouped")
    return CausalLM(model, AutoTokenizer.from_pretrained(packaged.PACKAGED["sandbox-medium"]), name)


def padded(rows: list[list[int]], device):
    """Token ids padded on the left, and the attention mask."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)


class Published:
    """The published procedure on one left-padded batch. Every method returns the tokens that went through the model."""

    def __init__(self, lm, contexts: list[dict[str, str]], n: int):
        self.lm, self.model, self.contexts, self.n = lm, lm.engine.model, contexts, n
        self.model.set_attn_implementation("sdpa")

    def sample(self) -> int:
        """n responses of `NEW_TOKENS` tokens for each context, cut at a stop string afterwards."""
        import torch

        from icdpo_nb.protocol import REFERENCE
        from icdpo_nb.templates import stop_position

        prompts = [self.lm.encode_context(t["icl"]) for t in self.contexts]
        ids, mask = padded(prompts, self.model.device)
        how = {"do_sample": True, "top_p": 0.8, "num_return_sequences": self.n, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
        with torch.no_grad():
            out = self.model.generate(ids, attention_mask=mask, **how)
        said = [self.lm.decode(row[ids.shape[1] :].tolist()) for row in out]
        self.responses = [self.lm.encode_response(t[: stop_position(t, REFERENCE)], REFERENCE).token_ids for t in said]
        return sum(self.n * (len(p) + NEW_TOKENS) for p in prompts)

    def score(self, name: str) -> int:
        """Log-probabilities of all responses under one context, full logits and all."""
        import torch

        rows = [[*self.lm.encode_context(self.contexts[i // self.n][name]), *y] for i, y in enumerate(self.responses)]
        ids, mask = padded(rows, self.model.device)
        with torch.no_grad():
            logp = torch.log_softmax(self.model(input_ids=ids, attention_mask=mask).logits.float(), -1)
            logp[:, :-1].gather(-1, ids[:, 1:, None])
        return sum(map(len, rows))


class Ours:
    """The same through `CausalLM`."""

    def __init__(self, lm, contexts: list[dict[str, str]], n: int):
        self.lm, self.contexts, self.n = lm, contexts, n

    def _tokens(self) -> int:
        return sum(self.lm.engine.work[stage] for stage in ("prefill", "decode", "scored"))

    def sample(self) -> int:
        """n responses for each context."""
        from icdpo_nb.protocol import RECOMMENDED

        before = self._tokens()
        self.responses = self.lm.sample([t["icl"] for t in self.contexts], self.n, RECOMMENDED.but(max_new_tokens=NEW_TOKENS))
        return self._tokens() - before

    def score(self, name: str) -> int:
        """Log-probabilities of all responses under one context."""
        before = self._tokens()
        self.lm.logprobs([t[name] for t in self.contexts], self.responses)
        return self._tokens() - before


class PeakMemory:
    """The most memory while the block runs, in bytes: torch's own count on a GPU, else the resident set, seen by a thread."""

    def __enter__(self):
        import torch

        self.process, self.done = psutil.Process(), threading.Event()
        self.cuda = torch.cuda if torch.cuda.is_available() else None
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
        self.start = self.peak = self.cuda.memory_allocated() if self.cuda else self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.004):
            now = self.cuda.max_memory_allocated() if self.cuda else self.process.memory_info().rss
            self.peak = max(self.peak, now)

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()


def run_side(side: str, case: str) -> None:
    """One timed run in this process; prints seconds, tokens and peak memory as JSON."""
    import torch

    import icdpo_nb.engine.engine

    if side == "published":
        icdpo_nb.engine.engine.Engine.choose_layers = lambda self: []  # the model as transformers loads it
    name, n, n_prompts, n_demos = CASES[case]
    lm, contexts = load(name), texts("pocket" if name == "smollm2" else "sandbox", n_prompts, n_demos)
    lm.logprobs(["Human: Hi"], [[lm.encode_response("Hello.")]])  # what is loaded on first use
    torch.manual_seed(0)
    runner = {"published": Published, "engine": Ours}[side](lm, contexts, n)
    seconds, tokens = {}, {}
    with PeakMemory() as memory:
        for stage in ("sample", "icl", "base", "icl_rejected"):
            start = time.perf_counter()
            tokens[stage] = runner.sample() if stage == "sample" else runner.score(stage)
            if memory.cuda:
                memory.cuda.synchronize()
            seconds[stage] = time.perf_counter() - start
    encoded = [{c: lm.encode_context(t[c]) for c in t} for t in contexts]
    found = {"seconds": seconds, "tokens": tokens, "context_tokens": statistics.mean(len(t["icl"]) for t in encoded)}
    if side == "engine":
        responses = [[y.token_ids for y in ys] for ys in runner.responses]
        found["rates"] = rates(lm.engine.model.device, lm.engine.model.dtype)
        found["least"] = least_seconds(lm, encoded, responses, NEW_TOKENS, found["rates"])
    print(json.dumps(found | {"peak_bytes": memory.peak, "working_bytes": memory.peak - memory.start}))


def measured(run: dict, contexts: tuple[str, ...]) -> dict[str, float]:
    """What a run took for sampling and for scoring under some contexts."""
    stages = ("sample", *contexts)
    found = {kind: sum(run[kind][stage] for stage in stages) for kind in ("seconds", "tokens")}
    return found | {kind: run[kind] for kind in ("peak_bytes", "working_bytes")}


def compare(case: str, pairs: int) -> list[dict]:
    """The two sides in turn; for each score medians, and the median of the ratios pair by pair."""
    runs: dict[str, list[dict]] = {"published": [], "engine": []}
    for _ in range(pairs):
        for side, found in runs.items():
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, "--case", case], capture_output=True, text=True, check=True
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    results = []
    for score, contexts in SCORES.items():
        sides = {side: [measured(run, contexts) for run in found] for side, found in runs.items()}
        both = list(zip(sides["published"], sides["engine"], strict=True))
        ratios = {k: statistics.median(a[k] / b[k] for a, b in both) for k in both[0][0]}
        middle = {side: {k: statistics.median(r[k] for r in found) for k in found[0]} for side, found in sides.items()}
        least = [sum(run["least"][stage] for stage in ("sample", *contexts)) for run in runs["engine"]]
        multiples = {
            side: statistics.median(run["seconds"] / bound for run, bound in zip(found, least, strict=True))
            for side, found in sides.items()
        }
        results.append({
            "case": f"{case}, {score}", "pairs": pairs, "context_tokens": runs["engine"][0]["context_tokens"],
            "ratios": ratios, "least_seconds": statistics.median(least), "multiples": multiples,
            "rates": {k: statistics.median(run["rates"][k] for run in runs["engine"]) for k in runs["engine"][0]["rates"]},
            **middle,
        })  # fmt: skip
    return results


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


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
    columns = ("roofline", "published", "engine", "× roofline", "× faster", "× fewer tokens", "× less memory", "× less working")
    print(f"{'case':28}", *(f"{c:>15}" for c in columns))
    for case in args.case or CASES:
        if CASES[case][0] in SHAPES and not has_gpu():
            print(f"{case:28} not measured: there is no GPU")
            continue
        for r in compare(case, args.pairs):
            results.append(r)
            taken = (r["least_seconds"], r["published"]["seconds"], r["engine"]["seconds"])
            seconds, multiple = [f"{s:14.1f}s" for s in taken], f"{r['multiples']['engine']:15.1f}"
            print(f"{r['case']:28}", *seconds, multiple, *(f"{x:15.1f}" for x in r["ratios"].values()), flush=True)
    write("engine", {"cases": results})
    return None


if __name__ == "__main__":
    main()
