"""Ray: attached to a cluster or started on this machine, without a word in a notebook; what it shares out, and its errors."""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from ..common.errors import InputError, first_line
from .placement import SPREAD

STARTS = 4  # times that Ray is started before it is given up
CONNECT_SECONDS = 10.0  # that a cluster has to answer
KILL_SECONDS = 10.0  # that processes have to end
NAME_SECONDS = 1.0  # within which a process that has begun has a command line
LOCAL = {"include_dashboard": False, "object_store_memory": 256 * 2**20}  # bytes, for arguments and results
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will do from now on; without it, it warns
    "RAY_prestart_worker_first_driver": "0",  # actors with an environment of their own would not use those processes
    "RAY_ENABLE_AUTO_CONNECT": "0",  # once Ray has ended, nothing starts it unasked
}
PASSED_ON = ("ICDPO_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TQDM_")  # variables of the environment that workers need, too


def begin_ray(address: str = "") -> bool:
    """Attach to a cluster, by default that at RAY_ADDRESS, or start Ray on this machine; False if it is there already.

    Raises `InputError` if there is no such cluster.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    _check_reachable(address)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return False
    with suppress(AttributeError):  # Ray would print the death of an actor into the notebook; `losses` has it
        ray._private.worker.print_to_stdstream = lambda *said, **how: None
    where = {"address": address} if address else {"address": "local", "num_cpus": os.cpu_count(), **LOCAL}
    options = {**where, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        started(lambda: ray.init(**options), ray.shutdown, times=1 if address else STARTS)
    except Exception as error:  # some of Ray's are of this class itself
        said = f"the Ray cluster at {address} cannot be reached" if address else "Ray cannot be started here"
        raise InputError(f"{said} ({first_line(error)}); see ray status") from None
    return True


def started(start: Callable[[], object], stop: Callable[[], object], times: int = STARTS) -> object:
    """`start()`, again if it fails, until it has failed `times` times. Each time `stop()` is called, and what is left killed.

    On a busy machine Ray's processes may not be there in the time that it gives them, which nothing can change.
    """
    for attempt in range(times):
        before = set(psutil.Process().children(recursive=True))
        try:
            return start()
        except Exception:
            stop()
            left = set(psutil.Process().children(recursive=True)) - before
            for process in [p for p in left if _is_ray(p)]:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, KILL_SECONDS)
            if attempt == times - 1:
                raise
    return None


def _is_ray(process: psutil.Process) -> bool:
    until = time.monotonic() + NAME_SECONDS
    with suppress(psutil.Error):
        while not (command := process.cmdline()) and time.monotonic() < until:  # just begun, it has none yet
            time.sleep(0.01)
        return "/ray/" in " ".join(command)
    return False


def _check_reachable(address: str) -> None:
    """Raises `InputError` if nobody listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            why = error.strerror or str(error)
            raise InputError(f"the Ray cluster at {address} cannot be reached ({why}); see ray status") from None


def share(n: int, threads: int) -> dict[str, float]:
    """The CPUs and GPUs that Ray sets aside for each of n actors: fractions where there are fewer than actors."""
    import ray

    there, device = ray.cluster_resources(), os.environ.get("ICDPO_DEVICE", "auto")
    cpus, gpus = there.get("CPU", 0), int(there.get("GPU", 0)) if device != "cpu" else 0
    share = {"num_cpus": min(float(threads), int(cpus / n * 100) / 100), "num_gpus": 0}
    if gpus >= n:
        share["num_gpus"] = gpus // n if device in SPREAD else 1
    elif gpus:
        share["num_gpus"] = 1 / -(-n // gpus)
    return share


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the error that a task raised in its worker as it is, without Ray's around it."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None


def lost() -> tuple[type[Exception], ...]:
    """What Ray raises if an actor, its node or its result is lost."""
    from ray import exceptions

    found = exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.ObjectLostError, exceptions.NodeDiedError
    return *found, exceptions.OutOfMemoryError


def cause(error: Exception) -> str:
    """Why an actor was lost, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for detail in (r"(Worker exit type: \w+).*?(?:detail: (.+?)\.|$)", r"(node[^.]*died[^.]*)", r"(.*)"):
        if found := re.search(detail, " ".join(lines), re.IGNORECASE):
            return ", ".join(filter(None, found.groups()))[:160] or type(error).__name__
    return type(error).__name__
