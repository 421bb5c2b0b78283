"""A run before it begins: which notebook, with which parameters, and where its report goes. Made once, then passed on as it is.

Whoever runs it, this process or another, needs nothing else: a job can be saved and loaded.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from ..common.errors import InputError, hint
from ..common.files import checksum
from .origins import origins, reads
from .parameters import Parameter, check_parameters, declared_parameters, read_preset
from .run import reports_folder

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@dataclass(frozen=True)
class Job:
    """One run of a notebook. `read_job` makes it from a name and parameters, and checks both."""

    notebook: str
    node: object  # as nbformat reads it
    given: dict[str, object]  # the parameters that were given
    defaults: dict[str, object]  # of all parameters
    out: Path  # the folder of reports
    timeout: float | None = None  # seconds that the notebook may take
    resume: bool = False  # leave the report as it is if it would come out the same
    preset: str | None = None  # its name
    preset_values: dict[str, object] = field(default_factory=dict)  # the parameters that it gives

    @property
    def values(self) -> dict[str, object]:
        """The value of every parameter."""
        return self.defaults | self.given

    @property
    def run_id(self) -> str:
        """`01_method` for the defaults, `01_method-3f2a9c` for other parameters; the same parameters give the same id."""
        changed = {k: v for k, v in self.given.items() if self.defaults[k] != v}
        return f"{self.notebook}-{checksum(json.dumps(changed, sort_keys=True))[:6]}" if changed else self.notebook

    @property
    def folder(self) -> Path:
        """Where the report will lie."""
        return self.out / self.run_id

    @property
    def title(self) -> str:
        """The notebook's question."""
        first = next((c.source for c in self.node.cells if c.cell_type == "markdown"), "")
        return first.lstrip("# ").split("\n")[0]

    @property
    def command(self) -> str:
        """The command that makes this report again: with the preset where that is shorter than its values."""
        plain = self._command(self.defaults)
        if not self.preset:
            return plain
        return min(plain, self._command(self.defaults | self.preset_values, f"--preset {shlex.quote(self.preset)}"), key=len)

    def _command(self, base: Mapping[str, object], *options: str) -> str:
        """The command that changes parameters from their values in `base`."""
        changed = {k: v for k, v in self.values.items() if base[k] != v}
        values = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in changed.items()}
        given = (f"-p {k} {shlex.quote(v)}" for k, v in values.items())
        return " ".join(["icdpo-nb report", self.notebook, *options, *given])

    @property
    def reads(self) -> tuple[str, ...]:
        """The notebooks whose reports it reads, as its metadata say."""
        return reads(self.node)

    @cached_property
    def origins(self) -> dict:
        """What the report is made from, as digests."""
        return origins(self.node, self.values, self.out)

    def save(self, path: Path) -> None:
        """Write the job as JSON."""
        import nbformat

        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain |= {"out": str(self.out), "node": nbformat.writes(self.node)}
        path.write_text(json.dumps(plain), encoding="utf-8")


def load_job(path: Path | str) -> Job:
    """A job that was saved."""
    import nbformat

    plain = json.loads(Path(path).read_text(encoding="utf-8"))
    return Job(**{**plain, "out": Path(plain["out"]), "node": nbformat.reads(plain["node"], as_version=4)})


def read_job(
    name: str,
    parameters: Mapping[str, object] | None = None,
    preset: str | None = None,
    out: Path | str | None = None,
    timeout: float | None = None,
    resume: bool = False,
) -> Job:
    """A job for the notebook `name` (with or without .ipynb), with the parameters of a preset and, after them, those given.

    Texts are read as the declared types. `out`: the project's `reports` if none is given. Raises `InputError` for bad input.
    """
    node, declared = open_notebook(name)
    read = _of_preset(preset, name.removesuffix(".ipynb"), declared) if preset else {}
    given = read | check_parameters(parameters or {}, declared, name)
    defaults = {p.name: p.default for p in declared.values()}
    folder = Path(out) if out else reports_folder()
    return Job(name.removesuffix(".ipynb"), node, given, defaults, folder, timeout, resume, preset, read)


def notebook_names() -> list[str]:
    """The names of all notebooks, in reading order."""
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def preset_names() -> list[str]:
    """The names of all presets."""
    return sorted(path.stem for path in (NOTEBOOKS / "presets").glob("*.yaml"))


def preset_notebooks(preset: str) -> list[str]:
    """The notebooks that a preset is for, as its comment names them: "For 01_method and 06_fine_tuning"."""
    text = _preset_path(preset).read_text(encoding="utf-8", errors="replace")  # what is wrong with it, `read_preset` says
    listed = re.search(r"\bFor (\d\d_\w+(?:(?:, | and )\d\d_\w+)*)", text)
    return re.findall(r"\d\d_\w+", listed[1]) if listed else []


def _of_preset(preset: str, notebook: str, declared: Mapping[str, Parameter]) -> dict[str, object]:
    """The parameters of a preset. If it is for several notebooks, those that only the others have are left out."""
    named = preset_notebooks(preset)
    others = {p for other in named for p in open_notebook(other)[1]} if notebook in named else set()
    return read_preset(_preset_path(preset), declared, notebook, others)


def open_notebook(name: str) -> tuple[object, dict[str, Parameter]]:
    """The notebook `name` (with or without .ipynb) and its declared parameters. Raises `InputError` if there is none."""
    import nbformat

    stem = name.removesuffix(".ipynb")
    if stem not in notebook_names():
        raise InputError(f"there is no notebook {name!r}; {hint(stem, notebook_names(), cutoff=0.4)}")
    path = NOTEBOOKS / f"{stem}.ipynb"
    try:
        node = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{path}: not a notebook ({str(error).splitlines()[0][:80]}); open and save it in Jupyter") from None
    cells = [c for c in node.cells if "parameters" in c.metadata.get("tags", [])]
    return node, declared_parameters(cells[0].source) if cells else {}


def _preset_path(preset: str) -> Path:
    """The file `notebooks/presets/<preset>.yaml`. Raises `InputError` if there is none."""
    if preset not in preset_names():
        raise InputError(f"there is no preset {preset!r}; there are {', '.join(preset_names()) or 'none'}")
    return NOTEBOOKS / "presets" / f"{preset}.yaml"
