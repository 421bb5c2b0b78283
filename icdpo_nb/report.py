"""Reports: run a notebook through papermill with strict parameters, render it as one offline HTML file, list it in the gallery.

A run leaves `reports/<run>/` with report.html, the executed notebook, its tables, headline.json and run.json.
The folder appears whole or not at all; only a run that broke half-way leaves its notebook and a run.json that says why, in
`<run>.failed`.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

from .notebook import RUN_DIR, provenance, writing
from .parameters import Parameter, check_parameters, declared_parameters, read_preset
from .protocol import InputError

PACKAGE = Path(__file__).parent
NOTEBOOKS = PACKAGE.parent / "notebooks"
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class RunError(RuntimeError):
    """A notebook that broke for another reason than bad input."""


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


def run_notebook(name: str, parameters: Mapping[str, object], out: Path | str = "reports", progress: bool = False) -> Path:
    """Run a notebook and render it. Returns the run's folder below `out`.

    Texts among `parameters` are read as the declared types. Raises `InputError` for bad input, before or while running (nothing
    is written then), and `RunError` if the notebook breaks.
    """
    node, declared = open_notebook(name)
    given = check_parameters(parameters, declared, name)
    values = {p.name: p.default for p in declared.values()} | given
    out = Path(out)
    run_id = _run_id(name.removesuffix(".ipynb"), given, declared)
    record = {"run": run_id, "notebook": name, "title": _title(node), "parameters": values, "provenance": provenance()}
    with writing(out):
        return _run(node, given, record, out, progress)


def _run(node, given: Mapping[str, object], record: dict, out: Path, progress: bool) -> Path:
    run_id = record["run"]
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out, prefix=f".{run_id}-"))
    folder.chmod(0o755)
    began = time.time()
    try:
        _execute(node, folder, given, progress)
        _record(folder, record, began, "done")
        footer = f"{run_id} · finished {record['finished']} after {record['seconds']:.0f} s · {record['provenance']}"
        (folder / "report.html").write_text(to_html(folder / "notebook.ipynb", record["title"], footer), encoding="utf-8")
        _replace(folder, out / run_id)
    except RunError as error:
        _record(folder, record | {"exception": str(error)}, began, "failed")
        _replace(folder, out / f"{run_id}.failed")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_gallery(out)
    return out / run_id


def _record(folder: Path, record: dict, began: float, status: str) -> None:
    """Complete a run's record with what it left in its folder, and write run.json."""
    record["status"], record["seconds"] = status, round(time.time() - began, 1)
    record["finished"] = time.strftime("%Y-%m-%d %H:%M:%S")
    record["headline"], record["uses"] = (_left(folder / f"{name}.json", {}) for name in ("headline", "uses"))
    work = folder / "work.jsonl"
    record["work"] = [json.loads(line) for line in work.read_text(encoding="utf-8").splitlines()] if work.exists() else []
    (folder / "run.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def finished(name: str, parameters: Mapping[str, object], out: Path | str = "reports") -> Path | None:
    """The folder of a run of this notebook with these parameters that is done, of the present code; or None."""
    _, declared = open_notebook(name)
    given = check_parameters(parameters, declared, name)
    folder = Path(out) / _run_id(name.removesuffix(".ipynb"), given, declared)
    record = _left(folder / "run.json", {})
    return folder if _is_done(record) and record.get("provenance") == provenance() else None


def _is_done(record: object) -> bool:
    """Whether this is the record of a finished run; one that cannot be read is none."""
    return isinstance(record, dict) and record.get("status") == "done" and {"run", "finished", "headline"} <= record.keys()


def _execute(node, folder: Path, given: Mapping[str, object], progress: bool) -> None:
    import papermill
    from traitlets.config import Config

    encrypted = Config({"KernelManager": {"transport_encryption": "auto"}})  # kernels listen on ports that others may reach
    with _environment({**QUIET, RUN_DIR: str(folder.resolve())}):
        try:
            papermill.execute_notebook(
                node,
                str(folder / "notebook.ipynb"),
                dict(given),
                kernel_name="python3",
                language="python",
                progress_bar=progress,
                config=encrypted,
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == "InputError":
                raise InputError(error.evalue) from None
            raise RunError(f"{error.ename} in cell {error.cell_index}: {error.evalue}") from None
        except (RuntimeError, TimeoutError) as error:  # a dead kernel or a cell's time-out
            raise RunError(f"{type(error).__name__}: {error}") from None


@contextmanager
def _environment(settings: Mapping[str, str]):
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run_id(stem: str, given: Mapping[str, object], declared: Mapping[str, Parameter]) -> str:
    """`01_method` for the defaults, `01_method-3f2a9c` for other parameters; the same parameters give the same id."""
    changed = {k: v for k, v in given.items() if declared[k].default != v}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6]
    return f"{stem}-{digest}" if changed else stem


def _replace(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)


def _title(node) -> str:
    first = next((c.source for c in node.cells if c.cell_type == "markdown"), "")
    return first.lstrip("# ").split("\n")[0]


def _left(path: Path, default: object) -> object:
    """The JSON that lies at a path, if any that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return default


# ---------------------------------------------------------------- HTML


def to_html(notebook: Path, title: str, footer: str) -> str:
    """One HTML file without scripts or outside addresses; code is folded, parameters and outputs are visible."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="report_template", extra_template_basedirs=[str(PACKAGE)])
    css = (PACKAGE / "report_template" / "style.css").read_text(encoding="utf-8")
    report = {"title": title, "footer": footer, "css": css}
    body, _ = exporter.from_filename(str(notebook), resources={"report": report})
    return body


def write_gallery(out: Path | str) -> Path:
    """`index.html` below `out`: every finished run, newest first."""
    from jinja2 import Environment, FileSystemLoader

    out = Path(out)
    runs = [run for path in out.glob("*/run.json") if _is_done(run := _left(path, {}))]
    runs.sort(key=lambda r: r["finished"], reverse=True)
    environment = Environment(loader=FileSystemLoader(PACKAGE / "report_template"), autoescape=True)
    page = environment.get_template("gallery.html.j2").render(
        runs=runs, css=(PACKAGE / "report_template" / "style.css").read_text(encoding="utf-8")
    )
    partial = out / ".index.html.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, out / "index.html")
    return out / "index.html"
