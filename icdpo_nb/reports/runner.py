"""A notebook run by papermill in a kernel of its own, and how that ended: done, bad input, broken, dead kernel or time-out.

papermill marks every cell "completed" after a dead kernel, a time-out or Ctrl-C, so nothing here believes its marks.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..common.errors import InputError
from ..common.escaping import scrubbed

QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
SETTINGS = {
    "KernelManager": {"transport_encryption": "required"},  # a kernel on ports may be reached by others on the machine
    "NotebookClient": {
        "startup_timeout": 300,  # seconds; a kernel that dies ends the wait at once, one on a loaded machine may take minutes
        "shutdown_kernel": "immediate",  # no kernel outlives its run, and none complains about its end
        "kernel_manager_class": "icdpo_nb.reports.kernels.KernelManager",
    },
}


INPUT_ERRORS = ("InputError", "TooLongError", "UnservedError")  # by name, as a kernel tells them


class RunError(RuntimeError):
    """A notebook that broke for another reason than bad input."""

    code, how = 3, "the notebook broke"  # the exit code of the command line, and the beginning of its sentence


class KernelDiedError(RunError):
    """The kernel's process ended before its notebook did."""

    code, how = 4, "dead kernel"


class TimeOutError(RunError):
    """The notebook took longer than it was given."""

    code, how = 5, "time-out"


def execute(
    node,
    target: Path,
    given: Mapping[str, object],
    environment: Mapping[str, str],
    timeout: float | None = None,
    enter: Callable[[int], None] = lambda cell: None,
) -> None:
    """Run a notebook with parameters and keep it, as far as it came, at `target`. `timeout`: seconds for the whole notebook.

    `enter(cell)` is called as each cell of `node` begins, by its number; the cell that papermill adds is none of them.

    Raises `InputError` if the notebook raises one, and `RunError` for anything else that ends it before its last cell.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # the sentence raised here says it
    ends = time.monotonic() + (timeout or 0)
    left = (lambda cell: max(ends - time.monotonic(), 0.1)) if timeout else None
    names = {"kernel_name": "python3", "language": "python", "progress_bar": False}
    settings = Config(SETTINGS)
    settings.NotebookClient.on_cell_start = _counted(enter)
    try:
        with set_environment({**QUIET, **environment}), _kernel_ended():
            papermill.execute_notebook(node, str(target), dict(given), **names, config=settings, timeout_func=left)
    except papermill.PapermillExecutionError as error:
        if error.ename in INPUT_ERRORS:
            raise InputError(error.evalue) from None
        raise RunError(scrubbed(f"{error.ename} in cell {error.cell_index}: {error.evalue}")) from None
    except CellTimeoutError:
        raise TimeOutError(
            f"the run was stopped in cell {unfinished(target)} because it took longer than {timeout:g} s"
        ) from None
    except DeadKernelError:
        raise KernelDiedError(f"the kernel died in cell {unfinished(target)}; perhaps it ran out of memory") from None
    except RuntimeError as error:
        if "transport_encryption" not in str(error):
            raise
        raise InputError(
            "the Jupyter kernel 'python3' is too old to encrypt its connections; pip install -U ipykernel"
        ) from None


def _counted(enter: Callable[[int], None]) -> Callable:
    """What nbclient calls as a cell begins; cells behind the one that holds the given parameters have a number too many."""
    added = []

    def begins(cell, cell_index: int) -> None:
        if "injected-parameters" in cell.metadata.get("tags", []):
            added.append(cell_index)
        else:
            enter(cell_index - len(added))

    return begins


@contextmanager
def _kernel_ended():
    """After an interrupt no kernel is left, even if papermill had started one and did not know it yet."""
    import psutil

    before = set(psutil.Process().children(recursive=True))
    try:
        yield
    except KeyboardInterrupt:
        for process in set(psutil.Process().children(recursive=True)) - before:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise


def unfinished(path: Path) -> int:
    """Correct the marks of a notebook that was stopped, and return the index of the cell that it was stopped in."""
    import nbformat

    if not path.exists():  # before the kernel had started
        return 0
    node = nbformat.read(path, as_version=4)
    last = max((i for i, cell in enumerate(node.cells) if cell.metadata.papermill.start_time), default=0)
    for cell in node.cells[last:]:
        cell.metadata.papermill.status = "pending"
    node.cells[last].metadata.papermill.update(status="failed", exception=True)
    node.metadata.papermill.exception = True
    nbformat.write(node, path)
    return last


@contextmanager
def set_environment(settings: Mapping[str, str]):
    """Environment variables for as long as the block lasts."""
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
