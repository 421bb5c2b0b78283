"""Load transformers models and tokenizers by name: safetensors or GGUF only, no remote code, explicit dtype."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from ..common.downloads import announced, model_files
from ..common.errors import InputError, first_line
from ..engine.turns import make_room
from .packaged import PACKAGED, SMOLLM2_SHA256, check_packaged, smollm2_folder
from .placement import precision_on_gpu, weight_options, weight_precision
from .sizes import size_of

DESCRIBED = "ICDPO_WITHOUT_WEIGHTS"  # set where a run is only forecast


def load_checkpoint(
    name: str, dtype: str = "auto", device: str | Mapping = "auto", revision: str | None = None, task: str = "CausalLM"
) -> tuple:
    """Load a packaged model, a local folder or a hub id. Returns the model, tokenizer, display name and revision.

    `task` is "CausalLM", or "SequenceClassification" for a reward model. In a process whose environment sets `DESCRIBED`, a
    model whose weights are not on this machine is built from its configuration alone, on torch's meta device (see `sizes`).

    Raises `InputError` if the model is missing, unreachable or incomplete.
    """
    import transformers
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    from . import oasst  # noqa: F401  (registers a reward model class)

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # `_check_complete` reports loading problems instead
    folder, version = _locate(name)
    described = os.environ.get(DESCRIBED) and not _has_weights(folder or name)
    weights = {} if described else weight_options(dtype, device)
    options = {"revision": revision, "local_files_only": folder is not None, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder or name, **options)
        if task == "CausalLM":
            _check_causal(name, config)
        if described:
            return _described(config, dtype, task), AutoTokenizer.from_pretrained(folder or name, **options), name, "described"
        if "" in weights.get("device_map", ()):  # the whole model goes onto one GPU
            make_room(weights["device_map"][""], size_of(config, weight_precision(weights), task).weights)
        with nullcontext() if folder else announced(name, model_files, revision):
            model, info = getattr(transformers, f"AutoModelFor{task}").from_pretrained(
                folder or name,
                config=config,
                use_safetensors=True,
                attn_implementation=None if task == "CausalLM" else "sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported by `_check_complete`
                **weights,
                **options,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder or name, **options)
    except InputError:
        raise
    except Exception as error:  # transformers and its dependencies raise many exception types
        raise _unloadable(name, folder, error) from None
    _check_complete(name, model, tokenizer, info)
    return model, tokenizer, name, version or getattr(config, "_commit_hash", None) or revision or "local"


def load_tokenizer(names: Sequence[str], revision: str | None = None) -> tuple:
    """The tokenizer of the first of these models that can be found, and its `config` and `generation_config`, or None.

    Raises `InputError` if none of them is a packaged name, a local folder or a reachable hub id with a tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    complaints = []
    for name in names:
        try:
            folder, _ = _locate(name)
            options = {"revision": revision, "local_files_only": folder is not None, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(folder or name, **options)
        except Exception as error:  # transformers and its dependencies raise many exception types
            complaints.append(first_line(error))
            continue
        settings = {}
        for part, kind in (("config", AutoConfig), ("generation_config", GenerationConfig)):
            try:
                settings[part] = kind.from_pretrained(folder or name, **options)
            except Exception:  # a tokenizer may stand alone
                settings[part] = None
        return tokenizer, SimpleNamespace(**settings)
    raise InputError(
        f"the server's model has no tokenizer that is known here ({'; '.join(complaints)}); name one, "
        "http://host:8000/v1#model#tokenizer"
    )


def _described(config, dtype: str, task: str) -> object:
    """A model without weights, named as if it were loaded."""
    model = size_of(config, precision_on_gpu(dtype), task).model
    model.name_or_path = config.name_or_path
    return model


def _has_weights(name: str) -> bool:
    """Whether the weights of a folder, or of a hub id in its cache, are on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if os.path.isdir(name):
        return any(Path(name).glob("*.safetensors"))
    files = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)


def load_adapted(name: str, dtype: str = "auto", device: str | Mapping = "auto", revision: str | None = None) -> tuple:
    """`load_checkpoint` for causal language models, extended to "base+folder" and "base+folder+folder".

    Returns the adapter folders after the values of `load_checkpoint`.
    """
    base, adapters = split_adapters(name)
    model, tokenizer, _, version = load_checkpoint(base, dtype, device, revision)
    for folder in adapters:
        model = _with_adapter(model, folder)
    return model, tokenizer, name, version, adapters


def split_adapters(name: str) -> tuple[str, list[str]]:
    """Split "base+folder+folder" into the base model and its adapter folders. A name without adapters has an empty list.

    Raises `InputError` if an adapter folder is incomplete.
    """
    if "+" not in name or os.path.exists(os.path.expanduser(name)):
        return name, []
    # Paths may contain a plus sign, too.
    cuts = [(name[:i], Path(name[i + 1 :]).expanduser()) for i, c in enumerate(name) if c == "+"]
    before, folder = next((cut for cut in reversed(cuts) if cut[1].is_dir()), cuts[0])
    if missing := [f for f in ("adapter_config.json", "adapter_model.safetensors") if not (folder / f).is_file()]:
        raise InputError(
            f"adapter {str(folder)[:200]!r} has no {missing[0]}; give the folder written by fine-tuning, as base+folder"
        )
    base, earlier = split_adapters(before)
    return base, [*earlier, str(folder)]


def _with_adapter(model, folder: str):
    """Merge a LoRA adapter into the weights of a model. Raises `InputError` if it does not fit the model."""
    if find_spec("peft") is None:
        raise InputError("an adapter needs peft; run: pip install -c constraints.txt -e '.[train]'")
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder).merge_and_unload()
    except Exception as error:  # peft raises many exception types
        why = first_line(error)
        raise InputError(f"adapter {folder} does not fit its model ({why}); give the model that it was trained on") from None


def fetch(name: str, revision: str | None = None) -> None:
    """Bring a model's files to this machine without loading them: download them, or dequantise SmolLM2.

    Raises `InputError` if there is no such model, or if it can neither be reached nor is cached.
    """
    base, _ = split_adapters(name)
    if _locate(base)[0] is not None:
        return
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    try:
        wanted = model_files(HfApi().list_repo_files(base, revision=revision))
        with announced(base, model_files, revision):
            snapshot_download(base, revision=revision, allow_patterns=wanted)
    except InputError:
        raise
    except Exception as error:  # the hub's client raises many exception types
        if not isinstance(try_to_load_from_cache(base, "config.json", revision=revision), str):
            raise _unloadable(name, None, error) from None


def _check_complete(name: str, model, tokenizer, info: dict) -> None:
    """Check that the files hold all weights of the model and that its embedding covers the tokenizer's ids."""
    missing = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if missing:
        raise InputError(
            f"model {name!r}: its files lack {len(missing)} weights of the right shape, the first {min(missing)}; they would "
            "be random, so provide the complete files"
        )
    known = set(model.state_dict())
    extra = [key for key in info["unexpected_keys"] if re.sub(r"\.\d+\.", ".0.", key, count=1) in known]
    if extra:
        raise InputError(
            f"model {name!r}: its files contain more layers than its config.json declares, e.g. {min(extra)}; correct "
            "config.json"
        )
    vocabulary = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > vocabulary:
        raise InputError(
            f"model {name!r}: the tokenizer has {len(tokenizer)} tokens, the model {vocabulary}; they do not belong together"
        )


def _locate(name: str) -> tuple[str | None, str | None]:
    """The local folder and revision of a packaged name or path; (None, None) for a hub id."""
    if name == "smollm2":
        return str(smollm2_folder()), f"gguf Q4_1 sha256 {SMOLLM2_SHA256[:12]}"
    if name in PACKAGED:
        check_packaged(name, PACKAGED[name])
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


def _unloadable(name: str, folder: str | None, error: Exception) -> InputError:
    why = first_line(error)
    if "trust_remote_code" in str(error):
        return InputError(f"model {name!r} needs custom code, which is never run here; use a model without custom code")
    if folder is None:
        return InputError(
            f"model {name!r} cannot be loaded from the hub ({why}); without a network pass a local folder, or use 'smollm2', "
            "which needs none"
        )
    return InputError(
        f"model {name!r} cannot be loaded from {folder} ({why}); it must hold config.json, model.safetensors and a tokenizer"
    )


def _check_causal(name: str, config) -> None:
    """Check by its configuration that a model is a decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    decodes = getattr(config, "is_decoder", False) or getattr(config, "causal", False)  # XLM's name for it
    if config.is_encoder_decoder or config.model_type in ENCODERS and not decodes:
        raise InputError(f"model {name!r} ({config.model_type}) has an encoder; use a causal language model")


def fingerprint(path: str, revision: str) -> str:
    """The sha256 of the weights and JSON files (names and contents) in a model folder; for a hub id, the id and commit.

    `training.json`, the training record of an adapter, is excluded because it holds measured costs.
    """
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{revision}"
    total = hashlib.sha256()
    for file in sorted({*folder.glob("*.safetensors"), *folder.glob("*.json")} - {folder / "training.json"}):
        with open(file, "rb") as opened:
            total.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()
