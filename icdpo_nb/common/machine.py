"""The name of this machine's processor."""

import platform
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """The name of the CPU. On Linux, only /proc/cpuinfo has it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return " ".join(names[0].partition(":")[2].split()) if names else platform.processor() or platform.machine()
