"""Workers: processes over Ray that hold copies of models, encoders and rewards. Chunks of items go in, results come out.

Each worker has a GPU of its own, or a fixed number of threads, and makes a copy of a part when it first needs it. A chunk goes
to whichever worker is free. One that dies is replaced if possible, its chunk is done again, and the loss is noted. Ray
runs on this machine unless RAY_ADDRESS names a cluster.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from importlib.util import find_spec
from threading import Lock

from ..common.errors import InputError
from .cluster import own_errors
from .crew import Crew, Part, Task

VARIABLE = "ICDPO_WORKERS"


class Workers:
    """`n` workers, started when they are first needed. Raises `InputError` if Ray is not installed or they cannot start.

    Several threads may have chunks done at the same time. `losses` lists the workers that died: when, where, at what and why.
    """

    def __init__(self, n: int):
        if find_spec("ray") is None:
            raise InputError(f"workers is {n}, but Ray is not installed; run: pip install -c constraints.txt -e '.[ray]'")
        self.n = n
        self.losses: list[dict] = []
        self.lock = Lock()
        self.crew: Crew | None = None
        self.begun = False
        self.told: set[str] = set()  # warnings of workers

    def begin(self) -> Crew:
        """Start the workers, once."""
        with self.lock:
            if self.crew is None:
                self.crew, self.begun = Crew(self.n, threads(), self.losses), True
            return self.crew

    def spread(
        self, part: Part, settle: Callable | None, do: Callable, chunks: Sequence[Mapping], about: Sequence[str]
    ) -> Iterator[tuple[int, object]]:
        """Yield (k, do(copy, **chunks[k])) as the chunks are done, in any order.

        `settle(copy)` is called in each worker before its first chunk. An exception in a worker is raised here; chunks
        that nobody has begun are then withdrawn, as when the caller stops. `about`: what each chunk is, for messages.
        """
        crew = self.begin()
        tasks = [Task(part, settle, do, given, text) for given, text in zip(chunks, about, strict=True)]
        place = {task.future: k for k, task in enumerate(tasks)}
        for task in tasks:
            crew.submit(task)
        pending = {*place}
        try:
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                if not done:
                    crew.check()
                for future in sorted(done, key=place.get):
                    value, issued = future.result()
                    self._warn(issued)
                    yield place[future], value
        finally:
            for future in pending:
                future.cancel()

    def call(self, part: Part, do: Callable) -> object:
        """`do(copy)` in one worker."""
        return next(iter(self.spread(part, None, do, [{}], [f"setting up {part.name}"])))[1]

    def each(self, part: Part, settle: Callable, do: Callable) -> None:
        """`do(copy)` in every worker. Waits a while for those that are still starting."""
        import ray

        crew = self.begin()
        crew.wait_for_all()
        for call in [host.run.remote(part, settle, do, {}) for host in [*crew.places]]:
            with suppress(ray.exceptions.RayActorError), own_errors():  # its next chunk tells that a worker is lost
                self._warn(ray.get(call)[1])

    def forget(self, key: str) -> None:
        """Drop all copies of a part."""
        with suppress(Exception):  # Ray may have ended
            for host in [*self.crew.places] if self.crew else ():
                host.forget.remote(key)

    def close(self) -> None:
        """End the workers, and Ray if it was started for them. They start again when they are needed again."""
        with self.lock:
            if self.crew is not None:
                self.crew.close()
            self.crew = None

    def _warn(self, issued: Sequence[str]) -> None:
        for text in issued:
            if text not in self.told:
                self.told.add(text)
                warnings.warn(text, stacklevel=4)


def threads() -> int:
    """The threads of a worker: OMP_NUM_THREADS, or one.

    They do not depend on the number of workers, since the choice of a product depends on them, and its rounding may.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, int(first)) if first.isdigit() else 1


# ------------------------------------------------------------ those of this process

_chosen: int = 1
_workers: Workers | None = None


def choose_workers(n: int) -> None:
    """Use n workers from now on; with 1, as many as ICDPO_WORKERS says, or none if it says nothing."""
    global _chosen
    if n < 1:
        raise InputError(f"workers is {n}, but must be at least 1")
    _chosen = n


def workers_for(n: int) -> int:
    """The number of workers where n are asked for: with 1, as many as ICDPO_WORKERS says; 0 if models run in this process."""
    said = os.environ.get(VARIABLE, "")
    if said and not (said.isdigit() and int(said)):
        raise InputError(f"{VARIABLE} is {said!r}, but must be a whole number of at least 1")
    return n if n > 1 else int(said or 0)


def workers() -> Workers | None:
    """The workers of this process, or None if models run in it, or are only described."""
    from .checkpoints import DESCRIBED

    global _workers
    if os.environ.get(DESCRIBED):
        return None
    n = workers_for(_chosen)
    if _workers is not None and _workers.n != n:
        _workers.close()
        _workers = None
    if n and _workers is None:
        _workers = Workers(n)
    return _workers


def close_workers() -> None:
    """End the workers of this process; they start again when they are needed again."""
    if _workers is not None:
        _workers.close()


def account() -> dict:
    """The number of workers of this process and those that it lost, for a run's record; empty if it had none."""
    return {"workers": _workers.n, "lost": _workers.losses} if _workers and _workers.begun else {}


def account_text() -> str:
    """The same in a few words, or ""."""
    if not (used := account()):
        return ""
    text, lost = f"{used['workers']} over Ray", used["lost"]
    if not lost:
        return text
    each = "; ".join(f"process {x['process']} on {x['node']} during {x['doing']} ({x['why']})" for x in lost)
    return f"{text}; {len(lost)} {'was' if len(lost) == 1 else 'were'} lost, and what it did was done again: {each}"
