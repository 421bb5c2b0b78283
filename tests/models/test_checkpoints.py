"""Files of models are fetched before several processes need them; nothing is downloaded for those that are here."""

import huggingface_hub
import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.models import checkpoints
from icdpo_nb.models.checkpoints import fetch

FILES = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "README.md"]


@pytest.fixture
def hub(monkeypatch):
    """What is asked of the hub, which has one model, `org/name`."""
    asked = []

    def names(self, name, revision=None):
        asked.append(name)
        if name != "org/name":
            raise OSError("no such repository")
        return FILES

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", names)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)))
    return asked


def test_a_model_of_the_hub_comes_without_copies_in_other_formats(hub):
    fetch("org/name", "abc")
    wanted = ["config.json", "model.safetensors", "tokenizer.json"]
    assert hub == ["org/name", ("org/name", {"revision": "abc", "allow_patterns": wanted})]


def test_what_is_here_is_not_asked_for(hub, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    dequantised = []
    monkeypatch.setattr(checkpoints, "smollm2_folder", lambda: dequantised.append(1) or tmp_path)
    for name in ("sandbox-small", str(tmp_path), "smollm2"):
        fetch(name)
    assert hub == []
    assert dequantised == [1]


def test_what_can_neither_be_reached_nor_is_cached_is_one_sentence(hub, monkeypatch):
    with pytest.raises(InputError, match="model 'org/other' cannot be loaded from the hub .no such repository"):
        fetch("org/other")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *given, **options: "here/config.json")
    fetch("org/other")
    with pytest.raises(InputError, match="no such folder, and not one of"):
        fetch("sandbox-tiny")
