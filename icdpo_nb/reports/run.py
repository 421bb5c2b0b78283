"""The run of a notebook: `run = nb.start(globals())` at its top, `run.save(...)` for tables, `run.finish(...)` at its end."""

import json
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from ..common.errors import InputError
from ..common.escaping import TEXT_CHARACTERS, escaped
from ..common.files import checksum
from ..models.workers import account, choose_workers, close_workers
from .parameters import check_value

RUN_DIR = "ICDPO_RUN_DIR"  # set by the runner: where a batch run leaves its results
PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers", "rank-bm25", "numpy", "scipy", "pandas")


@dataclass(frozen=True)
class Run:
    """The run of one notebook."""

    parameters: dict
    folder: Path | None  # None when the notebook is run by hand

    def save(self, name: str, table: pd.DataFrame) -> None:
        """Write a table next to the report, as JSON Lines and as CSV; does nothing when the notebook runs interactively.

        In CSV a text that a spreadsheet would read as a formula is quoted.
        """
        if self.folder:
            path = self.folder / _file_name(name)
            with writing(self.folder):
                table.to_json(f"{path}.jsonl", orient="records", lines=True, force_ascii=False)
                table.map(_no_formula).to_csv(f"{path}.csv", index=False)

    def uses(self, models: Mapping[str, object], data: Mapping[str, object], **others: object) -> None:
        """Keep what the run rests on, with digests, for run.json: models, preference sets, an encoder, a reward."""
        kept = {
            "models": {n: {"fingerprint": m.fingerprint, "dtype": m.dtype, "device": m.device} for n, m in models.items()},
            "data": {n: {"name": d.name, "revision": d.revision, "sha256": d.sha256} for n, d in data.items()},
            "others": {n: {"name": o.name, "fingerprint": o.fingerprint} for n, o in others.items()},
        }
        if self.folder:
            with writing(self.folder):
                (self.folder / "uses.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    def sibling(self, name: str, named: str = "") -> Path | None:
        """The folder of another notebook's run in the same reports folder, if there is one; or that which is `named`.

        Run by hand, from JupyterLab say, a notebook looks in the project's reports. A relative `named` begins at the project.
        Raises `InputError` if there is no run where one is named.
        """
        if named:
            folder = project() / Path(named).expanduser()
            if not (folder / "run.json").exists():
                raise InputError(f"{folder}: no run there; give the folder of a finished run, for example reports/{name}")
            return folder
        folder = (self.folder.parents[1] if self.folder else project() / "reports") / name
        return folder if (folder / "run.json").exists() else None

    def finish(self, **headline: object) -> None:
        """The notebook's headline numbers, shown and kept beside the report as headline.json. Workers end here."""
        text = json.dumps(_plain(headline), indent=1, ensure_ascii=False, allow_nan=False)
        if self.folder:
            with writing(self.folder):
                (self.folder / "headline.json").write_text(text + "\n", encoding="utf-8")
                if used := account():
                    (self.folder / "workers.json").write_text(json.dumps(used, indent=1) + "\n", encoding="utf-8")
        close_workers()
        shown = escaped(text, TEXT_CHARACTERS)
        display(HTML(f'<details class="code"><summary>headline numbers (JSON)</summary><pre>{shown}</pre></details>'))


def project() -> Path:
    """The project's folder: the nearest to the current one, itself included, that holds notebooks/ and reports/.

    The current folder where there is none, as for a package installed without its project.
    """
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if (f / "notebooks").is_dir() and (f / "reports").is_dir()), here)


def reports_folder() -> Path:
    """The project's folder of reports, from the current folder."""
    return Path(os.path.relpath(project() / "reports"))


@contextmanager
def writing(folder: Path):
    """Says in one sentence that a folder cannot be written, or that the disk is full."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"the run cannot be kept in {folder} ({why}); free some space or choose another folder") from None


def _no_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _file_name(name: str) -> str:
    """A name that may hold paths, markup or anything else as a file name, and distinct ones as distinct ones."""
    plain = re.sub(r"[^\w.+-]", "-", name)
    if plain == name and len(name) <= 100:
        return name
    return f"{plain[:30]}-{checksum(name)[:8]}-{plain[-50:]}"


def start(namespace: dict, seed: int | None = None) -> Run:
    """Begin a notebook: check its annotated parameters, seed, set the figure style, show the provenance.

    `namespace` is the notebook's `globals()`; a parameter is an annotated name (`n_prompts: int = 8`). Raises `InputError`
    for a value of another type.
    """
    from . import figures

    declared = namespace.get("__annotations__", {})
    parameters = {name: check_value(name, namespace[name], kind) for name, kind in declared.items() if name in namespace}
    namespace.update(parameters)
    choose_workers(parameters.get("workers", 1))
    seed = parameters.get("seed", 0) if seed is None else seed
    random.seed(seed)
    np.random.seed(seed % 2**32)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries; they are not for a report's reader
    warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a figure's font lacks a script of the data
    figures.set_style()
    folder = os.environ.get(RUN_DIR)
    if folder:
        _quiet()
    settings = ", ".join(f"{k} = {v!r}" for k, v in parameters.items())
    display(HTML(f'<p class="provenance">{escaped(provenance())}<br>parameters: {escaped(settings)}</p>'))
    return Run(parameters, Path(folder) if folder else None)


def provenance() -> str:
    """Versions and git revision of this run, in one line."""
    named = versions()
    packages = ", ".join(f"{p} {named[p]}" for p in ("torch", "transformers", "sentence-transformers", "rank-bm25"))
    return f"icdpo-nb {named['icdpo-nb']} (git {git_revision()}), Python {named['python']}, {packages}"


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that results depend on."""
    return {"python": sys.version.split()[0], "icdpo-nb": version("icdpo-nb")} | {p: version(p) for p in PACKAGES}


def git_revision() -> str:
    """Short revision of this source tree, with + for uncommitted changes; "unknown" outside a repository."""
    here = Path(__file__).parent
    try:
        rev = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return rev.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _quiet() -> None:
    """No progress bars and library chatter in a report."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _plain(value: object) -> object:
    """The value in JSON's own types; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
