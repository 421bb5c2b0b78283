"""What grows with what: tokens with m and n, time with the model, memory with both; `make scaling` writes docs/scaling.md.

Tokens are counted by the engine's rules. Times are measured, on the sandbox's models and SmolLM2; those of larger models
are arithmetic from their configurations and a GPU's data sheet, and say so.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from results import machine
from roofline import seconds
from transformers import LlamaConfig, MistralConfig

import icdpo_nb as nb
from icdpo_nb.common.downloads import spoken_size
from icdpo_nb.models.devices import DEVICES, REACHED
from icdpo_nb.models.packaged import PACKAGED
from icdpo_nb.models.sizes import Size, size_of

TARGET = Path(__file__).parents[2] / "docs" / "scaling.md"
MODELS = ("sandbox-small", "sandbox-medium", "sandbox-large", "smollm2")
PROMPTS, RESPONSE, STEPS, REPEATS = 20, 64, 32, 3  # prompts of each count, tokens of a response, steps that are timed
SEVEN = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32_000}
LARGE = {
    "LLaMA-7B": LlamaConfig(**SEVEN, intermediate_size=11_008),
    "Mistral-7B": MistralConfig(**SEVEN, intermediate_size=14_336, num_key_value_heads=8),
    "LLaMA-2-70B": LlamaConfig(
        hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, intermediate_size=28_672,
        vocab_size=32_000,
    ),
}  # fmt: skip
SHAPE = {"context": 800, "n": 3, "steps": 128}  # of the paper's setting: two demonstrations within Appendix A's limits
ASKED, GPUS = 1000, ("RTX-4090", "A100", "H100", "H200")  # prompts and devices of the extrapolation


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, numbers on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def tokens_by_shape(lm) -> list[list[object]]:
    """Tokens for each prompt by m and n: ours, those of the published procedure, and their ratio. Scores S and Ŝ."""
    data, rows = nb.load_preferences("pocket", demonstrations="teacher-b"), []
    prompts = nb.spread(data.test, PROMPTS)
    for m in (0, 1, 2, 4, 8):
        demos = nb.RandomRetriever(data.support).retrieve([p.prompt for p in prompts], m)
        text = [nb.contexts(ds, p.prompt) for ds, p in zip(demos, prompts, strict=True)]
        ids = {name: [lm.encode_context(t[name]) for t in text] for name in ("icl", "base", "icl_rejected")}
        for n in (1, 3, 16):
            responses = [[(0,) * RESPONSE] * n] * PROMPTS
            ours = sum(lm.engine.planned_sampling(ids["icl"], RESPONSE).values()) + PROMPTS * n * (RESPONSE - 1)
            ours += sum(sum(lm.engine.planned_scoring(ids[c], responses).values()) for c in ("base", "icl_rejected"))
            theirs = sum(n * (len(c) + RESPONSE) for name in ("icl", *ids) for c in ids[name])  # sampling, then three passes
            mean = statistics.mean(map(len, ids["icl"]))
            rows.append([m, n, f"{mean:.0f}", f"{ours / PROMPTS:,.0f}", f"{theirs / PROMPTS:,.0f}", f"{theirs / ours:.1f}"])
    return rows


def times_by_model() -> list[list[object]]:
    """For each model: weights, tokens of context a second, and milliseconds of a decoding step with 1, 12 and 48 responses."""
    return [_times(nb.load_lm(name)) for name in MODELS]


@torch.inference_mode()
def _times(lm) -> list[object]:
    lm.prepare()
    contexts = [f"Human: {'Tell me about the sea. ' * 30}{i}\n\nAssistant:" for i in range(16)]
    one = [[lm.encode_response("Yes.")] for _ in contexts]
    lengths = sum(len(lm.encode_context(c)) for c in contexts)
    prefill = lengths / statistics.median(seconds(lambda: lm.logprobs(contexts, one)) for _ in range(REPEATS))
    steps = []
    for rows in (1, 12, 48):
        few = contexts[: max(1, rows // 3)]
        steps.append(1000 * statistics.median(_step(lm, few, rows // len(few)) for _ in range(REPEATS)))
    return [lm.name, f"{lm.n_parameters / 1e6:.1f} M", f"{prefill:,.0f}", *(f"{ms:.1f}" for ms in steps)]


def _step(lm, contexts: Sequence[str], n: int) -> float:
    """Seconds of a decoding step without drafts, from two lengths of responses that nothing ends."""
    vocabulary = [*lm.eos_ids]
    endless = nb.RECOMMENDED.but(stop="anywhere")
    lm.eos_ids, ended = [], lm.ended
    lm.ended = lambda ids, protocol: None
    try:
        with patch("icdpo_nb.engine.rows.MOST", 0):
            short, long = (seconds(lambda k=k: lm.sample(contexts, n, endless.but(max_new_tokens=k))) for k in (2, STEPS + 2))
    finally:
        lm.eos_ids, lm.ended = vocabulary, ended
    return (long - short) / STEPS


def memory_by_model(sizes: dict[str, list[Size]]) -> list[list[object]]:
    """For each model and precision: weights, a token in the cache, and the least memory for one context."""
    rows = []
    for name, of in sizes.items():
        for size in of:
            least = size.least_memory(SHAPE["context"], SHAPE["n"], SHAPE["steps"])
            token = f"{size.per_token[0] / 1024:,.0f} kB"
            rows.append(
                [name, f"{size.n_parameters / 1e9:.2f} G", size.dtype, spoken_size(size.weights), token, spoken_size(least)]
            )
    return rows


def extrapolated(sizes: dict[str, list[Size]]) -> list[list[object]]:
    """Hours for `ASKED` prompts with S and Ŝ by the arithmetic below the table; "–" where the model does not fit."""
    rows = []
    for name, of in sizes.items():
        for size in of:
            rows.append([name, size.dtype, *(_hours(size, DEVICES[gpu]) for gpu in GPUS)])
    return rows


def _hours(size: Size, device) -> str:
    context, n, steps = SHAPE.values()
    together = min(ASKED, size.contexts_at_a_time(device.memory, context, n, steps))
    if not together:
        return "–"
    work = {  # [d+; x] once and [d-; x] once, responses under two more contexts
        "context": ASKED * 2 * context, "scored": ASKED * 2 * n * steps, "decoded": ASKED * n * steps,
        "steps": steps * -(-ASKED // together), "keys": ASKED * steps * (context + n * steps / 2),
    }  # fmt: skip
    return f"{size.seconds_on(device, **work) / 3600:.2f} h ({together})"


def main() -> None:
    """Count, measure, and write the page."""
    lm = nb.load_lm("smollm2")
    here = machine()
    small = {name: [size_of(_config(PACKAGED[name]), "float32")] for name in MODELS if name in PACKAGED}
    small["smollm2"] = [size_of(lm.engine.model.config, "float32")]
    large = {name: [size_of(config, dtype) for dtype in ("bfloat16", "int8", "nf4")] for name, config in LARGE.items()}
    parts = {
        "tokens": table(["m", "n", "context", "this workbook", "published procedure", "ratio"], tokens_by_shape(lm)),
        "times": table(["model", "weights", "context tokens a second", "step of 1, ms", "of 12", "of 48"], times_by_model()),
        "memory": table(
            ["model", "weights", "precision", "their memory", "a token in the cache", "at least"],
            memory_by_model(small | large),
        ),
        "hours": table(["model", "precision", *GPUS], extrapolated(large)),
        "machine": f"{here['processor']}, {here['capability']}, {here['threads']} threads, torch {here['torch']}",
    }
    template = (Path(__file__).parent / "scaling.md").read_text(encoding="utf-8")
    shape = {name: f"{value:,}" for name, value in SHAPE.items()} | {"asked": f"{ASKED:,}", "reached": f"{REACHED:.0%}"}
    TARGET.write_text(template.format(**parts, **shape, response=RESPONSE, prompts=PROMPTS), encoding="utf-8")


def _config(folder: Path):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


if __name__ == "__main__":
    main()
