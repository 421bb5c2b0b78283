"""Muon for weight matrices and AdamW for the other parameters. At these sizes, this takes about half the tokens of AdamW.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces each update by the nearest orthogonal
matrix. PyTorch's implementation iterates in bfloat16, which is slow on CPUs without native support. This one uses float32.
"""

import torch


def orthogonalise(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Approximate U V' of the singular value decomposition U S V' of g by a Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for 2-D parameters. `lr` is the spectral norm of the update of a square matrix."""

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def make_optimizers(model: torch.nn.Module, matrix_lr: float = 0.02, other_lr: float = 1e-2) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, and AdamW for embeddings, norms and heads."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    matrix_ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in matrix_ids]
    return [Muon(matrices, lr=matrix_lr), torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0)]


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times its initial value."""
    for group in (g for o in optimizers for g in o.param_groups):
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
