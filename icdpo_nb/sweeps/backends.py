"""The backends by name."""

from collections.abc import Mapping

from ..common.errors import InputError, hint
from .backend import Backend
from .local import Local
from .over_ray import OverRay
from .slurm import Slurm

BACKENDS = {"local": Local, "slurm": Slurm, "ray": OverRay}  # name -> made of the options in a sweep file and -j


def open_backend(on: Mapping[str, object], name: str | None = None, jobs: int | None = None) -> Backend:
    """The backend of a sweep file's section `on`, or another by its name. `jobs`: runs at a time, if given.

    The options of the section belong to its own backend, and do not count for another. Raises `InputError` for an unknown
    backend or option, and where a package is missing.
    """
    of_file = str(on.get("backend", "local"))
    name = name or of_file
    if name not in BACKENDS:
        raise InputError(f"there is no backend {name!r}; {hint(name, BACKENDS)}")
    options = {key: value for key, value in on.items() if key != "backend"} if name == of_file else {}
    return BACKENDS[name](options, jobs)
