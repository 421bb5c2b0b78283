"""Initial weights with induction heads, so that a small model copies from its context after minutes of training.

An induction head (Olsson et al. 2022, arXiv:2209.11895) finds an earlier occurrence of the current token and predicts the
token that followed it. A head of the first layer passes the previous token to each position, and a head of the second
layer looks it up. Models can also learn this from repeated random tokens, but for these models that took several times
as long as the rest of the training. Only the initial values are set; all weights are then trained as usual.
"""

import torch
from transformers import LlamaForCausalLM

SLOW_ROTATION = 3e-3  # radians per token; slower rotary dimensions hardly encode position and can encode content


@torch.no_grad()
def write_induction_heads(model: LlamaForCausalLM) -> None:
    """Set the embedding and the attention weights of the first two layers, in place, to approximate induction heads.

    The residual stream is split. Dimension 0 is constant, the last 3/8 of the dimensions are reserved for the previous
    token, and the others hold the embedding. Random projections use torch's global generator.
    """
    config, embedding = model.config, model.model.embed_tokens.weight
    hidden, heads = config.hidden_size, config.num_attention_heads
    width, free = hidden // heads, hidden - hidden * 3 // 8
    half = width // 2  # rotary pairs are (i, i + half)
    speed = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    embedding.normal_(std=0.1)
    embedding[:, 0], embedding[:, free:] = 0.5, 0.0
    n_kept = (hidden - free) // 2  # dimensions of the previous token that each of two heads copies
    project = torch.randn(2 * n_kept, free - 1) / (free - 1) ** 0.5
    previous = model.model.layers[0].self_attn
    match = model.model.layers[1].self_attn
    for h in range(2):  # these heads attend to the previous position, independently of the tokens
        rows, kept = slice(h * width, (h + 1) * width), slice(h * n_kept, (h + 1) * n_kept)
        previous.q_proj.weight[rows, 0] = torch.cat([torch.ones(half), torch.zeros(half)]) * 2
        previous.k_proj.weight[rows, 0] = torch.cat([speed.cos(), speed.sin()]) * 2
        previous.v_proj.weight[rows], previous.o_proj.weight[:, rows] = 0.0, 0.0
        previous.v_proj.weight[h * width : h * width + n_kept, 1:free] = project[kept]
        previous.o_proj.weight[free + h * n_kept : free + (h + 1) * n_kept, h * width : h * width + n_kept] = (
            torch.eye(n_kept) * 0.3
        )
    slow = torch.arange(half)[speed < SLOW_ROTATION]
    slow = torch.cat([slow, slow + half])
    for h in range(heads - 1):  # these heads match the current token with the previous token of each position, and copy
        rows, part = slice(h * width, (h + 1) * width), torch.arange(1, free)[h :: heads - 1]
        look = torch.randn(len(slow), 2 * n_kept) / (2 * n_kept) ** 0.5
        match.q_proj.weight[rows], match.k_proj.weight[rows] = 0.0, 0.0
        match.v_proj.weight[rows], match.o_proj.weight[:, rows] = 0.0, 0.0
        match.q_proj.weight[h * width + slow, 1:free] = look @ project * 2
        match.k_proj.weight[h * width + slow, free : free + 2 * n_kept] = look * 4
        match.v_proj.weight[h * width + torch.arange(len(part)), part] = 1.0
        match.o_proj.weight[part, h * width + torch.arange(len(part))] = 0.3
