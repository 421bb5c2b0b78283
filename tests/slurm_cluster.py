"""A SLURM cluster of one node on this machine, from Debian's packages slurm-wlm and munge, with its files in one folder."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from getpass import getuser
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where the daemons lie
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def installed() -> bool:
    """Whether the packages are there."""
    return all(shutil.which(name, path=PATH) for name in ("munged", "mungekey", "slurmctld", "slurmd", "sbatch"))


def answers(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a cluster answers that has a node for jobs."""
    if shutil.which("sinfo") is None:
        return False
    said = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
    return bool({"idle", "mixed", "allocated"} & {*said.stdout.split()})


@contextmanager
def one_node(folder: Path) -> Iterator[Path]:
    """The cluster's slurm.conf, while it runs; sbatch and the others find it by SLURM_CONF. It listens on SLURM's own ports."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration, munge = folder / "slurm.conf", folder / "munge"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(CONFIGURATION.format(host=host, user=getuser(), folder=folder, cpus=os.cpu_count()))
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(configuration)}
    subprocess.run(["mungekey", "--create", f"--keyfile={munge}.key"], env=environment, check=True)
    files = {"key-file": "key", "socket": "socket", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    with ExitStack() as stack:
        for command, ready in (
            (["munged", "-F", "--force", *(f"--{option}={munge}.{file}" for option, file in files.items())],
             (folder / "munge.socket").exists),
            (["slurmctld", "-D"], lambda: True),
            (["slurmd", "-D"], lambda: answers(environment)),
        ):  # fmt: skip
            said = stack.enter_context(open(folder / f"{command[0]}.out", "w"))
            daemon = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            _await(ready, daemon, folder)
        yield configuration


def _await(ready: Callable[[], bool], daemon: subprocess.Popen, folder: Path) -> None:
    for _ in range(600):  # two minutes
        if ready():
            return
        if daemon.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError("\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(folder.glob("*.out"))))
