"""Reports from Python: from data in memory or anywhere to a report in one call, by the same run as on the command line."""

from pathlib import Path

from ..data.frames import is_in_memory, save_frame
from ..data.preferences import load_preferences
from .job import read_job
from .report import is_current, run_job


def report(
    notebook: str,
    *,
    preset: str | None = None,
    out: Path | str | None = None,
    timeout: float | None = None,
    resume: bool = False,
    **parameters: object,
) -> Path:
    """Run a notebook and render it. Returns the path of its report.html.

    `parameters`: those of the notebook, as `icdpo-nb list` shows them. `preferences` may also be a table in memory, such as a
    DataFrame (see `load_preferences`); it is saved as JSON Lines in the cache, under a digest of its content, so that the
    command in the report makes the report again. `preset`, `out`, `timeout` (in seconds) and `resume` are options of
    `icdpo-nb report`.

    Raises `InputError`, one sentence, for bad input, and `runner.RunError` if the notebook does not come to its end.

    >>> nb.report("09_your_own_data", preferences=frame, lms=["smollm2"])  # doctest: +SKIP
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}
    if is_in_memory(given.get("preferences", "")):
        load_preferences(given["preferences"])  # complains of the table's own rows, before anything runs
        given["preferences"] = save_frame(given["preferences"])
    job = read_job(notebook, given, preset, out, timeout, resume)
    folder = job.folder if resume and is_current(job) else run_job(job)
    return folder / "report.html"
