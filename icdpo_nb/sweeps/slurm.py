"""The backend `slurm`: job arrays through submitit, each job with a store of its own on its node.

The reports and the sweep's hidden folder must lie on a file system that all nodes share. With `cluster: local` submitit runs
the same jobs as processes on this machine, to try a sweep before it waits in a queue.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ..common.errors import InputError, first_line
from .backend import KILLED, TOO_LONG, options, work_apart

OPTIONS = {
    "cluster": str, "partition": str, "account": str, "qos": str, "constraint": str, "minutes": int, "cpus": int, "gpus": int,
    "memory_gb": int, "jobs": int, "setup": list, "sbatch": dict,
}  # fmt: skip
NAMES = {  # of the options in submitit, which come to sbatch
    "partition": "slurm_partition", "account": "slurm_account", "qos": "slurm_qos", "constraint": "slurm_constraint",
    "minutes": "timeout_min", "cpus": "cpus_per_task", "gpus": "gpus_per_node", "memory_gb": "mem_gb", "setup": "slurm_setup",
    "sbatch": "slurm_additional_parameters",
}  # fmt: skip
CLUSTERS = ("slurm", "local")
MINUTES = 240  # that a job may take if the file does not say
UNLIMITED = 10**6  # jobs: the queue takes all
ASK_SECONDS = 10.0  # how often the queue is asked which jobs are in it
CANCEL_SECONDS = 120.0  # that cancelled jobs may take to unwind
GRACE_SECONDS = 30.0  # after a job has left the queue, for its result to appear on a slow file system


class Slurm:
    """Submits an array for all jobs that are ready together; `jobs` of them run at a time."""

    apart = True

    def __init__(self, given: Mapping[str, object], jobs: int | None = None):
        self.given = options(given, OPTIONS, "slurm")
        self.cluster = self.given.get("cluster", "slurm")
        if self.cluster not in CLUSTERS:
            raise InputError(f"option cluster of the backend slurm is {self.cluster!r}, but must be {' or '.join(CLUSTERS)}")
        if find_spec("submitit") is None:
            raise InputError("the backend slurm needs submitit; run: pip install -c constraints.txt -e '.[slurm]'")
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise InputError("there is no sbatch here; start the sweep on a login node of SLURM, or with --on local")
        self.jobs = jobs or self.given.get("jobs")
        self.slots = UNLIMITED if self.cluster == "slurm" else self.jobs or 1
        self.attempts: list[_Submitted] = []
        self.queue = _Queue()

    def executor(self, folder: Path):
        """submitit's executor with its logs below a folder."""
        import submitit

        made = submitit.AutoExecutor(folder, cluster=self.cluster)
        wanted = {NAMES[name]: value for name, value in self.given.items() if name in NAMES and value}
        parallel = {"slurm_array_parallelism": self.jobs} if self.jobs else {}
        made.update_parameters(name="icdpo-nb", **{"timeout_min": MINUTES, **wanted, **parallel})
        return made

    def submit(self, folders: Sequence[Path]) -> list["_Submitted"]:
        """Submit one array for all folders."""
        try:
            executor = self.executor(folders[0].parent / "submitit")
            jobs = executor.submit_array([partial(_on_node, str(folder)) for folder in folders])
        except Exception as error:  # submitit and sbatch complain in many ways
            raise InputError(f"the jobs cannot be submitted ({first_line(error)}); correct the section `on`") from None
        begun = [_Submitted(job, self.queue if self.cluster == "slurm" else None) for job in jobs]
        self.attempts += begun
        return begun

    def close(self) -> None:
        """Cancel what has not ended, and wait until it has left the queue."""
        going = [attempt for attempt in self.attempts if attempt.code() is None]
        for attempt in going:
            attempt.job.cancel(check=False)
        ends = time.monotonic() + CANCEL_SECONDS
        while any(attempt.goes_on() for attempt in going) and time.monotonic() < ends:
            time.sleep(0.5)
            self.queue.asked = 0.0  # ask anew


class _Queue:
    """The user's jobs that wait or run, asked for at most every `ASK_SECONDS`."""

    def __init__(self):
        self.ids: set[str] | None = None  # None before the first answer
        self.asked = 0.0

    def has_left(self, job_id: str, since: float) -> bool:
        """Whether a job that was submitted at `since` is no longer in the queue; False if the queue does not answer."""
        if time.monotonic() - self.asked > ASK_SECONDS:
            asked = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=False)
            self.ids = set(asked.stdout.split()) if asked.returncode == 0 else None
            self.asked = time.monotonic()
        return self.ids is not None and self.asked > since + 1 and job_id not in self.ids


class _Submitted:
    """An attempt that was submitted; `queue`: where it waits or runs, None for a process on this machine."""

    def __init__(self, job, queue: _Queue | None):
        self.job, self.queue, self.said, self.since = job, queue, "", time.monotonic()
        self.ended: int | None = None
        self.gone: float | None = None  # when it was first seen to have left without a result

    def code(self) -> int | None:
        if self.ended is None:
            self.ended = self._result()
        if self.ended is None and self._left():
            self.gone = self.gone or time.monotonic()
            if time.monotonic() - self.gone > (GRACE_SECONDS if self.queue else 0):
                self.said = self._state()
                self.ended = TOO_LONG if "TIMEOUT" in self.said else KILLED
        return self.ended

    def reason(self) -> str:
        return self.said

    def goes_on(self) -> bool:
        """Whether the job still waits or runs."""
        return self.code() is None and not self._left()

    def _result(self) -> int | None:
        """The exit code that the job left as its result; None before it has."""
        from submitit.core.utils import pickle_load

        if not self.job.paths.result_pickle.exists():
            return None
        outcome, value = pickle_load(self.job.paths.result_pickle)
        if outcome == "success":
            return int(value)
        self.said = str(value).strip().splitlines()[-1]
        return TOO_LONG if "timed-out" in self.said else KILLED

    def _left(self) -> bool:
        return self.queue.has_left(self.job.job_id, self.since) if self.queue else self.job.done()

    def _state(self) -> str:
        """Why a job left the queue without a result, as far as SLURM still knows."""
        if self.queue is None:
            return f"the process of the job ended without a result ({self.job.state})"
        shown = subprocess.run(["scontrol", "-o", "show", "job", self.job.job_id], capture_output=True, text=True, check=False)
        known = dict(part.split("=", 1) for part in shown.stdout.split() if "=" in part)
        return f"SLURM ended the job: {known.get('JobState', 'state unknown')}, {known.get('Reason', 'reason unknown')}"


def _on_node(folder: str) -> int:
    """Run on the node: as many threads as the job has cores there, unless the environment says otherwise."""
    cores = os.environ.get("SLURM_CPUS_ON_NODE", "1")
    return work_apart(Path(folder), {"OMP_NUM_THREADS": cores, "TQDM_DISABLE": "1"})
