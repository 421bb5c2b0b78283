"""Fine-tuning of policies on the same preferences: SFT, DPO, IPO, KTO and RPO with LoRA.

Read in this order; each module imports only from those before it: `losses`, `recipes`, `rpo_trainer`, `trainers`, `finetune`.
"""

from .finetune import Plan, drawn, fine_tune, fine_tune_all, loss_curves, training_cost, training_record
from .losses import (
    contrast_matrix,
    diagonal_weights,
    gradient_cosine,
    gradient_of,
    ipo_loss,
    prompt_weights,
    rpo_loss,
    uniform_weights,
)
from .recipes import LEARNING_RATES, RECIPES, SAMPLING, Recipe, paper_recipe, recipe_settings
from .rpo_trainer import RPOTrainer
from .trainers import adapter_at

__all__ = [
    "LEARNING_RATES",
    "Plan",
    "RECIPES",
    "RPOTrainer",
    "Recipe",
    "SAMPLING",
    "adapter_at",
    "contrast_matrix",
    "diagonal_weights",
    "drawn",
    "fine_tune",
    "fine_tune_all",
    "gradient_cosine",
    "gradient_of",
    "ipo_loss",
    "loss_curves",
    "paper_recipe",
    "prompt_weights",
    "recipe_settings",
    "rpo_loss",
    "training_cost",
    "training_record",
    "uniform_weights",
]
