"""What a run will take, as its first line says it: from the last run like it, or from the notebook's own text."""

import os
import re
from collections.abc import Iterator, Mapping
from math import log
from pathlib import Path

from ..common.countdown import LONG, spoken
from ..models.interface import SECONDS
from ..models.packaged import PACKAGED, smollm2_cached
from .html import is_done, read_record
from .job import Job

LARGE, LARGE_ON_GPU = 4 * 10**10, 10**12  # `bulk` of runs that take so long that a rehearsal hardly counts
LEAST = 2 * 10**7  # bytes of weights that a CPU reads in the time that a small model's step takes whatever its weights
MODELS = ("lms", "lm", "teacher")  # parameters that name language models
PROMPTS = "n_prompts"
FREE = {PROMPTS, "seed"}  # parameters in which a run that tells the time may differ


def expectation(job: Job) -> str:
    """A line for a run that will take a minute or more; "" for others, and where nothing tells.

    The last run with its parameters tells, else one with other prompts, else the notebook's text, which is of its defaults.
    """
    if last := _last(job):
        return _line(job, last, "the last time")
    if not (alike := nearest(job)):
        return _of_text(job)
    share = job.values[PROMPTS] / alike["parameters"][PROMPTS]
    prompts = f"{alike['parameters'][PROMPTS]:,} prompts"
    why = f"if it goes as {alike['run']}, which took {spoken(alike['seconds'])} for {prompts}"
    return _line(job, alike, why, share, "about ")


def needs_rehearsal(job: Job) -> bool:
    """Whether a long run is the first of its kind, so that only a rehearsal tells what it will take."""
    return (size := bulk(job)) >= LARGE and not _last(job) and not nearest(job) and (size >= LARGE_ON_GPU or not _on_gpu())


def bulk(job: Job) -> int:
    """Bytes of the language models' weights that are on this machine, times prompts: a run's time grows with it."""
    given = [job.values[name] for name in MODELS if name in job.values]
    names = {name for value in given for name in (value if isinstance(value, list) else [value])}
    return sum(LEAST + size for size in map(weights_here, names) if size) * max(1, job.values.get(PROMPTS, 1))


def weights_here(name: str) -> int:
    """Bytes of the safetensors files of a packaged model, a folder, or a hub id in its cache; 0 for anything else."""
    folder = {**PACKAGED, "smollm2": smollm2_cached()}.get(name, Path(name).expanduser())
    if not folder.is_dir() and name.count("/") == 1 and ":" not in name:
        from huggingface_hub import try_to_load_from_cache  # slow to load, and most names need no hub

        kept = try_to_load_from_cache(name, "config.json")
        folder = Path(kept).parent if isinstance(kept, str) else folder
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _on_gpu() -> bool:
    """Whether models run on a GPU."""
    import torch  # slow to load, and most runs are short

    return torch.cuda.is_available() and os.environ.get("ICDPO_DEVICE") != "cpu"


def _last(job: Job) -> dict:
    record = read_record(job.folder / "run.json")
    return record if is_done(record) else {}


def _line(job: Job, record: Mapping, why: str, share: float = 1.0, about: str = "") -> str:
    models = _of_models(record)
    if (seconds := record["seconds"] + models * (share - 1)) < LONG:
        return ""
    tokens = round(record.get("added tokens", 0) * share)
    said = [spoken(seconds), *([f"{tokens:,} tokens"] if tokens else [])]
    return f"{job.run_id}: {about}{', '.join(said)}{',' if about else ''} {why}; icdpo-nb estimate says more"


def _of_text(job: Job) -> str:
    """The line for a first run: the time with the defaults, which is in the notebook's text, and what differs from them."""
    text = " ".join(cell.source for cell in job.node.cells if cell.cell_type == "markdown").replace("`", "")
    if not (found := re.search(r"Expected time: ([^.]+)\.", " ".join(text.split()))):
        return ""
    if not (other := _differences(job)):
        return f"{job.run_id}: expected time {found[1]}; icdpo-nb estimate says more"
    return f"{job.run_id}: with the notebook's defaults {found[1]}; this run differs in {other}; icdpo-nb estimate says more"


def _differences(job: Job) -> str:
    """The parameters that are not the notebook's defaults, and the number of prompts beside the default one."""
    names = [name for name, value in job.defaults.items() if name != "seed" and job.values[name] != value]
    if PROMPTS not in names:
        return ", ".join(names)
    others = [name for name in names if name != PROMPTS]
    return ", ".join([f"{PROMPTS} ({job.values[PROMPTS]:,} for {job.defaults[PROMPTS]:,})", *others])


def _of_models(record: Mapping) -> float:
    """Seconds of a run that grow with its prompts: those of its language models, if these are known, else all.

    Models that worked side by side may have taken more than the run; then all of it is taken to grow.
    """
    spent = sum(row.get(f"{stage}, s", 0.0) for row in record.get("work", []) for stage in SECONDS)
    return min(spent or record["seconds"], record["seconds"])


def nearest(job: Job) -> dict:
    """The record of the finished run that is this one for other prompts, of as nearly as many as possible; {} if there is none.

    Only runs whose models computed all that they used tell the time.
    """
    found = list(_alike(job, job.out))
    return min(found, key=lambda record: abs(log(record["parameters"][PROMPTS] / job.values[PROMPTS])), default={})


def _alike(job: Job, out: Path) -> Iterator[dict]:
    for path in sorted(out.glob(f"{job.notebook}*/run.json")):
        record = read_record(path)
        values = record.get("parameters")
        same = isinstance(values, dict) and _fixed(values) == _fixed(job.values)
        if is_done(record) and same and _counts(values) and _counts(job.values) and _computed_all(record):
            yield record


def _fixed(values: Mapping) -> dict:
    return {name: value for name, value in values.items() if name not in FREE}


def _counts(values: Mapping) -> bool:
    n = values.get(PROMPTS)
    return isinstance(n, int) and n > 0


def _computed_all(record: Mapping) -> bool:
    return 0 < record.get("tokens", 0) <= record.get("added tokens", 0)
