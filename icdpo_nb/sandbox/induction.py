"""Initial weights that already hold induction heads, so that a small model copies from its context after minutes.

An induction head (Olsson et al. 2022, arXiv:2209.11895) finds where the present token stood before and repeats what followed
it: a head of the first layer tells each position which token came before it, a head of the second looks that up. Random
tokens that repeat teach this too, but on these models it took several times as long as everything else together. Only
the start is written by hand; from there on every weight is trained as a next-token predictor like any other.
"""

import torch
from transformers import LlamaForCausalLM

SLOW_ROTATION = 3e-3  # radians a token: rotary dimensions slower than this tell little of place and can hold content


@torch.no_grad()
def write_induction_heads(model: LlamaForCausalLM) -> None:
    """Change the embedding and the attention of the first two layers in place; what is written is rough on purpose.

    The residual stream is split: dimension 0 is the same for every token, the last 3/8 are kept free for the token
    before, the rest are the embedding. Random projections use torch's global generator.
    """
    config, embedding = model.config, model.model.embed_tokens.weight
    hidden, heads = config.hidden_size, config.num_attention_heads
    width, free = hidden // heads, hidden - hidden * 3 // 8
    half = width // 2  # rotary pairs are (i, i + half)
    speed = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    embedding.normal_(std=0.1)
    embedding[:, 0], embedding[:, free:] = 0.5, 0.0
    n_kept = (hidden - free) // 2  # dimensions of the token before that each of two heads carries
    project = torch.randn(2 * n_kept, free - 1) / (free - 1) ** 0.5
    before, match = (model.model.layers[i].self_attn for i in (0, 1))
    for h in range(2):  # the attention of these heads peaks one token back, whatever the tokens are
        rows, kept = slice(h * width, (h + 1) * width), slice(h * n_kept, (h + 1) * n_kept)
        before.q_proj.weight[rows, 0] = torch.cat([torch.ones(half), torch.zeros(half)]) * 2
        before.k_proj.weight[rows, 0] = torch.cat([speed.cos(), speed.sin()]) * 2
        before.v_proj.weight[rows], before.o_proj.weight[:, rows] = 0.0, 0.0
        before.v_proj.weight[h * width : h * width + n_kept, 1:free] = project[kept]
        before.o_proj.weight[free + h * n_kept : free + (h + 1) * n_kept, h * width : h * width + n_kept] = (
            torch.eye(n_kept) * 0.3
        )
    slow = torch.arange(half)[speed < SLOW_ROTATION]
    slow = torch.cat([slow, slow + half])
    for h in range(heads - 1):  # these look for the present token among the tokens before, and copy what stands there
        rows, part = slice(h * width, (h + 1) * width), torch.arange(1, free)[h :: heads - 1]
        look = torch.randn(len(slow), 2 * n_kept) / (2 * n_kept) ** 0.5
        match.q_proj.weight[rows], match.k_proj.weight[rows] = 0.0, 0.0
        match.v_proj.weight[rows], match.o_proj.weight[:, rows] = 0.0, 0.0
        match.q_proj.weight[h * width + slow, 1:free] = look @ project * 2
        match.k_proj.weight[h * width + slow, free : free + 2 * n_kept] = look * 4
        match.v_proj.weight[h * width + torch.arange(len(part)), part] = 1.0
        match.o_proj.weight[part, h * width + torch.arange(len(part))] = 0.3
