"""The backend `ray`: runs on the machines of a Ray cluster, which need not share any files.

Each run is a Ray task that starts a process of its own on its machine. Its results go to the driver's store as they are
computed, and runs on different machines wait for each other's results, so that nothing is computed twice (`hub.py`). A run
whose machine is lost is begun again on another.
"""

import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..common.errors import InputError, first_line
from ..models.cluster import PASSED_ON, begin_ray, cause, lost, own_errors
from ..reports.job import load_job
from ..store.store import store_folder
from .backend import ERR, JOB, KILLED, OUT, STATE, options
from .hub import Hub
from .parcel import Parcel, Returned, parcel, place, work_off

OPTIONS = {"address": str, "jobs": int, "cpus": int, "gpus": int}
BAD_INPUT = 2  # an exit code, as in `cli.py`
GRACE_SECONDS = 30.0  # that runs have to end
NOT_PASSED = ("ICDPO_STORE", "ICDPO_NOTE", "ICDPO_RUN_DIR")  # of PASSED_ON, what belongs to this machine


class OverRay:
    """Runs on the cluster at `address` ($RAY_ADDRESS), or on this machine; each run has `cpus` cores and `gpus` GPUs.

    At most `jobs` run at a time, by default as many as the cluster has room for.
    """

    apart = False  # its runs use the driver's store

    def __init__(self, given: Mapping[str, object], jobs: int | None = None):
        self.given = options(given, OPTIONS, "ray")
        self.jobs = jobs or self.given.get("jobs")
        if find_spec("ray") is None:
            raise InputError("the backend ray needs Ray; run: pip install -c constraints.txt -e '.[ray]'")
        self.hub = None
        self.attempts: list[_Sent] = []

    @property
    def slots(self) -> int:
        """Runs at a time. Attaches to the cluster."""
        self._open()
        return self.jobs or max(1, self.room)

    def _open(self) -> None:
        """Attach to the cluster or start Ray, and start the hub on this machine, once."""
        if self.hub is not None:
            return
        self.own_ray = begin_ray(self.given.get("address", ""))
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        on_gpu = os.environ.get("ICDPO_DEVICE") != "cpu" and any(node.get("GPU") for node in nodes)
        self.share = {"num_cpus": self.given.get("cpus", 1), "num_gpus": self.given.get("gpus", int(on_gpu))}
        names = {"CPU": self.share["num_cpus"], "GPU": self.share["num_gpus"]}
        self.room = sum(min(int(node.get(name, 0) // n) for name, n in names.items() if n) for node in nodes)
        if not self.room:
            raise InputError(f"no machine of the cluster has {names['CPU']} CPUs and {names['GPU']} GPUs; lower cpus or gpus")
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.hub = ray.remote(Hub).options(num_cpus=0, scheduling_strategy=here).remote(str(store_folder()))
        passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON) and k not in NOT_PASSED}
        task = {**self.share, "max_retries": 0, "scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": passed}}
        self.task = ray.remote(_on_node).options(**task)

    def submit(self, folders: Sequence[Path]) -> list["_Sent"]:
        """Send a parcel for each folder."""
        self._open()
        begun = [_Sent(folder, self) for folder in folders]
        self.attempts += begun
        return begun

    def close(self) -> None:
        """Cancel what has not ended, wait for it, and end Ray if it was started here."""
        import ray

        going = [attempt for attempt in self.attempts if attempt.code() is None]
        for attempt in going:
            ray.cancel(attempt.ref)
        ends = time.monotonic() + GRACE_SECONDS
        while any(attempt.code() is None for attempt in going) and time.monotonic() < ends:
            time.sleep(0.1)
        if self.hub is not None and self.own_ray:
            ray.shutdown()
        self.hub = None


class _Sent:
    """An attempt on the cluster."""

    def __init__(self, folder: Path, backend: OverRay):
        self.folder, self.hub = folder, backend.hub
        self.name = f"{folder.name} {time.time_ns()}"
        self.sent = parcel(folder)
        self.ref = backend.task.remote(self.sent, self.name, str(folder / STATE), backend.hub)
        self.ended: int | None = None
        self.said = ""

    def code(self) -> int | None:
        import ray

        if self.ended is None and ray.wait([self.ref], timeout=0)[0]:
            self.ended = self._receive()
            self.hub.forget.remote(self.name)
        return self.ended

    def reason(self) -> str:
        return self.said

    def _receive(self) -> int:
        """Take what the attempt left; returns its exit code."""
        import ray

        try:
            with own_errors():
                returned: Returned = ray.get(self.ref)
        except InputError as error:
            self.said = str(error)
            return BAD_INPUT
        except ray.exceptions.TaskCancelledError:
            self.said = "cancelled"
            return KILLED
        except lost() as error:
            self.said = f"its machine or process was lost: {cause(error)}"
            return KILLED
        except Exception as error:
            self.said = f"the run could not be begun: {first_line(error)}"
            return KILLED
        (self.folder / OUT).write_bytes(returned.out)
        (self.folder / ERR).write_bytes(returned.err)
        place(returned.reports, load_job(self.folder / JOB).out)
        return returned.code if returned.code >= 0 else KILLED


def _on_node(sent: Parcel, attempt: str, state: str, hub) -> Returned:
    """The Ray task: works off a parcel where it is, and asks the hub on its behalf."""
    import ray

    def ask(what: str, *about: object) -> object:
        return ray.get(getattr(hub, what).remote(attempt, *about))

    return work_off(sent, ask, lambda text: hub.tell.remote(state, text))
