"""Where benchmarks leave their numbers: reports/bench/NAME.json, with the machine that they were measured on."""

import json
from pathlib import Path

import torch

from icdpo_nb.common.machine import processor

OUT = Path(__file__).parents[2] / "reports" / "bench"


def machine() -> dict[str, object]:
    """Processor, threads, accelerator and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"processor": processor(), "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
            "accelerator": gpu, "torch": torch.__version__}  # fmt: skip


def write(name: str, found: dict) -> None:
    """Write reports/bench/NAME.json."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(machine() | found, indent=1, ensure_ascii=False) + "\n")
