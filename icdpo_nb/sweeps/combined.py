"""The combined report of a sweep: one page in the style of a notebook's report, and a record for the front page.

It is made as a notebook of prose and outputs, without code, and rendered as every report is.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ..common.countdown import spoken
from ..common.escaping import escaped, label
from ..common.files import write_whole
from ..reports.figures_of_sweeps import MOST_ROWS, drawn_settings
from ..reports.front import write_front_page
from ..reports.html import read_record, to_html
from ..reports.report import clock, hidden_folder, place
from ..reports.run import Run, git_revision, provenance, versions, writing
from ..reports.summary import summary_html
from ..reports.tables import table_html, text_alternative
from .exhibits import (
    NO_BEST,
    answer_of,
    claims_caption,
    facts_of,
    prompts_text,
    runs_table,
    seeds_note,
    setting_labels,
    wide_claims,
    wide_means,
)  # fmt: skip
from .gathered import as_text, claims_of, done_records, means_of, together, verdict_counts
from .plan import NOTEBOOK, Outcome, Sweep


def write_combined_report(sweep: Sweep, outcomes: Sequence[Outcome]) -> Path:
    """Write `<out>/<sweep>/report.html` with its tables, and the front page again. Returns the path of the report."""
    out, began = sweep.jobs[0].out, time.time()
    records = done_records(sweep, outcomes)
    means, claims = means_of(records), claims_of(records)
    over = {"mean": together(means, "method"), "claim": together(claims, "claim")}
    answer = answer_of(sweep, outcomes, over["claim"])
    with writing(out), hidden_folder(out, sweep.name) as hidden:
        folder = hidden / sweep.name
        folder.mkdir()
        run = Run({}, folder)
        for name, table in {"means": means, "claims": claims, "means_over_seeds": over["mean"]}.items():
            run.save(name, table)
        run.save("runs", runs_table(sweep, outcomes))
        cells = [*_cells(sweep, outcomes, answer, over, claims)]
        nbformat.write(new_notebook(cells=cells), folder / "notebook.ipynb")
        record = _record(sweep, records, answer, began)
        write_whole(folder / "run.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        footer = f"{sweep.name} · finished {record['finished']} · {record['provenance']}"
        files = sorted(p.name for p in folder.iterdir() if p.suffix in (".jsonl", ".csv", ".json"))
        page = to_html(folder / "notebook.ipynb", sweep.title, footer, {"files": files})
        (folder / "notebook.ipynb").unlink()  # it has no code that could be run again
        write_whole(folder / "report.html", page)
        place(folder, out / sweep.name)
    write_front_page(out)
    return out / sweep.name / "report.html"


# ---------------------------------------------------------------- the page


def _cells(sweep, outcomes, answer, over, claims) -> Iterator:
    """The cells of the page, in the order of a reader's questions."""
    yield _prose(f"# {sweep.title}")
    said = ", ".join(f"{name} = {value!r}" for name, value in _parameters(sweep).items())
    yield _shown(f'<p class="provenance">{escaped(provenance())}<br>parameters: {escaped(said)}</p>')
    yield _prose("## Answer", "answer")
    yield _shown(summary_html(answer, facts_of(sweep, outcomes)))
    if len(over["mean"]):
        yield _prose("## Means over the grid", "results")
        for name, part in over["mean"].groupby(["notebook", "part"], sort=False):
            yield from _exhibits(part, ", ".join(filter(None, name)), sweep)
    if len(claims):
        yield _prose("## Comparisons and verdicts", "evidence")
        for name, part in over["claim"].groupby("notebook", sort=False):
            yield _shown(table_html(wide_claims(part, sweep), f"{name}: {claims_caption(part)}"))
        caption = "How often each claim has each verdict beside the papers' results, counted over models, sources and runs."
        yield _shown(table_html(verdict_counts(claims), caption))
    yield _prose(f"## Runs\n\n{_run_lines(sweep, outcomes)}", "data")
    if failed := [o for o in outcomes if o.code]:
        yield _prose("## Failed runs", "data")
        rows = [{"run": o.job.run_id, "tries": o.tries, "exit code": o.code, "reason": o.reason} for o in failed]
        yield _shown(table_html(pd.DataFrame(rows), "Runs that failed, and why."))
    yield _prose(f"## Limits\n\n{NO_BEST} {seeds_note(sweep)}", "limits")


