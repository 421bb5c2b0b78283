"""What a run will cost, before it runs: tokens, time, memory, disk and money, and what would make it fit.

The notebook runs once as a rehearsal (see `store.rehearsal`): its model calls compute a few prompts each, and everything else
happens as in the run. Results that the store has count as nothing. Where a model's weights are not on this machine, the
forecast rests on its configuration, on its tokenizer, and on the data sheet of a GPU.
"""

import resource
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..common.errors import InputError
from ..models.checkpoints import DESCRIBED
from ..models.devices import Device, named_device
from ..models.placement import precision_on_gpu
from ..models.sizes import Size, size_of
from ..models.workers import workers_for
from ..store.joining import snapshot
from ..store.notes import REHEARSAL, Note, read_notes
from ..store.pace import Pace, lasting
from ..store.rehearsed_lm import MEMORY
from ..store.store import Store, store_folder
from .html import read_record
from .job import Job
from .progress import Listener
from .report import run_job
from .runner import set_environment

STAGES = ("embedding", "sampling", "scoring", "rewards", "judging")
TRAINS = ("06_fine_tuning", "08_relative_preference", "10_sandbox_validation")


@dataclass(frozen=True)
class Estimate:
    """The forecast of a run."""

    job: Job
    notes: list[Note]
    rehearsal: float  # seconds of the rehearsal
    peak: int  # bytes of its process
    store: int  # bytes that the store grows by
    report: int  # bytes of the report's folder
    gpu_name: str = ""
    gpu: Device | None = None  # for models without weights
    sizes: Mapping[str, Size] = field(default_factory=dict)  # of these models

    @property
    def tokens(self) -> int:
        """All tokens; `sampled` of them depend on how long responses turn out."""
        return sum(note.tokens for note in self.notes)

    @property
    def sampled(self) -> int:
        """The tokens of responses that are still to be sampled."""
        return sum(note.sampled for note in self.notes if note.stage == "sampling")

    @property
    def workers(self) -> int:
        """How many copies of each model compute; the rehearsal has none."""
        return max(1, workers_for(self.job.values.get("workers", 1)))

    @property
    def longest(self) -> int:
        """The tokens of responses that are still to be sampled, if all were as long as they may be."""
        return sum(note.items * note.n * note.limit for note in self.notes if note.stage == "sampling")

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """For each model without weights: its longest context, most responses to one, and longest response."""
        of = {name: [note for note in self.notes if note.part == name] for name in self.sizes}
        return {
            name: tuple(max(getattr(note, k) for note in notes) for k in ("longest", "n", "limit"))
            for name, notes in of.items()
        }

    @property
    def rest(self) -> float:
        """Seconds of what is not a model's work: data, statistics, figures, the report."""
        return max(0.0, self.rehearsal - sum(note.spent for note in self.notes))

    @property
    def seconds(self) -> float:
        """Seconds of the whole run. Workers share the calls of models."""
        return self.rest + self._of_models() / self.workers

    def _of_models(self) -> float:
        """Seconds of all calls, of which those of some models run side by side."""
        total, groups = 0.0, defaultdict(Counter)
        for note in self.notes:
            if note.beside:
                groups[note.beside.group, note.beside.at_a_time][note.beside.name] += self.of(note)
            else:
                total += self.of(note)
        return total + sum(lasting(sorted(of.values(), reverse=True), at_a_time) for (_, at_a_time), of in groups.items())

    def of(self, note: Note) -> float:
        """Seconds of a call: from measured ones of the model, or from the rates of the GPU."""
        if size := self.sizes.get(note.part):
            return size.seconds_on(self.gpu, **asdict(note.work))
        return note.seconds + self.paces[note.part].seconds(note.work)

    @cached_property
    def paces(self) -> dict[str, Pace]:
        """How fast each model is, by its name."""
        parts = {note.part for note in self.notes}
        return {part: Pace([call for note in self.notes if note.part == part for call in note.measured]) for part in parts}

    def by_stage(self) -> list[tuple[str, str, int, int, float]]:
        """Stage, model, items, tokens and seconds of each model in each stage; models that work side by side overlap."""
        keys = sorted({(note.stage, note.part) for note in self.notes}, key=lambda key: (STAGES.index(key[0]), key[1]))
        of = {key: [note for note in self.notes if (note.stage, note.part) == key] for key in keys}
        return [
            (*key, sum(n.items for n in notes), sum(n.tokens for n in notes), sum(map(self.of, notes)))
            for key, notes in of.items()
        ]


def estimate(job: Job, gpu: str = "A100", listener: Listener | None = None) -> Estimate:
    """The forecast of a run on this machine; for models whose weights are not here, on a GPU by its name (`devices`).

    Takes as long as the notebook's statistics and a few prompts of each call. Nothing of it is kept.
    """
    if job.notebook in TRAINS:
        raise InputError(f"{job.notebook} trains models, which is not forecast; its time stands in the README's table")
    device = named_device(gpu)
    with tempfile.TemporaryDirectory(prefix="icdpo-rehearsal-") as folder:
        notes, store, out = Path(folder, "notes.jsonl"), Path(folder, "store"), Path(folder, "reports")
        before = _copied_store(store)
        _link_reports(job.out, out)
        settings = {REHEARSAL: str(notes), DESCRIBED: "1", MEMORY: str(device.memory), "ICDPO_STORE": str(store)}
        with set_environment(settings):
            made = run_job(replace(job, out=out), listener)
        found, record = read_notes(notes), read_record(made / "run.json")
        grown = max(0, (store / "store.sqlite").stat().st_size - before) if (store / "store.sqlite").exists() else 0
        report = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
        sizes = {note.part: _described_size(note) for note in {n.part: n for n in found if n.described}.values()}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Estimate(job, found, record["seconds"], peak, grown, report, gpu, device, sizes)


def _copied_store(folder: Path) -> int:
    """Copy the store into a folder, so that the rehearsal finds what is there and adds nothing. Returns its size in bytes."""
    folder.mkdir()
    for file in store_folder().glob("vectors/*/*.npy"):
        here = folder / file.relative_to(store_folder())
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(file.resolve())
    if not (store_folder() / "store.sqlite").exists():
        return 0
    snapshot(Store(), folder / "store.sqlite")
    return (folder / "store.sqlite").stat().st_size


def _link_reports(out: Path, there: Path) -> None:
    """Show the rehearsal the reports that a notebook may read."""
    there.mkdir()
    for run in out.glob("*/run.json"):
        if not run.parent.name.startswith("."):
            (there / run.parent.name).symlink_to(run.parent.resolve(), target_is_directory=True)


def _described_size(note: Note) -> Size:
    from transformers import AutoConfig

    return size_of(AutoConfig.from_pretrained(note.part), precision_on_gpu(), note.described)
