"""GPUs by their data sheets, to forecast what was not measured: the rates of large products and of memory, and its size."""

import difflib
from typing import NamedTuple

from ..common.errors import InputError

REACHED = 0.3  # share of the rates that a run is taken to reach: measured on an H200 with two shapes of 7B (docs/scaling.md)


class Device(NamedTuple):
    """A device by its data sheet."""

    operations: float  # a second, dense bfloat16 products; a multiplication and an addition are two
    bandwidth: float  # bytes a second from its memory
    memory: float  # bytes


DEVICES = {
    "A10": Device(125e12, 600e9, 24e9),
    "RTX-4090": Device(165e12, 1008e9, 24e9),
    "L40S": Device(362e12, 864e9, 48e9),
    "A100": Device(312e12, 2039e9, 80e9),
    "H100": Device(989e12, 3350e9, 80e9),
    "H200": Device(989e12, 4800e9, 141e9),
}


def named_device(name: str) -> Device:
    """The device of this name. Raises `InputError` for an unknown one."""
    found = {known.lower(): device for known, device in DEVICES.items()}.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.upper(), DEVICES, 1, 0.4) or DEVICES
        raise InputError(f"gpu is {name[:40]!r}, but there is no data sheet of it; did you mean {' or '.join(near)}?")
    return found
