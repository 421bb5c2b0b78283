"""What is said before a download, with a hub of our own on this machine that only knows names and sizes of files."""

import json
import shutil
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants

from icdpo_nb.common import downloads
from icdpo_nb.common.downloads import announced, data_files, encoder_files, model_files
from icdpo_nb.common.errors import InputError
from icdpo_nb.common.notes import NOTE
from icdpo_nb.data.preferences import load_preferences
from icdpo_nb.judging.rewards import load_reward
from icdpo_nb.models.encoder import Embedder
from icdpo_nb.models.lm import load_lm

COMMIT = "0123456789" * 4
MODEL = {
    "config.json": 1_000, "tokenizer.json": 2_000_000, "tokenizer.model": 500_000, "model.safetensors.index.json": 20_000,
    "model-00001-of-00002.safetensors": 9_500_000_000, "model-00002-of-00002.safetensors": 5_000_000_000,
    "consolidated.safetensors": 14_500_000_000, "pytorch_model.bin": 14_500_000_000, "README.md": 5_000,
    "onnx/model.onnx": 15_000_000_000, "original/tokenizer.model": 500_000,
}  # fmt: skip
DATA = {"harmless-base/train.jsonl.gz": 13_000_000, "helpful-base/train.jsonl.gz": 16_000_000, "README.md": 1}


class Hub(BaseHTTPRequestHandler):
    """Tells names and sizes of files, as huggingface.co does, and has no files."""

    def do_GET(self) -> None:  # noqa: N802
        kind, files = ("models", MODEL) if self.path.startswith("/api/models/org/name") else ("datasets", DATA)
        known = "/org/name" in self.path and "blobs=" in self.path
        siblings = [{"rfilename": name, "size": size} for name, size in files.items()]
        about = {"id": "org/name", "sha": COMMIT, "siblings": siblings, "private": False, "downloads": 0, "tags": []}
        body = json.dumps(about if known else {"error": f"no such {kind}"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *said: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub in place of the real one, with an empty cache, and disks of 100 GB; returns the cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    have(monkeypatch, 100_000_000_000)
    monkeypatch.delenv(NOTE, raising=False)
    yield tmp_path / "hub"
    server.shutdown()
    server.server_close()


def have(monkeypatch, free: int) -> None:
    """Let every disk have this many bytes free."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free, 0, free))


def test_the_size_is_said_once_for_what_will_be_loaded(hub, capsys):
    with announced("org/name", model_files):
        pass
    assert capsys.readouterr().err == f"downloading org/name: 14.5 GB into {hub}\n"
    with announced("org/name", data_files, kind="dataset"):
        pass
    assert capsys.readouterr().err == f"downloading org/name: 29 MB into {hub}\n"


def test_what_is_in_the_cache_does_not_count(hub, capsys):
    folder = hub / "models--org--name" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "model-00001-of-00002.safetensors").write_text("here")
    with announced("org/name", model_files):
        pass
    assert capsys.readouterr().err.startswith("downloading org/name: 5.0 GB into ")
    for name in MODEL:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("here")
    with announced("org/name", model_files):
        pass
    assert capsys.readouterr().err == ""


def test_no_room_is_one_sentence_before_anything_is_fetched(hub, monkeypatch):
    have(monkeypatch, 3_000_000_000)
    sentence = f"^org/name needs 14.5 GB in {hub}, where 3.0 GB are free; free some space, or set HF_HOME"
    with pytest.raises(InputError, match=sentence), announced("org/name", model_files):
        raise AssertionError("it has begun")


def test_without_an_answer_nothing_is_said(hub, capsys, monkeypatch):
    for address in ("http://127.0.0.1:9", constants.ENDPOINT):  # nobody listens there; nobody knows the model
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with announced("org/unknown", model_files):
            pass
    assert capsys.readouterr().err == ""


def test_a_run_says_it_in_its_progress_line(hub, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(NOTE, str(tmp_path / "note"))
    with announced("org/name", model_files):
        assert (tmp_path / "note").read_text() == f"downloading org/name: 14.5 GB into {hub}"
    assert not (tmp_path / "note").exists()
    assert capsys.readouterr().err == ""


def test_files_that_are_loaded():
    assert model_files(["model.safetensors", "model-00001-of-00002.safetensors", "a.bin"]) == ["model.safetensors"]
    names = ["modules.json", "model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors", "onnx/model.onnx",
             "2_Dense/pytorch_model.bin", "openvino/openvino_model.xml", "onnx/config.json"]  # fmt: skip
    assert encoder_files(names) == ["modules.json", "model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors"]
    names = ["helpful/a.jsonl.gz", "helpful/b.parquet", "harmless/a.jsonl.gz", "README.md", "helpful.py"]
    assert data_files(names, "helpful") == names[:2]
    assert data_files(names) == names[:3]
    assert [downloads.spoken_size(n) for n in (14_500_000_000, 86_700_000, 1_400, 0)] == ["14.5 GB", "87 MB", "1 kB", "0 kB"]


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        (lambda: load_lm("org/name"), "model"),
        (lambda: load_reward("org/name"), "model"),
        (lambda: Embedder("org/name"), "model"),
        (lambda: Embedder("all-mpnet-base-v2"), "model"),
        (lambda: load_preferences("org/name"), "dataset"),
    ],
)
def test_whatever_is_loaded_from_the_hub_is_announced(hub, monkeypatch, load, kind):
    """Before it is loaded: there is no room, which is said in place of any other complaint."""
    asked = []

    def config(name, **options):
        from transformers import LlamaConfig

        return LlamaConfig()

    def answer(self, hub_id, repo_type, **options):
        asked.append(repo_type)
        name = "data.jsonl" if repo_type == "dataset" else "model.safetensors"
        return namedtuple("info", "sha siblings")(COMMIT, [namedtuple("file", "rfilename size")(name, 9_000_000_000)])

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", config)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", answer)
    have(monkeypatch, 0)
    with pytest.raises(InputError, match="needs 9.0 GB in "):
        load()
    assert asked == [kind]
