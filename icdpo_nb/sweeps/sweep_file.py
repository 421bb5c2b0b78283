"""The form of a sweep file: notebooks × presets × a grid of parameters × seeds, without what is excluded.

```yaml
notebooks: [01_method, 04_consistency_mrr]  # or one
presets: [smollm2, none]                    # optional; none for a run without a preset
parameters: {n_prompts: 20}                 # for every run
grid: {lms: [sandbox-small, sandbox-medium], n_candidates: [3, 8]}
seeds: [0, 1, 2]
exclude: [{lms: sandbox-small, n_candidates: 8}]
timeout: 3600                               # seconds for each notebook, optional
on: {backend: local, jobs: 2}               # where it runs, see docs/sweeps.md
```

A parameter must be known to one of the notebooks and is given to those that have it. Where another notebook lacks it but has
one of almost the same name (`lm` for `lms`), that notebook was probably meant, too, so this is refused.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from ..common.errors import InputError, hint
from ..reports.job import Job, open_notebook, read_job
from ..reports.parameters import Entry, Parameter, check_parameters, read_yaml

SECTIONS = {  # of the file, and what stands there
    "notebooks": "names of notebooks",
    "presets": "names of presets, or none",
    "parameters": "a mapping of parameters to values",
    "grid": "a mapping of parameters to lists of values",
    "seeds": "whole numbers",
    "exclude": "a list of mappings, each with the settings of runs that are left out",
    "timeout": "a number of seconds",
    "on": "a mapping: the backend and its options",
}
MAPPINGS = ("parameters", "grid", "on")
NO_PRESET = "none"
ALIKE = 0.75  # from which on one name may be meant for another: lm and lms have 0.8


class SweepFile:
    """The sections of a sweep file, checked. Raises `InputError`, with file and line, for what no run could be made of."""

    def __init__(self, path: Path, out: Path | str | None = None):
        self.path, self.out = path, out
        self.sections = {entry.name: entry for entry in read_yaml(path, "sections such as `notebooks: [01_method]`")}
        for name, entry in self.sections.items():
            if name not in SECTIONS:
                raise self.wrong(name, f"unknown section {name!r}; {hint(name, sorted(SECTIONS))}")
            if name in MAPPINGS and entry.value is not None and not isinstance(entry.value, dict):
                raise self.wrong(name, f"{name} must be {SECTIONS[name]}")
        names = [str(name).removesuffix(".ipynb") for name in self._list("notebooks")]
        if not names:
            raise InputError(f"{path}: no notebook named; write for example `notebooks: [01_method]`")
        opened = [self._try(self.sections["notebooks"], open_notebook, name) for name in names]
        self.declared: dict[str, dict[str, Parameter]] = {n: own for n, (_, own) in zip(names, opened, strict=True)}
        self.presets = [None if p in (NO_PRESET, None) else str(p) for p in self._list("presets")] or [None]
        self.on: dict[str, object] = dict(self.sections["on"].value or {}) if "on" in self.sections else {}
        self.fixed = {e.name: e.value for e in self._checked("parameters")}
        self.grid = {e.name: _values(e.value) for e in self._checked("grid")}
        self.seeds = self._seeds()
        self.exclude: Sequence[Mapping[str, object]] = self._exclude()
        self.timeout = self._timeout()

    def wrong(self, section: str, said: str) -> InputError:
        """A complaint about a section."""
        return _wrong(self.path, self.sections[section], said)

    def combinations(self) -> Iterator[tuple[str, str | None, dict, int | None]]:
        """Notebook, preset, values of the grid's parameters, and seed, of every run."""
        for notebook, preset in product(self.declared, self.presets):
            own = {name: values for name, values in self.grid.items() if name in self.declared[notebook]}
            for values in product(*own.values()):
                for seed in self.seeds or [None]:
                    yield notebook, preset, dict(zip(own, values, strict=True)), seed

    def job(self, notebook: str, preset: str | None, chosen: Mapping[str, object]) -> Job:
        """The job of a run: its preset, then `parameters`, then the grid's values and the seed."""
        own = {name: value for name, value in self.fixed.items() if name in self.declared[notebook]}
        entry = self.sections["presets" if preset else "notebooks"]
        return self._try(entry, read_job, notebook, {**own, **chosen}, preset, self.out, self.timeout, True)

    def setting(self, job: Job, chosen: Mapping[str, object], seed: int | None) -> dict:
        """What distinguishes a run: notebook and preset if there are several, the grid's parameters, the seed."""
        several = {"notebook": job.notebook} if len(self.declared) > 1 else {}
        several |= {"preset": job.preset or NO_PRESET} if len(self.presets) > 1 else {}
        varied = {name: job.values[name] for name in chosen if len(self.grid[name]) > 1}
        return several | varied | ({"seed": seed} if len(self.seeds) > 1 else {})

    def matches(self, excluded: Mapping[str, object], job: Job) -> bool:
        """Whether a run has all settings of an exclusion."""
        plain = {"notebook": job.notebook, "preset": job.preset or NO_PRESET}
        declared = self.declared[job.notebook]
        for name, value in excluded.items():
            if name in plain:
                if str(value).removesuffix(".ipynb") != plain[name]:
                    return False
            elif name not in declared or check_parameters({name: value}, declared, job.notebook)[name] != job.values[name]:
                return False
        return True

    def _list(self, section: str) -> list:
        """The values of a section, one or several."""
        return _values(self.sections[section].value) if section in self.sections else []

    def _checked(self, section: str) -> tuple[Entry, ...]:
        """The parameters of a section, each known to a notebook and of its type in all that have it."""
        entries = self.sections[section].inner if section in self.sections else ()
        for entry in entries:
            self._known(entry)
            if section == "grid" and entry.name in self.fixed:
                raise _wrong(self.path, entry, f"{entry.name} stands in parameters, too; keep it in one of them")
            values = _values(entry.value) if section == "grid" else [entry.value]
            if not values:
                raise _wrong(self.path, entry, f"{entry.name} has no values; name at least one")
            for value in values:
                self._check(entry, entry.name, value)
        return entries

    def _known(self, entry: Entry) -> None:
        """Raises `InputError` for a name that no notebook has, or that one lacks which has one of almost the same name."""
        known = {name for declared in self.declared.values() for name in declared}
        if entry.name not in known:
            said = f"no notebook here has a parameter {entry.name!r}; {hint(entry.name, sorted(known))}"
            raise _wrong(self.path, entry, said)
        for notebook, declared in self.declared.items():
            near = difflib.get_close_matches(entry.name, declared, 1, ALIKE)
            if entry.name not in declared and near and near[0] not in self._names():
                said = f"{notebook} has no parameter {entry.name!r}, but {near[0]!r}; give that, too, or leave the notebook out"
                raise _wrong(self.path, entry, said)

    def _names(self) -> set[str]:
        return {e.name for section in ("parameters", "grid") if section in self.sections for e in self.sections[section].inner}

    def _check(self, entry: Entry, name: str, value: object) -> None:
        """Check a value in every notebook that has the parameter."""
        for notebook, declared in self.declared.items():
            if name in declared:
                self._try(entry, check_parameters, {name: value}, declared, notebook)

    def _seeds(self) -> list[int]:
        seeds = self._list("seeds")
        if seeds and "seed" in self._names():
            raise self.wrong("seeds", "seed stands in parameters or grid, too; keep it in one of them")
        for seed in seeds:
            self._check(self.sections["seeds"], "seed", seed)
        return list(dict.fromkeys(seeds))

    def _exclude(self) -> list[Mapping[str, object]]:
        for excluded in self._list("exclude"):
            if not isinstance(excluded, dict) or not excluded:
                raise self.wrong("exclude", f"exclude must be {SECTIONS['exclude']}")
            for name, value in excluded.items():
                if name not in ("notebook", "preset"):
                    entry = Entry(str(name), value, self.sections["exclude"].line)
                    self._known(entry)
                    self._check(entry, entry.name, value)
        return self._list("exclude")

    def _timeout(self) -> float | None:
        seconds = self.sections["timeout"].value if "timeout" in self.sections else None
        if seconds is None:
            return None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
            raise self.wrong("timeout", f"timeout must be {SECTIONS['timeout']}, not {seconds!r}")
        return float(seconds)

    def _try(self, entry: Entry, action: Callable, *given: object):
        """What an action returns; where it complains, the file and line are said, too."""
        try:
            return action(*given)
        except InputError as error:
            raise _wrong(self.path, entry, str(error)) from None


def _wrong(path: Path, entry: Entry, said: str) -> InputError:
    return InputError(f"{path}, line {entry.line}: {said}")


def _values(value: object) -> list:
    """One value or several as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
