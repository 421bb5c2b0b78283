"""Where the weights of a model lie and in which precision, by the options of transformers."""

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec

from ..common.errors import InputError, first_line
from ..common.files import cache_folder

FLOATS = ("float32", "bfloat16", "float16")
QUANTISED = {  # precision of the weights -> the package for it, and settings of transformers' BitsAndBytesConfig
    "nf4": ("bitsandbytes", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "int8": ("bitsandbytes", {"load_in_8bit": True}),
}
SPREAD = ("balanced", "balanced_low_0", "sequential")  # over all GPUs, then main memory, then disk; see accelerate


def weight_options(dtype: str, device: str | Mapping) -> dict:
    """The options of `from_pretrained` for the weights: dtype, and where needed device_map and quantization_config.

    `dtype` and `device` are as in `load_lm`; where they are "auto", the environment's ICDPO_DTYPE and ICDPO_DEVICE count.
    Raises `InputError` for an unknown one, or if a package is missing.
    """
    import torch

    dtype = _asked(dtype)
    device = os.environ.get("ICDPO_DEVICE", device) if device == "auto" else device
    spread = isinstance(device, Mapping) or device in SPREAD
    if not spread:
        device = checked_device(device)
    if dtype not in ("auto", *FLOATS, *QUANTISED):
        raise InputError(f"dtype is {dtype!r}, but must be auto, {', '.join(FLOATS)}, {' or '.join(QUANTISED)}")
    on_gpu = torch.cuda.is_available() if spread else device != "cpu"
    number = dtype if dtype in FLOATS else "bfloat16" if on_gpu else "float32"
    options: dict = {"dtype": getattr(torch, number)}
    if dtype in QUANTISED:
        options["quantization_config"] = _quantisation(dtype, options["dtype"])
    if spread or on_gpu:  # weights go straight to where they stay, not through main memory
        _needs("accelerate", f"device {device!r}")
        options["device_map"] = device if spread else {"": device}
    if spread:
        options["offload_folder"] = str(cache_folder() / "offload")
    return options


def _asked(dtype: str) -> str:
    return os.environ.get("ICDPO_DTYPE", dtype) if dtype == "auto" else dtype


def precision_on_gpu(dtype: str = "auto") -> str:
    """The precision of weights that are not on this machine, if they are loaded onto a GPU: as asked for, or bfloat16."""
    asked = _asked(dtype)
    return "bfloat16" if asked == "auto" else asked


def weight_precision(options: Mapping) -> str:
    """The precision of the weights that `weight_options` asks for: float32, bfloat16, float16, nf4 or int8."""
    settings = options.get("quantization_config")
    if settings is None:
        return str(options["dtype"]).removeprefix("torch.")
    return "nf4" if settings.load_in_4bit else "int8"


def _quantisation(dtype: str, compute) -> object:
    from transformers import BitsAndBytesConfig

    package, settings = QUANTISED[dtype]
    _needs(package, f"dtype {dtype}")
    logging.getLogger(package).setLevel(logging.ERROR)  # it tells of every cast
    return BitsAndBytesConfig(**settings, **({"bnb_4bit_compute_dtype": compute} if dtype == "nf4" else {}))


def _needs(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"{what} needs {package}; run: pip install {package}")


def checked_device(device: str) -> str:
    """The device by its name; for "auto" a GPU, Apple's mps, or the CPU. Raises `InputError` if there is none of this name."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = first_line(error, 80)
        raise InputError(f"device is {device!r}, but torch has no such device here ({why}); use cpu or auto") from None
    return device


def precision(model) -> str:
    """The precision of a model's numbers, and of its weights if they are quantised: "bfloat16, bitsandbytes 4 bits"."""
    number, settings = str(model.dtype).removeprefix("torch."), getattr(model.config, "quantization_config", None)
    if settings is None:
        return number
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    method = settings.get("quant_method", "quantised")
    bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else settings.get("bits")
    return f"{number}, {getattr(method, 'value', method)}{f' {bits} bits' if bits else ''}"
