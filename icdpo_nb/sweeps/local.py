"""The backend `local`: processes side by side on this machine, each with its share of the cores and a GPU in turn."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..reports.processes import end, share_of
from .backend import exit_code, killed_by, options, start

OPTIONS = {"jobs": int}


class Local:
    """Runs `jobs` processes at a time, by default one, or one for each GPU."""

    apart = False  # one store can be used by several processes

    def __init__(self, given: Mapping[str, object], jobs: int | None = None):
        self.gpus = visible_gpus()
        self.slots = jobs or options(given, OPTIONS, "local").get("jobs") or max(1, len(self.gpus))
        self.taken: dict[int, _Process] = {}  # slot -> what runs in it

    def submit(self, folders: Sequence[Path]) -> list["_Process"]:
        """Start a process for each folder."""
        return [self._start(folder) for folder in folders]

    def _start(self, folder: Path) -> "_Process":
        slot = next(i for i in range(self.slots) if i not in self.taken or self.taken[i].code() is not None)
        one = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        self.taken[slot] = _Process(start(folder, one, share_of(self.slots)))
        return self.taken[slot]

    def close(self) -> None:
        """End all processes."""
        end(attempt.process for attempt in self.taken.values() if attempt.code() is None)


class _Process:
    """An attempt in a process of its own."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    def code(self) -> int | None:
        code = self.process.poll()
        return None if code is None else exit_code(code)

    def reason(self) -> str:
        code = self.process.poll() or 0
        return killed_by(-code) if code < 0 else ""


def visible_gpus() -> list[str]:
    """The GPUs that processes take in turn; none where $ICDPO_DEVICE says which device a model is on."""
    if os.environ.get("ICDPO_DEVICE", "auto") not in ("auto", "cuda"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip() and gpu != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    asked = subprocess.run(query, capture_output=True, text=True, check=False)
    return asked.stdout.split() if asked.returncode == 0 else []
