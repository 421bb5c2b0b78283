"""Weights and data are brought to this machine once, before several jobs would do it at the same time."""

from collections.abc import Iterable

from ..data.sources import fetch as fetch_data
from ..models.checkpoints import fetch as fetch_model
from ..reports.job import Job

MODELS = ("lms", "lm", "teacher", "reward")  # parameters that name models
NO_MODEL = ("", "none", "sandbox", "pocket")  # their values that name none


def prepare(jobs: Iterable[Job]) -> None:
    """Fetch what the jobs' parameters name: language models, teachers, reward models and preference sets.

    Raises `InputError` for what no job could load.
    """
    models, sets = {}, {}
    for job in jobs:
        named = [job.values.get(name) or [] for name in MODELS]
        models |= dict.fromkeys(model for value in named for model in ([value] if isinstance(value, str) else value))
        if preferences := job.values.get("preferences"):
            sets[preferences, job.values.get("data_dir") or None] = None
    for model in models:
        if model not in NO_MODEL:
            fetch_model(model)
    for source in sets:
        fetch_data(*source)
