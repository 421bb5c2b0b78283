"""Reports: run a notebook through papermill with strict parameters, render it as one offline HTML file, list it in the gallery.

A run leaves `reports/<run>/` with report.html, the executed notebook, its tables, headline.json and run.json.
The folder appears whole or not at all, and takes the place of an older one only when the run is done. A run that broke, met bad
input, timed out or was interrupted leaves its notebook, as far as it came, and a run.json that says why, in `<run>.failed`. Of
a run that was killed a hidden folder stays, which the next run clears.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ..common.errors import InputError
from ..common.escaping import scrubbed
from ..store.store import alive, owner
from .html import is_done, read_record, to_html, write_gallery, write_text
from .origins import origins
from .parameters import Parameter, check_parameters, declared_parameters, read_preset
from .progress import Listener, Progress
from .run import RUN_DIR, git_revision, project, provenance, versions, writing
from .runner import RunError, execute, unfinished

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
OWNER = ".icdpo-run"  # in the hidden folder of a run: the process that makes it


def notebook_names() -> list[str]:
    """The names of all notebooks, in reading order."""
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def open_notebook(name: str):
    """The notebook `name` (with or without .ipynb) and its declared parameters. Raises `InputError` if there is none."""
    import difflib

    import nbformat

    stem = name.removesuffix(".ipynb")
    if stem not in notebook_names():
        near = difflib.get_close_matches(stem, notebook_names(), 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(notebook_names())}"
        raise InputError(f"there is no notebook {name!r}; {hint}")
    path = NOTEBOOKS / f"{stem}.ipynb"
    try:
        node = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{path}: not a notebook ({str(error).splitlines()[0][:80]}); open and save it in Jupyter") from None
    cells = [c for c in node.cells if "parameters" in c.metadata.get("tags", [])]
    return node, declared_parameters(cells[0].source) if cells else {}


def preset_parameters(preset: str, notebook: str) -> dict[str, object]:
    """The parameters of `notebooks/presets/<preset>.yaml`, checked for a notebook. Raises `InputError`."""
    path = NOTEBOOKS / "presets" / f"{preset}.yaml"
    known = sorted(p.stem for p in path.parent.glob("*.yaml"))
    if preset not in known:
        raise InputError(f"there is no preset {preset!r}; there are {', '.join(known) or 'none'}")
    return read_preset(path, open_notebook(notebook)[1], notebook)


def run_notebook(
    name: str,
    parameters: Mapping[str, object],
    out: Path | str | None = None,
    listener: Listener | None = None,
    timeout: float | None = None,
) -> Path:
    """Run a notebook and render it. Returns the run's folder below `out`, which is the project's `reports` if none is given.

    Texts among `parameters` are read as the declared types. `listener` is told how far the run is, see `progress`. `timeout`:
    seconds that the notebook may take. Raises `InputError` for bad input before running, when nothing is written, or while
    running, and `RunError` if the notebook does not come to its end for another reason; what was run is then kept as failed.
    """
    node, declared = open_notebook(name)
    given = check_parameters(parameters, declared, name)
    values = {p.name: p.default for p in declared.values()} | given
    out = Path(out) if out else reports_folder()
    run_id = _run_id(name.removesuffix(".ipynb"), given, declared)
    record = {"run": run_id, "notebook": name, "title": _title(node), "parameters": values, "seed": values.get("seed")}
    record["origins"] = origins(node, values, out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with _hidden(out, run_id) as hidden:
            folder = hidden / run_id
            folder.mkdir()
            _run(node, given, record, folder, timeout, listener)
        write_gallery(out)
    return out / run_id


def reports_folder() -> Path:
    """The project's folder of reports, from the current folder."""
    return Path(os.path.relpath(project() / "reports"))


