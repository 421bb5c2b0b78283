"""Every causal architecture of transformers, tiny and random, held against its own forward pass.

`python tests/architectures.py` writes what it finds to docs/models.md; `test_architectures.py` checks the page.

Windows, chunks and numbers of selected tokens are longer than the sequences with which the engines check themselves and
shorter than those here, so that a real model's would not pass the check and be wrong beyond it.
"""

import copy
import re
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from conftest import save_tiny_lm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from icdpo_nb.common.errors import InputError
from icdpo_nb.models.lm import CausalLM
from icdpo_nb.protocol import RECOMMENDED

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
NAMES = [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
LIMIT = 10e6  # parameters
WINDOW = 44
BEGINNING = "Human: Some contexts share a beginning, and this one is longer than a window. "
CONTEXTS = [BEGINNING + end for end in ("Why?\n\nAssistant:", "Others go on for longer.\n\nAssistant:")]
RESPONSES = ["well, yes", "no"]

# Set wherever a configuration has a setting of that name.
SIZES = {
    "vocab_size": 112, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "sliding_window": WINDOW, "attention_chunk_size": WINDOW, "index_topk": WINDOW,
    # other names of the same
    "d_model": 32, "n_embd": 32, "embedding_size": 32, "n_layer": 2, "encoder_layers": 2, "decoder_layers": 2, "n_head": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "ffn_dim": 48,
    "ffn_hidden_size": 48, "attention_window_size": WINDOW, "local_attention": WINDOW, "window_size": WINDOW,
    # experts
    "n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "num_experts_per_token": 2,
    "n_group": 1, "topk_group": 1, "num_expert_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16,
    "expert_ffn_hidden_size": 16, "dense_intermediate_size": 48, "moe_topk": 2, "zero_expert_num": 2,
    # latent attention
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "index_n_heads": 32, "index_head_dim": 16,
    # linear attention and state spaces
    "state_size": 8, "mamba_d_state": 8, "mamba_d_head": 8, "mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_expand": 2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_head_dim": 8, "linear_num_heads": 4, "mamba_num_heads": 8, "mamba_head_dim": 8, "lru_width": 32,
}  # fmt: skip

LATENT = {"num_key_value_heads": 4}  # latent attention has no groups
DECODER = {"is_decoder": True}
SHARING = {  # the last two layers attend to the keys and values of the first two
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "vocab_size_per_layer_input": 112, "hidden_size_per_layer_input": 8,
}  # fmt: skip
# What an architecture needs beside the sizes, or instead of some of them; None leaves out a size.
SETTINGS = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_hash_byte_group_size": [3], "local_attention_window_len": WINDOW},
    "blt_local_encoder": {"hidden_size_global": 32}, "blt_local_decoder": {"hidden_size_global": 32},
    "bert": DECODER, "bert-generation": DECODER, "big_bird": DECODER, "camembert": DECODER, "data2vec-text": DECODER,
    "electra": DECODER, "ernie": DECODER, "megatron-bert": DECODER, "rembert": DECODER, "roberta": DECODER,
    "roberta-prelayernorm": DECODER, "roformer": DECODER, "xlm-roberta": DECODER, "xlm-roberta-xl": DECODER,
    "xlm": {"causal": True},
    "reformer": DECODER | {"axial_pos_embds": False, "attention_head_size": 8, "feed_forward_size": 48, "hash_seed": 0},
    "xmod": DECODER | {"languages": ["en_XX"], "default_language": "en_XX"},
    "roc_bert": DECODER | {"pronunciation_vocab_size": 16, "shape_vocab_size": 16, "pronunciation_embed_dim": 8,
                           "shape_embed_dim": 8},
    "bailing_hybrid": LATENT | {"layer_group_size": 2},
    "kimi_linear": LATENT | {"layer_types": ["linear_attention", "full_attention"], "mlp_layer_types": ["dense", "sparse"]},
    "axk1": LATENT, "axk2": LATENT, "deepseek_v3": LATENT, "deepseek_v32": LATENT, "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT, "minicpm3": LATENT, "youtu": LATENT, "deepseek_v2": LATENT | {"num_experts_per_tok": 2},
    "longcat_flash": LATENT | {"num_hidden_layers": None, "num_layers": 2},
    "codegen": {"rotary_dim": 4}, "gptj": {"rotary_dim": 4},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": None},
    },
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"ffn_act_fn": {"name": "silu"}, "ffn_hidden_size": 48, "hidden_size": 32, "moe_num_experts": 4,
                       "moe_top_k": 2},
        "d_model": 32, "n_heads": 4, "n_layers": 2,
    },
    "dots3_note_vision_encoder": {"per_layer_config": {}, "adapter_in_dim": 32, "adapter_out_dim": 32},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_text": LATENT | {"layer_types": ["indexed_attention", "sliding_attention"], "index_head_dim": 16,
                                 "mlp_layer_types": ["dense", "sparse"], "shared_experts_intermediate_size": 16,
                                 "per_layer_config": {}, "head_dim": 16},
    "gemma3n_text": SHARING | {"activation_sparsity_pattern": [0.0] * 4}, "gemma4_text": SHARING,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon": {"head_dim": None}, "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"num_hidden_layers": None, "num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8}, "ministral": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "lfm2": {"layer_types": ["conv", "full_attention"]}, "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "minimax": {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"], "index_n_heads": 2, "rotary_dim": 4,
                           "index_block_size": 8, "index_topk_blocks": 6},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "prophetnet": {"num_hidden_layers": None, "num_encoder_layers": 2, "num_decoder_layers": 2, "hidden_size": 32,
                   "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
    "qwen3_next": {"num_hidden_layers": 4}, "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen4_exp_text": {"num_hidden_layers": 4, "indexer_n_heads": 8, "indexer_kv_heads": 1, "indexer_head_dim": 16,
                       "indexer_budget": WINDOW, "indexer_compress_ratio": 4},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "xlnet": {"max_position_embeddings": None, "d_head": 8, "d_inner": 48},
    "xlstm": {"v_head_dim": None},
    "zamba": {"layers_block_type": ["hybrid", "hybrid"], "mamba_dt_rank": 4, "use_mamba_kernels": False,
              "attention_hidden_size": 64, "head_dim": None, "attention_head_dim": 16, "num_key_value_heads": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "head_dim": None, "num_key_value_heads": 4,
               "n_mamba_heads": 8, "mamba_headdim": 8, "adapter_rank": 4, "num_query_groups": 4},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


# What its configuration alone does not make a language model of.
PARTS = {
    "gemma3n": "its image encoder is from timm, which is not a dependency; its decoder is `gemma3n_text`",
    "gemma4_assistant": "drafts for another model, whose keys and values it takes",
    "gemma4_unified_assistant": "drafts for another model, whose keys and values it takes",
    "musicgen": "predicts sound, and its class does not take its own configuration",
    "musicgen_melody": "predicts sound, and its class does not take its own configuration",
}


def arguments(kind, settings: dict) -> dict:
    """The arguments that make a small configuration of a class, and of the configurations in it."""
    default, found = kind(), {}
    for key, value in SIZES.items():
        try:
            known = getattr(default, key, None) is not None
        except Exception:  # some settings differ between layers
            known = True
        if known:
            found[key] = value
    for key in getattr(kind, "sub_configs", {}):
        part = getattr(default, key, None)
        if part is not None:
            found[key] = arguments(type(part), SETTINGS.get(part.model_type, {}))
    return {k: v for k, v in (found | settings).items() if v is not None or k not in settings}


def tiny_model(name: str) -> torch.nn.Module:
    """A random float32 model with wider weights than the default, so that distributions are far from uniform."""
    kind = CONFIG_MAPPING[name]
    config = kind(**arguments(kind, SETTINGS.get(name, {})))
    with torch.device("meta"):
        n = AutoModelForCausalLM.from_config(config).num_parameters()
    if n > LIMIT:
        raise ValueError(f"{n / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


@cache
def tokenizer():
    """A tokenizer whose tokens are characters."""
    with tempfile.TemporaryDirectory() as folder:
        return AutoTokenizer.from_pretrained(save_tiny_lm(folder))


def one_by_one(model, context: list[int], response: tuple[int, ...]) -> np.ndarray:
    """Log-probabilities of a response by the model's own forward pass on a single row without padding."""
    ids, n = torch.tensor([[*context, *response]]), len(response)
    with torch.no_grad():
        logp = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].double(), -1)
    return logp[-n - 1 : -1].gather(-1, ids[0, -n:, None])[:, 0].numpy()


