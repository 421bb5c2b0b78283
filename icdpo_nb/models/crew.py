"""The processes of workers: Ray actors, each with a thread of this process that gives it chunks and replaces it if it dies."""

import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from queue import PriorityQueue
from threading import Event, Thread
from typing import NamedTuple

from ..common.errors import InputError, first_line
from .cluster import PASSED_ON, begin_ray, cause, lost, own_errors, share

ATTEMPTS = 3  # workers that one chunk may cost, and starts that may fail in a row
START_SECONDS = 300.0  # that a run waits without any worker
PATIENCE_SECONDS = 60.0  # that it waits for the last of the workers before the first chunk
LOOK_SECONDS = 0.5  # between two looks whether an actor that is awaited is still wanted
LEAVE_SECONDS = 30.0  # that threads have to leave Ray before it ends


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
        options = {**share(n, threads), "max_restarts": 0, "runtime_env": {"env_vars": environment}}
        self.actor = ray.remote(Host).options(**options, scheduling_strategy="SPREAD")
        self.tasks: PriorityQueue = PriorityQueue()
        self.numbers = count()
        self.places: dict[object, dict] = {}  # of the actors that are there
        self.closed, self.failure = Event(), ""
        self.began = self.seen = time.monotonic()  # seen: when an actor was there
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
        ends = self.began + PATIENCE_SECONDS
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
        ends = time.monotonic() + LEAVE_SECONDS
        for keeper in self.keepers:
            keeper.join(max(0.0, ends - time.monotonic()))
        if self.own_ray and not any(keeper.is_alive() for keeper in self.keepers):  # it would end this process with such a call
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
        place = host.where.remote()
        while not ray.wait([place], timeout=LOOK_SECONDS)[0]:  # until Ray has room for it
            if self.closed.is_set():
                ray.kill(host)
                raise RuntimeError("the workers were closed")
        self.places[host] = ray.get(place)
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