@contextmanager
def _hidden(out: Path, run_id: str) -> Iterator[Path]:
    """A hidden folder for a run, which names its process; those whose process was killed are cleared first."""
    for mark in out.glob(f".*/{OWNER}"):
        with suppress(OSError):  # another run clears it, too
            if not alive(mark.read_text(encoding="utf-8")):
                shutil.rmtree(mark.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{run_id}-") as hidden:
        write_text(Path(hidden) / OWNER, owner())
        yield Path(hidden)


def _run(node, given: dict, record: dict, folder: Path, timeout: float | None, listener: Listener | None) -> None:
    """Run a notebook in a folder, and put that beside its parent: under its name if all is well, else as `<name>.failed`."""
    began, done, failed = time.time(), folder.parents[1] / folder.name, folder.parents[1] / f"{folder.name}.failed"
    progress = Progress(folder.name, node.cells, read_record(done / "run.json"), listener)
    try:
        execute(node, folder / "notebook.ipynb", given, {RUN_DIR: str(folder.resolve())}, timeout, progress.enter)
        progress.enter(len(node.cells))
        record["cells"] = progress.seconds
        _complete(record, folder, began, "done")
        footer = f"{folder.name} · finished {record['finished']} after {record['seconds']:.0f} s · {record['provenance']}"
        write_text(folder / "report.html", to_html(folder / "notebook.ipynb", record["title"], footer))
        _place(folder, done)
        shutil.rmtree(failed, ignore_errors=True)  # of an earlier attempt
    except (Exception, KeyboardInterrupt) as error:
        reason = _reason(error, folder)
        with suppress(OSError) if isinstance(error, InputError) else nullcontext():  # it may say just that the disk is full
            _complete(record | {"exception": reason}, folder, began, "failed")
            _place(folder, failed)
        if isinstance(error, InputError | RunError | KeyboardInterrupt):
            raise
        raise RunError(reason) from error


def _complete(record: dict, folder: Path, began: float, status: str) -> None:
    """Complete a run's record with how it ended and what it left in its folder, and write run.json."""
    _scrub(folder)
    record |= {"status": status, "exception": record.get("exception")}
    record |= {"git": git_revision(), "versions": versions(), "provenance": provenance()}
    record |= {"began": _clock(began), "finished": _clock(time.time()), "seconds": round(time.time() - began, 1)}
    record |= {name: read_record(folder / f"{name}.json") for name in ("headline", "uses")}
    work = folder / "work.jsonl"
    record["work"] = (
        [json.loads(line) for line in work.read_text(encoding="utf-8").strip().split("\n")] if work.exists() else []
    )
    record["tokens"] = sum(row.get("tokens", 0) for row in record["work"])
    record["added tokens"] = sum(row.get("added tokens", 0) for row in record["work"])
    write_text(folder / "run.json", scrubbed(json.dumps(record, indent=1, ensure_ascii=False)) + "\n")


def _scrub(folder: Path) -> None:
    """Take keys and tokens out of whatever the cells of a run printed or kept."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".ipynb"):
            text = path.read_text(encoding="utf-8")
            if (clean := scrubbed(text)) != text:
                write_text(path, clean)


def _reason(error: BaseException, folder: Path) -> str:
    """Why a run ended, for its record."""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted in cell {unfinished(folder / 'notebook.ipynb')}"
    if isinstance(error, InputError):
        return f"bad input: {error}"
    return f"{error.how}: {error}" if isinstance(error, RunError) else f"{type(error).__name__}: {error}"


def _place(folder: Path, target: Path) -> None:
    """Put a run's folder where an older one may be; at no moment are both gone."""
    if target.exists():
        target.rename(folder.with_name("older"))  # in the hidden folder, which goes
    folder.rename(target)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def finished(name: str, parameters: Mapping[str, object], out: Path | str | None = None) -> Path | None:
    """The folder of a run that is done and would come out the same again; or None.

    It had the same values of all parameters, defaults included, the same code, library versions and files: see `origins`.
    """
    node, declared = open_notebook(name)
    given = check_parameters(parameters, declared, name)
    values, out = {p.name: p.default for p in declared.values()} | given, Path(out) if out else reports_folder()
    folder = out / _run_id(name.removesuffix(".ipynb"), given, declared)
    record = read_record(folder / "run.json")
    same = is_done(record) and record.get("parameters") == values and record.get("origins") == origins(node, values, out)
    return folder if same else None


def _run_id(stem: str, given: Mapping[str, object], declared: Mapping[str, Parameter]) -> str:
    """`01_method` for the defaults, `01_method-3f2a9c` for other parameters; the same parameters give the same id."""
    changed = {k: v for k, v in given.items() if declared[k].default != v}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6]
    return f"{stem}-{digest}" if changed else stem


def _title(node) -> str:
    first = next((c.source for c in node.cells if c.cell_type == "markdown"), "")
    return first.lstrip("# ").split("\n")[0]