def found(name: str) -> tuple[str, str]:
    """How an architecture runs ("shared", "alone", "refused" or "not built") and why, after its results have been checked."""
    if name in PARTS:
        return "not built", PARTS[name]
    try:
        model = tiny_model(name)
    except Exception as error:  # each architecture has its own conditions
        return "not built", str(error.__cause__ or error).strip().splitlines()[0].rstrip(".:")
    plain = copy.deepcopy(model)
    lm = CausalLM(model, tokenizer(), name)
    try:
        with warnings.catch_warnings(action="ignore"):
            lm.prepare()
    except InputError as error:
        return "refused", re.sub(r"^models of the class \w+ (are )?|;.*", "", str(error))
    ys = [[lm.encode_response(text) for text in RESPONSES]] * len(CONTEXTS)
    sampled = lm.sample(CONTEXTS, 3, RECOMMENDED.but(max_new_tokens=6, top_p=0.95))
    scored = [*lm.logprobs(CONTEXTS, ys), *([y.logps for y in row] for row in sampled)]
    for context, row, values in zip(CONTEXTS * 2, [*ys, *sampled], scored, strict=True):
        for y, logps in zip(row, values, strict=True):
            if y.token_ids:
                expected = one_by_one(plain, lm.encode_context(context), y.token_ids)
                np.testing.assert_allclose(logps, expected, atol=1e-4, err_msg=name)
    if getattr(lm.engine, "invariant", False):
        for context, row in zip(CONTEXTS, sampled, strict=True):
            alone = lm.sample([context], 3, RECOMMENDED.but(max_new_tokens=6, top_p=0.95))[0]
            assert [y.logps.tobytes() for y in alone] == [y.logps.tobytes() for y in row], name
    why = lm.path.partition(": ")[2].partition(" (")[0].partition(", so that")[0]
    return ("alone" if why else "shared"), why