def _exhibits(means: pd.DataFrame, name: str, sweep: Sweep) -> Iterator:
    """A figure and a table of one notebook's means."""
    means = means.assign(setting=setting_labels(means, sweep))
    alternative = text_alternative(f"Means of {name} by setting.", means.drop(columns=["lm", "source"], errors="ignore"))
    more = f", the first {MOST_ROWS} settings" if means["setting"].nunique() > MOST_ROWS else ""
    yield _shown(drawn_settings(means), f"{name}: mean of each method by setting, with 95 % intervals{more}.", alternative)
    seeds = f", over {means['seeds'].max()} seeds" if means["seeds"].max() > 1 else ""
    caption = f"{name}: mean [95 % interval] over {prompts_text(means)}{seeds}. {NO_BEST}"
    yield _shown(table_html(wide_means(means, sweep), caption))


def _run_lines(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """A list of the runs with a link to the report of each."""
    lines = []
    for setting, outcome in zip(sweep.settings, outcomes, strict=True):
        said = ", ".join(f"{name} {as_text(value)}" for name, value in setting.items())
        seconds = read_record(outcome.job.folder / "run.json").get("seconds") or 0
        took = "failed" if outcome.code else "done before" if outcome.was else spoken(seconds)
        run = outcome.job.run_id
        named = f"`{run}`" if outcome.code else f"[{run}](../{run}/report.html)"
        lines.append(f"- {named}: {_markdown(said)}{'; ' if said else ''}{took}")
    return "\n".join(lines)


def _markdown(text: str) -> str:
    """A text as code in Markdown, in which nothing is markup."""
    plain = label(text, 200).replace("`", "'")
    return f"`{plain}`" if plain else ""


def _prose(text: str, tag: str = "") -> nbformat.NotebookNode:
    return new_markdown_cell(text, metadata={"tags": [tag]} if tag else {})


def _shown(content: str, caption: str = "", alternative: str = "") -> nbformat.NotebookNode:
    """A cell that only shows something: HTML, or with a caption a figure as SVG."""
    if caption:
        data = [{"image/svg+xml": content}, {"text/html": f'<p class="caption">{escaped(caption)}</p>'}]
    else:
        data = [{"text/html": content}]
    metadata = [{"image/svg+xml": {"alt": alternative}} if caption else {}, {}]
    outputs = [new_output("display_data", data=d, metadata=m) for d, m in zip(data, metadata, strict=False)]
    return new_code_cell("", outputs=outputs, metadata={"transient": {"remove_source": True}})


# ---------------------------------------------------------------- the record


def _record(sweep: Sweep, records, answer: Sequence[str], began: float) -> dict:
    """The record of a combined report, so that the front page lists it: parameters with all their values."""
    seconds = sum(float(record.data.get("seconds") or 0) for _, record in records)
    now = time.time()
    return {
        "run": sweep.name, "notebook": NOTEBOOK, "title": sweep.title, "preset": None, "parameters": _parameters(sweep),
        "status": "done", "exception": None, "git": git_revision(), "versions": versions(), "provenance": provenance(),
        "began": clock(began), "finished": clock(now), "seconds": round(seconds, 1),
        "headline": {"answer": " ".join(answer), "runs": len(sweep.jobs), "done": len(records)},
    }  # fmt: skip


def _parameters(sweep: Sweep) -> Mapping[str, object]:
    """Every parameter of the runs, with its one value, or with all of them as a list."""
    found: dict[str, list] = {}
    for job in sweep.jobs:
        for name, value in job.values.items():
            known = found.setdefault(name, [])
            known += [v for v in (value if isinstance(value, list) else [value]) if v not in known]
    lists = {name for job in sweep.jobs for name, value in job.values.items() if isinstance(value, list)}
    return {n: v if n in lists or len(v) > 1 else v[0] for n, v in found.items()}
