"""Recipes: the settings of fine-tuning, those of this workbook and those of RPO's paper."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..common.errors import InputError
from .losses import check_weighting

LEARNING_RATES = {  # the best of several by reward on sandbox dev prompts, from an SFT policy: `tests/bench/training.py rates`
    "SFT": 1e-3, "DPO": 2.5e-4, "IPO": 2.5e-4, "KTO": 2.5e-4, "RPO-Paired": 2.5e-4, "RPO-Unpaired": 2.5e-4,
}  # fmt: skip
METHODS = tuple(LEARNING_RATES)
TAUS = {"RPO-Paired": 0.5, "RPO-Unpaired": 0.75}  # the paper's (arXiv:2402.10958, Table 5)
TABLE_5 = {"batch": 64, "learning_rate": 5e-7, "optimizer": "rmsprop", "beta": 0.1}  # in RPO's paper, for all methods
# Not stated in the paper; taken from the released code: config/config.yaml, config/model/base_model.yaml and trainers.py.
RELEASED = {"warmup": 150, "schedule": "constant", "clip": 10.0}
EIGHT_GPUS = {"matrix": 8}  # a batch of 64 on 8 GPUs (Table 5) with one contrast matrix per GPU (Table 3)
RECIPES = {"workbook": {}, "paper": TABLE_5 | RELEASED | EIGHT_GPUS}
SAMPLING = {"workbook": {}, "paper": {"top_p": 0.95}}  # for `Protocol`; top_p is from config/config.yaml
CHOICES = {  # values of the categorical settings
    "optimizer": ("adamw", "rmsprop"),
    "schedule": ("cosine", "constant"),
    "ipo": ("sum", "token_mean"),
    "encoded": ("prompt", "prompt+response"),
}


@dataclass(frozen=True)
class Recipe:
    """The settings of fine-tuning in one pass over the pairs."""

    method: str  # SFT (chosen responses alone), DPO, IPO, KTO, RPO-Paired or RPO-Unpaired (arXiv:2402.10958)
    n_pairs: int = 800
    beta: float = 0.1  # for the preference losses
    learning_rate: float = 0.0  # 0 selects the one in LEARNING_RATES
    rank: int = 16  # of LoRA, on all linear layers
    batch: int = 16  # pairs per step
    seed: int = 0  # for the choice and order of the pairs and the initial weights of the adapter
    tau: float = 0.0  # for RPO's embedding weights; 0 selects the one in TAUS
    weighting: str = "embedding"  # for RPO: embedding, uniform or diagonal
    alpha: float = 0.8  # for RPO's diagonal weights: the weight of the prompt's own pair
    matrix: int = 0  # rows of RPO's contrast matrix; a step has batch / matrix of them; 0 selects the batch size
    encoded: str = "prompt"  # the text that RPO embeds: prompt, or prompt+response (its Table 6)
    ipo: str = "sum"  # log-ratios of IPO: sum over tokens (RPO's Eq. 5), or token_mean (TRL and IPO's authors in their runs)
    optimizer: str = "adamw"  # or rmsprop
    schedule: str = "cosine"  # of the learning rate after the warm-up: cosine (to 0) or constant
    warmup: int = -1  # steps of linear warm-up; -1 selects a tenth of all steps, but at most five
    clip: float = 1.0  # maximum norm of the gradient
    keep: tuple[int, ...] = ()  # steps after which the adapter is saved in addition to the last: `trainers.adapter_at`

    def __post_init__(self):
        if self.method not in LEARNING_RATES:
            raise InputError(f"method is {self.method!r}, but must be one of {', '.join(LEARNING_RATES)}")
        for name in ("n_pairs", "rank", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name, default in (("beta", False), ("learning_rate", True), ("tau", True), ("clip", False)):
            value = getattr(self, name)
            if not (value > 0 or (default and value == 0)) or not math.isfinite(value):
                raise InputError(f"{name} is {value}, but must be a number above 0")
        check_weighting(self.weighting)
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}, but must lie between 0 and 1")
        if self.matrix and not 1 <= self.matrix <= self.batch:
            raise InputError(f"matrix is {self.matrix}, but must be 0 or lie between 1 and batch, {self.batch}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}, but must be {' or '.join(known)}")

    @property
    def rate(self) -> float:
        """The learning rate, with the default filled in."""
        return self.learning_rate or LEARNING_RATES[self.method]

    def steps(self, n_pairs: int) -> int:
        """Number of steps in one pass over `n_pairs` pairs."""
        return math.ceil(n_pairs / self.batch)

    @property
    def fills_batch(self) -> bool:
        """Whether whole contrast matrices fill the batch. Otherwise the rows of the smaller last one have more weight."""
        return not self.matrix or self.batch % self.matrix == 0

    @property
    def needs_encoder(self) -> bool:
        """Whether the weights require an encoder."""
        return self.method in TAUS and self.weighting == "embedding"

    @property
    def effective(self) -> dict:
        """The settings that affect the method, with defaults filled in."""
        unused = {
            "beta": self.method == "SFT",
            "tau": not self.needs_encoder,
            "encoded": not self.needs_encoder,
            "alpha": self.weighting != "diagonal",
            "ipo": self.method != "IPO",
            "keep": not self.keep,
        }
        rpo = {"tau", "weighting", "alpha", "matrix", "encoded"}
        filled = asdict(self) | {"learning_rate": self.rate, "tau": self.tau or TAUS.get(self.method, 0.0)}
        filled["matrix"] = self.matrix or self.batch
        return {k: v for k, v in filled.items() if not unused.get(k) and (k not in rpo or self.method in TAUS)}


def paper_recipe(method: str, **changes) -> Recipe:
    """A method with the settings of RPO's paper (Table 5), except for LoRA.

    Settings that the paper does not state are those of its released code. The recipe is intended for models with billions of
    parameters; with a learning rate of 5e-7, a small model with LoRA hardly changes.
    """
    return Recipe(method, **RECIPES["paper"] | changes)


def recipe_settings(name: str, workbook: Mapping[str, object], **given: object) -> dict:
    """Settings for `Recipe` by name, "workbook" or "paper", overridden by those in `given` that are not 0.

    `workbook`: the settings of the notebook for the name "workbook". Raises `InputError` for an unknown name.
    """
    if name not in RECIPES:
        raise InputError(f"recipe is {name!r}, but must be {' or '.join(RECIPES)}")
    defaults = workbook if name == "workbook" else RECIPES[name]
    return {**defaults, **{key: value for key, value in given.items() if value}}
