"""A tiny random model of every causal architecture of transformers that can be built from its configuration alone.

Windows, chunks and numbers of selected tokens are larger than the sequences with which the engines check themselves and
smaller than those of the test, so that nothing shows in the check that would not show with a real model.
"""

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

NAMES = [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
WINDOW = 44  # longer than the sequences of `engine.proof` and `engine.plain`

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
# What an architecture needs beside the sizes, or instead of some of them; None leaves out a size.
SETTINGS = {
    "bamba": {"attn_layer_indices": [1]},
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
    "axk1": LATENT, "axk2": LATENT, "deepseek_v2": LATENT | {"num_experts_per_tok": 2}, "deepseek_v3": LATENT, "deepseek_v32": LATENT,
    "glm4_moe_lite": LATENT, "glm_moe_dsa": LATENT, "longcat_flash": LATENT | {"num_hidden_layers": None, "num_layers": 2}, "minicpm3": LATENT, "youtu": LATENT,
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
    "dots3_note_text": LATENT | {"layer_types": ["indexed_attention", "sliding_attention"], "index_head_dim": 16,
                                 "mlp_layer_types": ["dense", "sparse"], "shared_experts_intermediate_size": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
                     "vocab_size_per_layer_input": 112, "hidden_size_per_layer_input": 8, "activation_sparsity_pattern": 0.0},
    "gemma4_text": {"vocab_size_per_layer_input": 112, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0},
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
    "recurrent_gemma": {"num_hidden_layers": 3},
    "xlnet": {"max_position_embeddings": None, "d_head": 8, "d_inner": 48},
    "xlstm": {"v_head_dim": None},
    "zamba": {"num_hidden_layers": 3, "mamba_dt_rank": 4, "use_mamba_kernels": False, "attention_hidden_size": 64,
              "head_dim": None, "attention_head_dim": 16, "num_key_value_heads": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "head_dim": None, "num_key_value_heads": 4,
               "n_mamba_heads": 8, "mamba_headdim": 8, "adapter_rank": 4, "num_query_groups": 4},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
for name in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
    SETTINGS[name] = {"num_hidden_layers": 4}
SETTINGS["qwen4_exp_text"] = {"num_hidden_layers": 4, "indexer_n_heads": 8, "indexer_kv_heads": 1, "indexer_head_dim": 16,
                              "indexer_budget": WINDOW, "indexer_compress_ratio": 4}  # fmt: skip
LIMIT = 10e6  # parameters


def config_of(name: str):
    """The small configuration of an architecture."""
    return _small(CONFIG_MAPPING[name], SETTINGS.get(name, {}))


def _small(kind, settings: dict):
    return kind(**_arguments(kind, settings))


def _arguments(kind, settings: dict) -> dict:
    default, found = kind(), {}
    for key, value in SIZES.items():
        try:
            has = getattr(default, key, None) is not None
        except Exception:  # a setting of each layer
            has = True
        if has:
            found[key] = value
    for key in getattr(kind, "sub_configs", {}):
        part = getattr(default, key, None)
        if part is not None:
            found[key] = _arguments(type(part), SETTINGS.get(part.model_type, {}))
    return {k: v for k, v in (found | settings).items() if not (k in settings and v is None)}


def tiny_model(name: str) -> torch.nn.Module:
    """A random float32 model with wider weights than the default, so that distributions are far from uniform."""
    config = config_of(name)
    with torch.device("meta"):
        n = AutoModelForCausalLM.from_config(config).num_parameters()
    if n > LIMIT:
        raise ValueError(f"{n / 1e6:.0f} million parameters with the sizes of this test")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model
