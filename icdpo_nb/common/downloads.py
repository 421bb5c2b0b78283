"""Downloads from the hub: how large one is, and whether there is room for it, is said before it begins."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .notes import told

TIMEOUT = 10  # seconds that the hub has to say how large the files are
TOKENIZERS = r"(.*\.(json|jinja|txt)|.*\.model)"
DATA = re.compile(r".*\.(parquet|arrow|jsonl?|csv|tsv|txt)(\.(gz|zst|xz|bz2))?|.*\.(zip|tar|tar\.gz)")


@contextmanager
def announced(
    hub_id: str,
    wanted: Callable[[Sequence[str]], list[str]],
    revision: str | None = None,
    kind: str = "model",
) -> Iterator[None]:
    """Say how much of a hub repository is about to be downloaded, unless all of it is in the cache already.

    `wanted`: of the names of its files, those that will be loaded. `kind`: "model" or "dataset". A notebook's run shows the
    sentence in its progress line, anything else writes it to stderr. If the hub does not answer, nothing is said: whoever
    loads the files knows better why. Raises `InputError` if they do not fit on the disk.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    size = _missing_bytes(hub_id, wanted, revision, kind)
    folder = Path(HF_HUB_CACHE)
    free = shutil.disk_usage(next(f for f in (folder, *folder.absolute().parents) if f.exists())).free
    if size > free:
        raise InputError(
            f"{hub_id} needs {spoken_size(size)} in {folder}, where {spoken_size(free)} are free; free some space, or set "
            "HF_HOME to a folder on another disk"
        )
    with told(f"downloading {hub_id}: {spoken_size(size)} into {folder}" if size else ""):
        yield


def _missing_bytes(hub_id: str, wanted: Callable, revision: str | None, kind: str) -> int:
    """The size of the files that are not in the cache; 0 if the hub cannot be asked."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        info = HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=TIMEOUT, files_metadata=True)
    except Exception:  # no network, no such repository, no permission: the loader says so
        return 0
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    cached = {f: try_to_load_from_cache(hub_id, f, revision=info.sha, repo_type=kind) for f in wanted([*sizes])}
    return sum(sizes[f] for f, path in cached.items() if not isinstance(path, str))


def model_files(names: Sequence[str]) -> list[str]:
    """Those that transformers loads: configuration, tokenizer and safetensors, without copies in other formats.

    >>> model_files(["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "consolidated.safetensors"])
    ['config.json', 'model.safetensors']
    """
    weights = r"model\.safetensors" if "model.safetensors" in names else r"model-\d+-of-\d+\.safetensors"
    return [name for name in names if "/" not in name and re.fullmatch(f"{weights}|{TOKENIZERS}", name)]


def encoder_files(names: Sequence[str]) -> list[str]:
    """Those that sentence-transformers loads: the model's, and those of its numbered modules, such as 1_Pooling."""
    modules = [name for name in names if re.fullmatch(r"\d+_\w+/(model\.safetensors|.*\.(json|txt))", name)]
    return model_files(names) + modules


def data_files(names: Sequence[str], folder: str | None = None) -> list[str]:
    """The data files below a folder of the repository."""
    return [name for name in names if name.startswith(f"{folder}/" if folder else "") and DATA.fullmatch(name)]


def spoken_size(size: int) -> str:
    """A number of bytes in words: 14.5 GB, 87 MB, 2 kB."""
    for unit, digits, name in ((1e9, 1, "GB"), (1e6, 0, "MB")):
        if size >= unit:
            return f"{size / unit:.{digits}f} {name}"
    return f"{size / 1e3:.0f} kB"
