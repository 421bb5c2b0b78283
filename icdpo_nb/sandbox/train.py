"""Build the sandbox: `python -m icdpo_nb.sandbox.train NAME`, NAME a model, "tokenizer", "data" or "all".

The base models (small, medium, large) are trained on next-token prediction on the world's documents, after a warm-up on
repeated random tokens. The teacher LM is trained on teacher responses, the reward model on pairs of the train split.
Training never uses the true reward. Each model folder contains a `manifest.json` with data, tokens, loss curve, seed,
device and sha256. A GPU is used if available.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from . import world
from .induction import write_induction_heads
from .loop import Clock, save, schedule, thin, update
from .optim import make_optimizers
from .reward_model import train_reward
from .rows import load_tokenizer, packed_rows, repeat_rows, train_tokenizer

MODELS = Path(__file__).parent / "models"
# name: hidden, layers, feed-forward, heads, tokens of the warm-up, tokens of documents
SIZES = {
    "small": (80, 4, 224, 4, 2_000_000, 12_000_000),
    "medium": (128, 4, 384, 4, 2_000_000, 12_000_000),
    "large": (128, 8, 384, 4, 0, 6_000_000),  # initialised by growing the trained medium model
    "teacher": (128, 4, 384, 4, 0, 1_000_000),  # fine-tuned from the trained medium model
}
FURTHER_ROUND = {"lengths": ((0.30, 256), (0.80, 512), (1.01, 1024)), "lr": (1e-2, 3e-3)}  # settings of `--more`
FROM_MEDIUM = {  # settings of `learn_documents` for the models initialised from the medium model
    "large": {"lengths": ((0.40, 256), (0.85, 512), (1.01, 1024)), "lr": (1e-2, 3e-3)},
    "teacher": {"repeats": 0.0, "lengths": ((1.01, 256),), "lr": (1e-2, 3e-3)},
}
WARM_UP_ROWS = 64  # rows of 64 tokens per batch
BATCH_TOKENS = 2048  # small batches, because many steps matter more here than low-variance gradients
# (fraction of the run, row length in tokens up to that point). The longest rows start while the learning rate is still
# high enough to learn the new positions. Started at 95 %, they left the small model's loss at 0.5 instead of 0.3.
LENGTHS = ((0.30, 128), (0.55, 256), (0.85, 512), (1.01, 1024))


def make_config(name: str, tokenizer) -> LlamaConfig:
    """The Llama configuration of a model of `SIZES`."""
    hidden, layers, feed_forward, heads = SIZES[name][:4]
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},  # as in Llama 3; slow dimensions match content
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def words(tokenizer) -> range:
    """All token ids except the two special tokens."""
    return range(2, len(tokenizer))


def token_losses(model, ids: torch.Tensor) -> torch.Tensor:
    """The loss of each next token in nats, shape (rows, length - 1)."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(ids.shape[0], -1)


def warm_up(model, vocabulary: Sequence[int], clock: Clock, rng: random.Random, device: str) -> list[dict]:
    """Train on repeated random tokens until the clock ends. Returns the curve of the loss on the repeated tokens."""
    optimizers = make_optimizers(model)
    curve, step = [], 0
    while clock.progress() < 1:
        ids, repeated = (t.to(device) for t in repeat_rows(rng, vocabulary, 64, WARM_UP_ROWS, (4, 16), (2, 6)))
        losses = token_losses(model, ids)
        update(model, optimizers, losses.mean(), min(1.0, (step + 1) / 20))
        clock.seen += ids.numel()
        if step % 40 == 0 or clock.progress() >= 1:
            curve.append({"tokens": clock.seen, "repeat_loss": round(losses[repeated[:, 1:]].mean().item(), 3)})
            print(json.dumps(curve[-1]), flush=True)
        step += 1
    return curve


def learn_documents(
    model,
    tokenizer,
    source,
    clock: Clock,
    rng: random.Random,
    device: str,
    repeats=1 / 8,
    lengths=LENGTHS,
    lr=(2e-2, 1e-2),
) -> list[dict]:
    """Train on packed documents until the clock ends. A fraction `repeats` of the rows are repeated random tokens."""
    optimizers = make_optimizers(model, *lr)
    vocabulary = words(tokenizer)
    curve, recent = [], []
    step = 0
    while clock.progress() < 1:
        length = next(n for share, n in lengths if clock.progress() < share)
        n = BATCH_TOKENS // length
        n_repeats = int(n * repeats + rng.random())
        rows = packed_rows(source, tokenizer, length, n - n_repeats)
        ids = torch.cat([rows, repeat_rows(rng, vocabulary, length, n_repeats, (8, 47), (2, 3))[0]]) if n_repeats else rows
        losses = token_losses(model, ids.to(device))
        update(model, optimizers, losses.mean(), schedule(clock.progress()))
        clock.seen += ids.numel()
        recent.append(losses[: n - n_repeats].mean().item())
        if step % 100 == 0 or clock.progress() >= 1:
            curve.append({"tokens": clock.seen, "loss": round(sum(recent) / len(recent), 4)})
            print(json.dumps(curve[-1]), flush=True)
            recent = []
        step += 1
    return curve


@torch.no_grad()
def held_out_loss(model, tokenizer, make=world.document, n: int = 48, length: int = 512) -> float:
    """The mean loss in nats per token on documents of a seed that is not used for training."""
    rows = packed_rows(world.documents(-1, frozenset(), make), tokenizer, length, n)
    model.eval()
    device = next(model.parameters()).device
    return sum(token_losses(model, rows[i : i + 8].to(device)).mean().item() for i in range(0, n, 8)) / (n / 8)


