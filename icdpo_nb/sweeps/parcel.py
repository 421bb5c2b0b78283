"""A job on its way to a machine that shares no files with the driver's: parcels of what it needs, and of what it leaves.

On the machine the job runs in a process of its own, as everywhere, with a store in the machine's temporary folder that asks
the driver's (`store.upstream`). Files and folders that its parameters name must be there under the same names; models and
data from the hub are fetched there.
"""

import dataclasses
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ..common.errors import InputError
from ..reports.job import load_job
from ..reports.origins import PACKAGE, folder_digest
from ..reports.processes import end
from ..store.upstream import UPSTREAM, answering
from .backend import ERR, JOB, OUT, STATE, WHERE, start

LOOK_SECONDS = 0.5  # how often it is looked whether the process has ended, and how far it is


class Parcel(NamedTuple):
    """What a job needs: itself as it was saved, the folder that it was asked for in, and the reports that it reads."""

    job: bytes
    where: str
    reports: bytes
    code: str  # the digest of the driver's package


class Returned(NamedTuple):
    """What is left of a job: its exit code, its report, and what it wrote."""

    code: int
    reports: bytes
    out: bytes
    err: bytes


def parcel(folder: Path) -> Parcel:
    """The parcel of the attempt in a folder."""
    job = load_job(folder / JOB)
    read = [job.out / name for name in job.reads]
    tables = [path for report in read for path in sorted(report.glob("*.json*"))]
    where = (folder / WHERE).read_text(encoding="utf-8")
    return Parcel((folder / JOB).read_bytes(), where, _packed(job.out, tables), folder_digest(PACKAGE))


def work_off(sent: Parcel, ask: Callable[..., object], tell: Callable[[str], object]) -> Returned:
    """Run the job of a parcel on this machine, and end its process if this one is interrupted.

    A run with workers has them on this machine, not on the cluster. `ask(what, *about)` asks the driver's store, as in
    `upstream.answering`; `tell(text)` says how far the job is. Raises `InputError` if this machine has another version of
    the package.
    """
    if folder_digest(PACKAGE) != sent.code:
        raise InputError(f"{PACKAGE} on this machine is another version of the package; install the driver's on all machines")
    with tempfile.TemporaryDirectory(prefix="icdpo-node-") as own:
        folder, reports = Path(own) / "attempt", Path(own) / "reports"
        _set_up(sent, folder, reports)
        socket = Path(own) / "store.socket"
        with answering(socket, ask):
            told_to_it = {"ICDPO_STORE": str(Path(own) / "store"), UPSTREAM: str(socket), "RAY_ADDRESS": ""}
            process = start(folder, told_to_it, {"TQDM_DISABLE": "1"})
            try:
                told = ""
                while (code := process.poll()) is None:
                    time.sleep(LOOK_SECONDS)
                    state = folder / STATE
                    if state.exists() and (text := state.read_text(encoding="utf-8")) != told:
                        tell(told := text)
            finally:
                end([process] if process.poll() is None else [])
        made = [path for path in sorted(reports.glob("*/*")) if path.parent.name.startswith(load_job(folder / JOB).run_id)]
        return Returned(code, _packed(reports, made), (folder / OUT).read_bytes(), (folder / ERR).read_bytes())


def _set_up(sent: Parcel, folder: Path, reports: Path) -> None:
    """Make the folders of an attempt and of reports as the driver has them."""
    folder.mkdir()
    reports.mkdir()
    unpack(sent.reports, reports)
    (folder / JOB).write_bytes(sent.job)
    dataclasses.replace(load_job(folder / JOB), out=reports).save(folder / JOB)
    where = sent.where if os.path.isdir(sent.where) else str(folder)
    (folder / WHERE).write_text(where, encoding="utf-8")


def _packed(root: Path, files: Iterable[Path]) -> bytes:
    """Files below a folder as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for path in files:
            tar.add(path, str(path.relative_to(root)))
    return archive.getvalue()


def unpack(archive: bytes, root: Path) -> None:
    """Write the files of `_packed` below a folder."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(root, filter="data")


def place(archive: bytes, out: Path) -> None:
    """Put the reports of an archive into a folder of reports, each whole or not at all, in the place of older ones."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".returned-") as hidden:
        unpack(archive, Path(hidden))
        for report in [path for path in Path(hidden).iterdir() if path.is_dir()]:
            if (out / report.name).exists():
                (out / report.name).rename(Path(hidden) / f"older {report.name}")
            report.rename(out / report.name)
