"""The processes of workers: Ray actors, each with a thread of this process that gives it chunks and replaces it if it dies."""

import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from queue import PriorityQueue
from threading import Event, Thread
from typing import NamedTuple

from ..common.errors import InputError, first_line
from .placement import SPREAD

ATTEMPTS = 3  # workers that one chunk may cost, and starts that may fail in a row
START_SECONDS = 300.0  # that a run waits without any worker
PATIENCE_SECONDS = 60.0  # that it waits for the last of the workers before the first chunk
CONNECT_SECONDS = 10.0  # that a cluster has to answer
STORE_BYTES = 256 * 2**20  # memory that Ray sets aside for arguments and results
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will do from now on; without it, it warns
    "RAY_prestart_worker_first_driver": "0",  # actors with an environment of their own would not use those processes
}
PASSED_ON = ("ICDPO_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TQDM_")  # variables of the environment that workers need, too


class Part(NamedTuple):
    """What workers copy. `make()` makes it in a worker."""

    key: str
    name: str  # for messages
    make: Callable[[], object]


class Host:
    """The process of a worker: its copies by the keys of their parts."""

    def __init__(self, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.copies: dict[str, object] = {}
        self.settled: set[str] = set()

    def where(self) -> dict:
        """The node and the id of this process."""
        return {"node": socket.gethostname(), "process": os.getpid()}

    def run(self, part: Part, settle: Callable | None, do: Callable, given: Mapping) -> tuple[object, list[str]]:
        """`do(copy, **given)`, and the warnings on the way. `settle(copy)` is called before, once."""
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always")
            if part.key not in self.copies:
                self.copies[part.key] = part.make()
            copy = self.copies[part.key]
            if settle and part.key not in self.settled:
                settle(copy)
                self.settled.add(part.key)
            value = do(copy, **given)
        return value, [str(w.message) for w in issued if w.category is UserWarning]

    def keys(self) -> list[str]:
        """The keys of the parts of which there is a copy."""
        return [*self.copies]

    def forget(self, key: str) -> None:
        """Drop a copy."""
        self.copies.pop(key, None)
        self.settled.discard(key)


@dataclass
class Task:
    """A chunk: the arguments of `Host.run`, where its result goes, and how many workers it has cost."""

    part: Part
    settle: Callable | None
    do: Callable
    given: Mapping
    about: str  # for messages
    future: Future = field(default_factory=Future)
    attempts: int = 0
    number: int = -1  # chunks are begun in this order


class Crew:
    """`n` actors with `threads` threads each, and their tasks. Lost actors are added to `losses`.

    Attaches to the cluster at RAY_ADDRESS, or starts Ray on this machine. Raises `InputError` if there is no such cluster.
    """

    def __init__(self, n: int, threads: int, losses: list[dict]):
        import ray

        self.n, self.threads, self.losses = n, threads, losses
        self.own_ray = begin_ray()
        environment = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        options = {**_share(n, threads), "max_restarts": 0, "runtime_env": {"env_vars": environment}}
        self.actor = ray.remote(Host).options(**options, scheduling_strategy="SPREAD")
        self.tasks: PriorityQueue = PriorityQueue()
        self.numbers = count()
        self.places: dict[object, dict] = {}  # of the actors that are there
        self.closed, self.failure, self.seen = Event(), "", time.monotonic()
        self.keepers = [Thread(target=self._keep, daemon=True) for _ in range(n)]
        for keeper in self.keepers:
            keeper.start()

    def submit(self, task: Task) -> None:
        """Have a task done by whichever actor is free first. One that was begun before comes before all others."""
        if task.number < 0:
            task.number = next(self.numbers)
        self.tasks.put((task.number, task))

    def check(self) -> None:
        """Raises `InputError` if no actor is there, and none can be expected."""
        if self.places:
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > START_SECONDS or not any(keeper.is_alive() for keeper in self.keepers):
            why = self.failure or f"Ray had no room for one within {START_SECONDS:.0f} s"
            raise InputError(f"no worker of {self.n} is left ({why}); see ray status, or use workers 1")

    def wait_for_all(self) -> None:
        """Wait until all actors are there, or a while."""
        ends = self.seen + PATIENCE_SECONDS
        while len(self.places) < self.n and time.monotonic() < ends and any(keeper.is_alive() for keeper in self.keepers):
            time.sleep(0.02)

    def close(self) -> None:
        """End all actors, and Ray if it was started for them."""
        import ray

        self.closed.set()
        for _ in self.keepers:
            self.tasks.put((-1 - next(self.numbers), None))
        for host in [*self.places]:
            with suppress(Exception):  # Ray may have ended
                ray.kill(host)
        if self.own_ray:
            ray.shutdown()

    # ------------------------------------------------------------ in the thread of each actor

    def _keep(self) -> None:
        """Start an actor, give it tasks, and replace it when it is lost."""
        failures = 0
        while not self.closed.is_set() and failures < ATTEMPTS:
            try:
                host = self._start()
                failures = 0
            except Exception as error:  # whatever keeps a process from starting
                self.failure, failures = first_line(error), failures + 1
                continue
            if self._employ(host):
                return

    def _start(self) -> object:
        import ray

        host = self.actor.remote(self.threads)
        self.places[host] = ray.get(host.where.remote())  # when Ray has room for it
        return host

    def _employ(self, host) -> bool:
        """Give an actor tasks until it is lost, or until there are no more to come, and say whether there are none."""
        import ray

        while (task := self.tasks.get()[1]) is not None:
            if not task.attempts and not task.future.set_running_or_notify_cancel():
                continue
            try:
                with own_errors():
                    value = ray.get(host.run.remote(task.part, task.settle, task.do, task.given))
            except lost() as error:
                self._replace(host, task, error)
                return False
            except BaseException as error:
                task.future.set_exception(error)
            else:
                task.future.set_result(value)
        return True

    def _replace(self, host, task: Task, error: Exception) -> None:
        """Note the loss of an actor, and have its task done by another."""
        import ray

        place = self.places.pop(host)
        if self.closed.is_set():
            task.future.set_exception(error)
            return
        with suppress(Exception):
            ray.kill(host)  # it may only have been out of reach
        why, task.attempts = cause(error), task.attempts + 1
        self.losses.append({"at": time.strftime("%Y-%m-%d %H:%M:%S"), **place, "doing": task.about, "why": why})
        if task.attempts < ATTEMPTS:
            self.submit(task)
            return
        task.future.set_exception(InputError(
            f"{task.about} cost {ATTEMPTS} workers, one after the other ({why}); if memory ran out, use fewer workers, a "
            "smaller model or shorter contexts"
        ))  # fmt: skip


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
    local = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False, "object_store_memory": STORE_BYTES}
    why = ""
    for _ in range(1 if address else ATTEMPTS):  # on a busy machine Ray may not be there in the time that it gives itself
        try:
            ray.init(**({"address": address} if address else local), log_to_driver=False, logging_level=logging.ERROR)
            return True
        except Exception as error:  # some of Ray's are of this class itself
            ray.shutdown()
            why = first_line(error)
    where = f"the Ray cluster at {address} cannot be reached" if address else "Ray cannot be started here"
    raise InputError(f"{where} ({why}); see ray status")


def _check_reachable(address: str) -> None:
    """Raises `InputError` if nobody listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            why = error.strerror or str(error)
            raise InputError(f"the Ray cluster at {address} cannot be reached ({why}); see ray status") from None


def _share(n: int, threads: int) -> dict[str, float]:
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