def start_model(name: str, tokenizer, folder: Path, device: str) -> LlamaForCausalLM:
    """Initialise a model. The teacher and the large model start from the medium model in `folder`.

    The large model duplicates each layer of the medium model. The duplicates initially contribute nothing, so both models
    compute the same function (Chen et al. 2016, Net2Net, arXiv:1511.05641). This needs fewer tokens than training from
    scratch.
    """
    model = LlamaForCausalLM(make_config(name, tokenizer)).to(device)
    if name in FROM_MEDIUM:
        medium = LlamaForCausalLM.from_pretrained(folder / "medium", dtype=torch.float32).to(device)
        n_copies = len(model.model.layers) // len(medium.model.layers)
        for i, layer in enumerate(model.model.layers):
            layer.load_state_dict(medium.model.layers[i // n_copies].state_dict())
            if i % n_copies:
                torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
                torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        model.model.embed_tokens.load_state_dict(medium.model.embed_tokens.state_dict())
        model.model.norm.load_state_dict(medium.model.norm.state_dict())
        return model
    write_induction_heads(model)
    return model


def train_more(name: str, tokenizer, *, tokens: int | None, minutes: float | None, out: Path) -> dict:
    """Train the base model in `out` for another round, on documents of the next seed, and update its manifest."""
    device, start = "cuda" if torch.cuda.is_available() else "cpu", time.monotonic()
    manifest = json.loads((out / "manifest.json").read_text())
    n_rounds = len([stage for stage in manifest["curves"] if stage.startswith("documents")])
    seed = manifest["seed"] + n_rounds
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).to(device)
    avoid = world.held_out_turns({d: world.preferences(d) for d in world.DOMAINS})
    clock = Clock(tokens or SIZES[name][5] // 2, minutes)
    curve = learn_documents(model, tokenizer, world.documents(seed, avoid), clock, random.Random(seed), device, **FURTHER_ROUND)
    manifest["curves"][f"documents, seed {seed}"] = thin(curve)
    manifest["tokens"] += curve[-1]["tokens"]
    manifest["wall_seconds"] += round(time.monotonic() - start)
    manifest["held_out_loss"] = round(held_out_loss(model, tokenizer), 4)
    save(model, tokenizer, out, manifest)
    return manifest


def train_lm(name: str, tokenizer, *, seed: int, tokens: int | None, minutes: float | None, out: Path) -> dict:
    """Train a base model or the teacher LM and save it in `out`. `tokens` and `minutes` limit the whole run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    rng, start = random.Random(seed), time.monotonic()
    model = start_model(name, tokenizer, out.parent, device)
    n_warm, n_documents = SIZES[name][4:]
    scale = tokens / (n_warm + n_documents) if tokens else 1.0
    share = n_warm / (n_warm + n_documents)
    curves, make = {}, world.teacher_document if name == "teacher" else world.document
    if n_warm:
        clock = Clock(int(n_warm * scale), minutes and minutes * share)
        curves["warm_up"] = thin(warm_up(model, words(tokenizer), clock, rng, device))
    avoid = world.held_out_turns({d: world.preferences(d) for d in world.DOMAINS})
    clock = Clock(int(n_documents * scale), minutes and minutes * (1 - share))
    source = world.documents(seed, avoid, make)
    curve = learn_documents(model, tokenizer, source, clock, rng, device, **FROM_MEDIUM.get(name, {}))
    curves["documents"] = thin(curve)
    manifest = {"name": name, "seed": seed, "device": device, "wall_seconds": round(time.monotonic() - start)}
    manifest |= {"tokens": sum(c[-1]["tokens"] for c in curves.values()), "curves": curves}
    manifest["held_out_loss"] = round(held_out_loss(model, tokenizer, make), 4)
    save(model, tokenizer, out, manifest)
    return manifest


def build(name: str, *, seed: int, tokens: int | None, minutes: float | None, out: Path, more: bool = False) -> None:
    """Build one part of the sandbox in `out`, the parent of the model folders. With `more`, continue training a base model."""
    if name == "data":
        print(world.write_preferences())
        return
    if not (out / "tokenizer" / "tokenizer.json").exists() or name == "tokenizer":
        train_tokenizer().save_pretrained(out / "tokenizer")
    tokenizer = load_tokenizer(out / "tokenizer")
    if name == "reward":
        manifest = train_reward(out / "small", tokenizer, seed=seed, n_pairs=tokens or 45_000, minutes=minutes, out=out / name)
    elif more:
        manifest = train_more(name, tokenizer, tokens=tokens, minutes=minutes, out=out / name)
    elif name != "tokenizer":
        manifest = train_lm(name, tokenizer, seed=seed, tokens=tokens, minutes=minutes, out=out / name)
    if name != "tokenizer":
        print(json.dumps({k: v for k, v in manifest.items() if k != "curves"}, indent=1))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line interface."""
    parser = argparse.ArgumentParser(prog="python -m icdpo_nb.sandbox.train", description=__doc__.splitlines()[0])
    names = ("data", "tokenizer", *SIZES, "reward")
    parser.add_argument("name", choices=(*names, "all"))
    parser.add_argument("--tokens", type=int, help="tokens to train on (reward: pairs)")
    parser.add_argument("--minutes", type=float, help="time limit; the learning rate schedule adapts to it")
    parser.add_argument("--more", action="store_true", help="train an existing model (small, medium, large) for another round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODELS, help="parent folder of the model folders")
    parser.add_argument("--threads", type=int, help="number of CPU threads")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.more and options.name not in ("small", "medium", "large"):
        parser.error("--more requires small, medium or large")
    for name in names if options.name == "all" else (options.name,):
        limits = {"tokens": options.tokens, "minutes": options.minutes}
        build(name, seed=options.seed, **limits, out=options.out, more=options.more)


if __name__ == "__main__":
    main()