# ---------------------------------------------------------------- the page

SECTIONS = {
    "shared": ("With shared contexts", "Each context is computed once for all its responses."),
    "alone": (
        "Without shared contexts",
        "The model's own forward pass, one row for each response: the same results, more slowly.",
    ),
    "refused": ("Refused", "In one sentence, before anything is computed."),
    "not built": ("Not tried", "No small random model can be built from the configuration alone."),
}


def page(results: dict[str, tuple[str, str]]) -> str:
    """docs/models.md: for each section the architectures by reason."""
    lines = [
        "# Which models run, and how",
        "",
        f"The {len(results)} causal architectures of transformers {transformers.__version__}, by the `model_type` of their",
        "configuration. Of each below, a tiny random model was built, and its scores and samples held against its own forward",
        "pass on single rows, within 1e-4 nats. `make models` does so again and writes this page. BART and other",
        "encoder-decoders stand for their decoders alone, BERT and other encoders for decoders of their kind (`is_decoder`):",
        "`load_lm` refuses checkpoints with an encoder.",
    ]
    for path, (title, meaning) in SECTIONS.items():
        reasons: dict[str, list[str]] = {}
        for name, (where, why) in sorted(results.items()):
            if where == path:
                reasons.setdefault(why, []).append(f"`{name}`")
        lines += ["", f"## {title} ({sum(map(len, reasons.values()))})", "", meaning, ""]
        if path == "shared":
            lines += [", ".join(reasons[""])]
        else:
            lines += ["| why | architectures |", "|---|---|"]
            lines += [f"| {why.replace('|', ' ')} | {', '.join(names)} |" for why, names in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def documented() -> dict[str, tuple[str, str]]:
    """What docs/models.md says of each architecture."""
    results = {}
    for path, (title, _) in SECTIONS.items():
        text = re.search(rf"^## {title} \(.*?(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S).group()
        for line in text.splitlines()[3:]:
            why = line[2:].partition(" | ")[0] if line.startswith("|") else ""
            results |= dict.fromkeys(re.findall(r"`([\w-]+)`", line.rpartition(" | ")[2]), (path, why))
    return results


if __name__ == "__main__":
    PAGE.write_text(page({name: found(name) for name in NAMES}), encoding="utf-8")
