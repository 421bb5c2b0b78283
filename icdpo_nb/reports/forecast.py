"""An estimate in words: a line for each stage, what memory, disk and money it takes, and what would make it fit."""

from collections.abc import Sequence

from ..common.countdown import spoken
from ..common.downloads import spoken_size
from ..common.errors import InputError
from ..models.sizes import Size
from .estimate import Estimate, estimate
from .job import Job
from .progress import display_on_terminal
from .report import is_current
from .runner import RunError

SMALLER = ("int8", "nf4")  # precisions with smaller weights, in this order


def say_forecasts(todo: Sequence[Job]) -> None:
    """Print the forecast of each run that is not left as it is, or why there is none. What is wrong ends the run itself."""
    for job in todo:
        if not (job.resume and is_current(job)):
            print(_forecast_or_why_not(job), end="\n\n", flush=True)


def _forecast_or_why_not(job: Job) -> str:
    try:
        return forecast(job)
    except InputError as error:
        return str(error)
    except RunError as error:
        return f"{job.run_id} has no forecast, since its rehearsal ended early ({error.how}: {error})"


def forecast(job: Job, gpu: str = "A100", hours: float = 0, price: float = 0) -> str:
    """`estimate` a run, with its progress on a terminal, as `forecast_text`."""
    with display_on_terminal() as display:
        found = estimate(job, gpu, display.show if display else None)
    return forecast_text(found, hours, price)


def forecast_text(e: Estimate, hours: float = 0, price: float = 0) -> str:
    """An estimate for a terminal. `hours`: how long the run may take; `price`: of an hour, 0 if it costs nothing."""
    lines = [_opening(e), "", *_table(e), ""]
    lines += [_time(e), *_memory(e), _disk(e), *_money(e, price), "", *_changes(e, hours)]
    return "\n".join(lines)


def _opening(e: Estimate) -> str:
    where = f" and the data sheet of the {e.gpu_name}" if e.sizes else ""
    return f"{e.job.run_id}: forecast from a few prompts of each call{where} (it took {spoken(e.rehearsal)})"


def _table(e: Estimate) -> list[str]:
    rows = [("stage", "model", "items", "tokens", "time")]
    rows += [(stage, part, f"{n:,}", f"{tokens:,}" if tokens else "", spoken(s)) for stage, part, n, tokens, s in e.by_stage()]
    rows.append(("the rest", "data, statistics, report", "", "", spoken(e.rest)))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [text.ljust(w) if k < 2 else text.rjust(w) for k, (text, w) in enumerate(zip(row, widths, strict=True))]


def _time(e: Estimate) -> str:
    if not e.notes:
        return f"time    {spoken(e.seconds)}: the store has all results of the models"
    tokens = f"{e.tokens - e.sampled:,} tokens of contexts and given texts"
    if e.sampled:
        tokens += f", and about {e.sampled:,} to be sampled" + ("" if e.sizes else f" (at most {e.longest:,})")
    return f"time    {spoken(e.seconds)}; models that work side by side overlap\ntokens  {tokens}"


def _memory(e: Estimate) -> list[str]:
    if not e.sizes:
        return [f"memory  about {spoken_size(e.peak)}"]
    found = []
    for name, shape in e.shapes.items():
        size, n = e.sizes[name], shape[1]
        least, at_a_time = size.least_memory(*shape), size.contexts_at_a_time(e.gpu.memory, *shape)
        fits = (
            "does not fit"
            if not at_a_time
            else f"{at_a_time} contexts at a time on {spoken_size(e.gpu.memory)}"
            if n
            else "fits"
        )
        found.append(
            f"memory  {name}: weights {spoken_size(size.weights)} ({size.dtype}), at least {spoken_size(least)}; {fits}"
        )
    return found


def _disk(e: Estimate) -> str:
    weights = sum(size.weights for size in e.sizes.values())
    downloads = f", {spoken_size(weights)} of weights that are not here yet" if weights else ""
    return f"disk    {spoken_size(e.store)} in the store, {spoken_size(e.report)} for the report{downloads}"


def _money(e: Estimate, price: float) -> list[str]:
    calls = sum(note.money for note in e.notes)
    found = [f"money   {e.seconds / 3600 * price:,.2f} for the machine, in the currency of the price"] if price else []
    return [*found, f"money   at most {calls:,.2f} for the judge, in the currency of its prices"] if calls else found


def _changes(e: Estimate, hours: float) -> list[str]:
    """What one would change so that the run fits."""
    found = [line for name in e.shapes for line in _smaller(e, name, e.sizes[name])]
    prompts, of_models = e.job.values.get("n_prompts"), e.seconds - e.rest
    if not prompts or not of_models:
        return found or ["nothing to change: the models have nothing left to compute"]
    if hours and e.seconds > 3600 * hours:
        fitting = int(prompts * max(0.0, 3600 * hours - e.rest) / of_models)
        more = f"-p n_prompts {fitting} fits into {spoken(3600 * hours)}" if fitting else "no number of prompts makes it fit"
        return [*found, f"too long: {more}; fewer models, sources or candidates make it shorter as well"]
    half = e.rest + of_models * max(1, prompts // 2) / prompts
    return [*found, f"shorter: -p n_prompts {max(1, prompts // 2)} takes about {spoken(half)}"]


def _smaller(e: Estimate, name: str, size: Size) -> list[str]:
    if size.least_memory(*e.shapes[name]) <= e.gpu.memory:
        return []
    for dtype in SMALLER:
        other = Size(size.model, dtype)
        if other.least_memory(*e.shapes[name]) <= e.gpu.memory:
            return [f"too large: {name} fits with ICDPO_DTYPE={dtype} ({spoken_size(other.weights)} of weights)"]
    return [f"too large: {name} fits on no {e.gpu_name}, not even with nf4; ICDPO_DEVICE=balanced spreads it over several"]
