"""A sweep: the runs that a file asks for, as jobs that are all checked, with what distinguishes each from the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..common.errors import InputError
from ..reports.html import read_record
from ..reports.job import Job, notebook_names
from ..statistics.findings import listed
from .sweep_file import SweepFile

NOTEBOOK = "sweep"  # what the record of a combined report says in place of a notebook's name


@dataclass(frozen=True)
class Sweep:
    """A grid of runs. `settings`: for each job, what distinguishes it from the others, by column of the combined report."""

    name: str
    jobs: tuple[Job, ...]
    settings: tuple[Mapping[str, object], ...]
    on: Mapping[str, object] = field(default_factory=dict)

    @property
    def notebooks(self) -> list[str]:
        """The notebooks, in the order of the file."""
        return list(dict.fromkeys(job.notebook for job in self.jobs))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs, if several were asked for."""
        return list(dict.fromkeys(s["seed"] for s in self.settings if "seed" in s))

    @property
    def varied(self) -> list[str]:
        """The columns in which the settings differ, without the seed."""
        return list(dict.fromkeys(column for s in self.settings for column in s if column != "seed"))

    @property
    def title(self) -> str:
        """The sweep's question."""
        of = listed(self.notebooks)
        if varied := [column for column in self.varied if column != "notebook"]:
            return f"How do the answers of {of} depend on {listed(varied)}?"
        if self.seeds:
            return f"How much do the answers of {of} vary between {len(self.seeds)} seeds?"
        return f"What {'does' if len(self.notebooks) == 1 else 'do'} {of} find?"

    def after(self) -> list[set[int]]:
        """For each job the numbers of those whose reports it reads."""
        return [{i for i, other in enumerate(self.jobs) if other.notebook in job.reads} for job in self.jobs]


def read_sweep(path: Path | str, out: Path | str | None = None) -> Sweep:
    """The sweep of a file, named after it. `out`: the folder of reports.

    Raises `InputError`, with file and line, for anything that a run would refuse before it begins.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{path}: not a sweep; give a YAML file, for example docs/examples/sweep.yaml")
    if path.stem.startswith(".") or any(path.stem == n or path.stem.startswith(f"{n}-") for n in notebook_names()):
        raise InputError(f"{path}: a sweep's report stands beside those of the notebooks; give the file a name of its own")
    file = SweepFile(path, out)
    found = _jobs(file)
    place = found[0][0].out / path.stem
    if place.exists() and read_record(place / "run.json").get("notebook") != NOTEBOOK:
        raise InputError(f"{place}: there is something else than a sweep's report; move it, or give {path} another name")
    return Sweep(path.stem, tuple(job for job, _ in found), tuple(setting for _, setting in found), file.on)


def _jobs(file: SweepFile) -> list[tuple[Job, dict]]:
    """Every job of a sweep with its setting, once; those that are excluded left out."""
    found: dict[str, tuple[Job, dict]] = {}
    hits = [0] * len(file.exclude)
    for notebook, preset, chosen, seed in file.combinations():
        job = file.job(notebook, preset, chosen if seed is None else {**chosen, "seed": seed})
        if excluded := [i for i, settings in enumerate(file.exclude) if file.matches(settings, job)]:
            hits = [n + (i in excluded) for i, n in enumerate(hits)]
            continue
        same, _ = found.setdefault(job.run_id, (job, file.setting(job, chosen, seed)))
        if same.values != job.values:
            raise InputError(f"{file.path}: two runs would both be called {job.run_id}; change a parameter of one of them")
    if 0 in hits:
        raise file.wrong("exclude", f"exclusion {hits.index(0) + 1} fits no run; correct or remove it")
    if not found:
        raise InputError(f"{file.path}: every run is excluded; leave some")
    return list(found.values())


@dataclass(frozen=True)
class Outcome:
    """How a job of a sweep ended. `reason`: why it failed, "" if it did not; `was`: it was done before."""

    job: Job
    code: int
    reason: str = ""
    tries: int = 0

    @property
    def was(self) -> bool:
        """Whether its report was there already."""
        return not self.tries
