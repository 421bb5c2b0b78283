"""Reports: run a notebook through papermill with strict parameters, render it as one offline HTML file, update the front page.

A run leaves `reports/<run>/` with report.html, the executed notebook, its tables, headline.json and run.json.
The folder appears whole or not at all, and takes the place of an older one only when the run is done. A run that broke, met bad
input, timed out or was interrupted leaves its notebook, as far as it came, and a run.json that says why, in `<run>.failed`. Of
a run that was killed a hidden folder stays, which the next run clears.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ..common.errors import InputError
from ..common.escaping import scrubbed
from ..common.files import write_whole
from ..common.notes import NOTE
from ..store.claims import alive, owner
from .front import write_front_page
from .html import is_done, read_record, to_html
from .job import Job, read_job
from .progress import Listener, Progress, said_once
from .run import RUN_DIR, git_revision, provenance, versions, writing
from .runner import RunError, execute, unfinished

OWNER = ".icdpo-run"  # in the hidden folder of a run: the process that makes it


def run_notebook(
    name: str,
    parameters: Mapping[str, object],
    out: Path | str | None = None,
    listener: Listener | None = None,
    timeout: float | None = None,
) -> Path:
    """Run a notebook and render it; `run_job` of `read_job` with these arguments."""
    return run_job(read_job(name, parameters, None, out, timeout), listener)


def run_job(job: Job, listener: Listener | None = None) -> Path:
    """Run a notebook and render it. Returns the folder of its report.

    `listener` is told how far the run is, see `progress`. Raises `InputError` for bad input while running, and `RunError` if
    the notebook does not come to its end for another reason; what was run is then kept as failed, and stands on the front page.
    """
    record = {"run": job.run_id, "notebook": job.notebook, "title": job.title, "preset": job.preset}
    record |= {"parameters": job.values, "seed": job.values.get("seed"), "origins": job.origins}
    with writing(job.out):
        job.out.mkdir(parents=True, exist_ok=True)
        try:
            with hidden_folder(job.out, job.run_id) as hidden:
                folder = hidden / job.run_id
                folder.mkdir()
                _run(job, record, folder, listener)
        except (InputError, RunError, KeyboardInterrupt):
            with suppress(OSError):  # the disk may be full; why the run failed is what matters
                write_front_page(job.out)
            raise
        write_front_page(job.out)
    return job.folder


def is_current(job: Job) -> bool:
    """Whether the report is there, and would come out the same again.

    It had the same values of all parameters, defaults included, the same code, library versions and files: see `origins`.
    """
    record = read_record(job.folder / "run.json")
    return is_done(record) and record.get("parameters") == job.values and record.get("origins") == job.origins


@contextmanager
def hidden_folder(out: Path, run_id: str) -> Iterator[Path]:
    """A hidden folder for a run, which names its process; those whose process was killed are cleared first."""
    for mark in out.glob(f".*/{OWNER}"):
        with suppress(OSError):  # another run clears it, too
            if not alive(mark.read_text(encoding="utf-8")):
                shutil.rmtree(mark.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{run_id}-") as hidden:
        write_whole(Path(hidden) / OWNER, owner())
        yield Path(hidden)


def _run(job: Job, record: dict, folder: Path, listener: Listener | None) -> None:
    """Run a notebook in a folder, and put that in its place: under its name if all is well, else as `<name>.failed`."""
    began, done, failed = time.time(), job.folder, job.out / f"{job.run_id}.failed"
    note = folder.resolve().with_name("note")  # in the hidden folder, which goes
    progress = Progress(job.run_id, job.node.cells, read_record(done / "run.json"), listener, note)
    environment = {RUN_DIR: str(folder.resolve()), NOTE: str(note)}
    try:
        with nullcontext() if listener else said_once(job.run_id, note):
            execute(job.node, folder / "notebook.ipynb", job.given, environment, job.timeout, progress.enter)
        progress.enter(len(job.node.cells))
        record["cells"] = progress.seconds
        _complete(record, folder, began, "done")
        footer = f"{folder.name} · finished {record['finished']} after {record['seconds']:.0f} s · {record['provenance']}"
        files = sorted(p.name for p in folder.iterdir() if p.suffix in (".ipynb", ".jsonl", ".csv", ".json"))
        about = {"command": job.command, "files": files}
        write_whole(folder / "report.html", to_html(folder / "notebook.ipynb", record["title"], footer, about))
        place(folder, done)
        shutil.rmtree(failed, ignore_errors=True)  # of an earlier attempt
    except (Exception, KeyboardInterrupt) as error:
        reason = _reason(error, folder)
        with suppress(OSError) if isinstance(error, InputError) else nullcontext():  # it may say just that the disk is full
            _complete(record | {"exception": reason}, folder, began, "failed")
            place(folder, failed)
        if isinstance(error, InputError | RunError | KeyboardInterrupt):
            raise
        raise RunError(reason) from error


def _complete(record: dict, folder: Path, began: float, status: str) -> None:
    """Complete a run's record with how it ended and what it left in its folder, and write run.json."""
    _scrub(folder)
    record |= {"status": status, "exception": record.get("exception")}
    record |= {"git": git_revision(), "versions": versions(), "provenance": provenance()}
    record |= {"began": clock(began), "finished": clock(time.time()), "seconds": round(time.time() - began, 1)}
    record |= {name: read_record(folder / f"{name}.json") for name in ("headline", "uses", "workers")}
    work = folder / "work.jsonl"
    record["work"] = (
        [json.loads(line) for line in work.read_text(encoding="utf-8").strip().split("\n")] if work.exists() else []
    )
    record["tokens"] = sum(row.get("tokens", 0) for row in record["work"])
    record["added tokens"] = sum(row.get("added tokens", 0) for row in record["work"])
    write_whole(folder / "run.json", scrubbed(json.dumps(record, indent=1, ensure_ascii=False)) + "\n")


def _scrub(folder: Path) -> None:
    """Take keys and tokens out of whatever the cells of a run printed or kept."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".csv", ".ipynb"):
            text = path.read_text(encoding="utf-8")
            if (clean := scrubbed(text)) != text:
                write_whole(path, clean)


def _reason(error: BaseException, folder: Path) -> str:
    """Why a run ended, for its record."""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted in cell {unfinished(folder / 'notebook.ipynb')}"
    if isinstance(error, InputError):
        return f"bad input: {error}"
    return f"{error.how}: {error}" if isinstance(error, RunError) else f"{type(error).__name__}: {error}"


def place(folder: Path, target: Path) -> None:
    """Put a run's folder where an older one may be; at no moment are both gone."""
    if target.exists():
        target.rename(folder.with_name("older"))  # in the hidden folder, which goes
    folder.rename(target)


def clock(seconds: float) -> str:
    """A time since 1970 as records say it, in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
