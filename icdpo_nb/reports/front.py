"""The front page of a folder of reports: every claim of the papers with what they found and what we find, and all runs.

It is made from the records of the runs alone, and has no scripts; what records say arrives as text.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from ..common.countdown import spoken
from ..common.escaping import escaped, signs
from ..common.files import write_whole
from ..statistics.findings import AGREES, SIGNS, listed, needed_text
from .evidence import MIXED, Record, Setting, Tested, read_records, shown_in, tests_of
from .registry import Claim, parts_of, read_claims

TEMPLATES = Path(__file__).parent / "template"
NOT_RUN, SHOWN, NO_TEST = "not run here", "no verdict", "no test"  # what a claim has in place of a verdict
PAPERS = {  # where the papers are, and their titles, in the order of the page
    "ICDPO": (
        "arXiv:2402.09320",
        "Effectively Borrowing Alignment Capability of Others via In-context Direct Preference Optimization",
    ),
    "RPO": (
        "arXiv:2402.10958",
        "Enhancing LLM Alignment through Contrasting Responses across Identical and Diverse Prompts",
    ),
}
MEANINGS = {  # of the marks, in the order of the legend
    "agrees": "the 95 % interval of the difference excludes 0 on the side where the paper has it",
    "contradicts": "it excludes 0 on the other side",
    MIXED: "some settings agree, others contradict",
    "too small to matter": "the interval lies within ± a margin stated beforehand",
    "cannot tell": "none of these; a report says how many prompts or training seeds would decide it",
    "nothing changed": "both sides give the same answers",
    "not comparable": "the paper prints nothing for this role, or its models disagree in sign",
}
COUNTED = {  # what a sentence says of our results and of the claims with a verdict
    "agrees": "agree with {}",
    "contradicts": "contradict {}",
    MIXED: "are mixed for {}",
    "too small to matter": "differ too little to matter for {}",
    "cannot tell": "cannot decide {}",
    "nothing changed": "show no change at all for {}",
    "not comparable": "cannot be compared with {}",
}
UNTESTED = {
    SHOWN: ("{} is shown in a report without a verdict", "{} are shown in reports without a verdict"),
    NOT_RUN: ("{} has not been run here", "{} have not been run here"),
    NO_TEST: ("{} has no test in this workbook", "{} have no test in this workbook"),
}
CLASSES = {MIXED: "mixed", NOT_RUN: "notrun", SHOWN: "shown", NO_TEST: "notest"} | {
    "agrees": "agrees", "contradicts": "contradicts", "too small to matter": "small", "cannot tell": "open",
    "nothing changed": "same", "not comparable": "not",
}  # fmt: skip
NO_PRESET = "none"  # of a run that took none, or whose record is older than presets in records
KEEP, SHORT = 32, 130  # characters: of a phrase that stays on one line, and of an answer before it is unfolded


def write_front_page(out: Path | str) -> Path:
    """`index.html` below `out`: the papers' claims, and every run that left its record there."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    out = Path(out)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = lambda value: Markup(escaped(signs(str(value))))
    environment.filters["kept"] = lambda value: Markup(kept(str(value)))
    environment.filters["path"] = lambda value: quote(str(value), safe="")
    css = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("base.css", "front.css"))
    page = environment.get_template("front.html.j2").render(css=css, **front_page(out))
    write_whole(out / "index.html", page)
    return out / "index.html"


def front_page(out: Path) -> dict:
    """What the page says: sentences, claims by paper, runs and the values that they can be filtered by."""
    done, failed = read_records(out)
    claims = [claim_view(claim, done) for claim in read_claims()]
    counts = Counter(view["verdict"] for view in claims)
    papers = []
    for name, (address, title) in PAPERS.items():
        views = [view for view in claims if view["claim"].paper == name]
        tally = tally_sentence(Counter(view["verdict"] for view in views))
        papers.append({"name": name, "address": address, "title": title, "tally": tally, "views": views})
    tested = [view["tests"][0].record for view in claims if view["tests"]]
    runs = sorted(done + failed, key=lambda record: record.text("finished"), reverse=True)
    filters = {kind: values for kind, values in _filters(runs).items() if len(values) > 1}
    return {
        "sentence": tally_sentence(counts), "scope": scope_sentence(tested), "papers": papers,
        "legend": [(v, CLASSES[v], meaning, counts[v]) for v, meaning in MEANINGS.items()], "mark": marks(),
        "css_class": CLASSES, "needed": needed_text, "filters": filters, "runs": [run_view(r, out, filters) for r in runs],
        "n_done": len(done), "newest": next((r.text("finished")[:10] for r in done), ""),
    }  # fmt: skip


# ---------------------------------------------------------------- sentences


def tally_sentence(counts: Mapping[str, int]) -> str:
    """How many claims there are, how many were tested, and what our results say of them."""
    total, tested = sum(counts.values()), sum(counts.get(v, 0) for v in COUNTED)
    rest = listed([forms[counts[v] != 1].format(counts[v]) for v, forms in UNTESTED.items() if counts.get(v)])
    claims = f"{total} claim{'' if total == 1 else 's'}"
    if not tested:
        first = "The one claim has not been tested here." if total == 1 else f"None of the {claims} has been tested here."
        return f"{first} {rest}.".removesuffix(" .")
    how_many = f"Of {claims}, {tested} {'was' if tested == 1 else 'were'}"
    if tested == total:
        how_many = "The one claim was" if total == 1 else f"All {claims} were"
    first = f"{how_many} tested here. Our results {_findings(counts, tested)}."
    return f"{first} Of the others, {rest}." if rest else first


def _findings(counts: Mapping[str, int], tested: int) -> str:
    """ "agree with 8 of them, contradict 1 and cannot decide 3", "agree with both", "contradict it"."""
    found = [(form, counts[v]) for v, form in COUNTED.items() if counts.get(v)]
    if len(found) == 1:
        return found[0][0].format({1: "it", 2: "both"}.get(tested, f"all {tested}"))
    if not counts.get(AGREES):
        found = [(COUNTED[AGREES], "none"), *found]
    (form, n), *others = found
    return listed([form.format(f"{n} of them"), *(form.format(n) for form, n in others)])


def scope_sentence(records: Sequence[Record]) -> str:
    """How far the results reach, by what they rest on."""
    small = [all(name.startswith("sandbox") for name in r.models) and r.dataset.startswith("sandbox") for r in records]
    says = (
        "the sandbox, a small artificial world with a known reward and models of at most two million parameters. "
        "What holds there shows that a mechanism can work, not that it does at seven billion parameters."
    )
    share = sum(small) / len(small) if small else 0
    how = "All" if share == 1 else "Most" if share > 0.5 else "Some"
    return f"{how} results rest on {says}" if share else ""


# ---------------------------------------------------------------- claims and runs


def claim_view(claim: Claim, records: Sequence[Record]) -> dict:
    """A claim with what the paper found and what we find, beside each other by role, and the runs that test it."""
    tests = tests_of(claim, records)
    shown = None if claim.names else shown_in(claim, records)
    verdict = tests[0].verdict if tests else SHOWN if shown else NOT_RUN if claim.notebook else NO_TEST
    roles = parts_of(claim.roles) or [""]
    rows = [(role, claim.found_by_role.get(role, ""), tests and _of_role(tests[0], role)) for role in roles]
    exhibit = quote(claim.exhibit, safe="-,")
    several = bool(tests) and len({s.verdict for s in tests[0].settings}) > 1
    seen = {"tests": tests, "shown": shown, "rows": rows, "exhibit": exhibit}
    return {"claim": claim, "verdict": verdict, "several": several, **seen}


def _of_role(test: Tested, role: str) -> dict:
    """What a run finds with the sources of demonstrations that stand for the paper's `role`; with all if there is none."""
    of = [s for s in test.settings if not role or not s.source or test.record.role(s.source) == role]
    sources = list(dict.fromkeys(s.source for s in of)) if role else []
    counts = Counter(s.verdict for s in of)
    return {"settings": of, "sources": sources, "verdicts": [(v, counts[v]) for v in MEANINGS if counts[v]], "span": span(of)}


def span(settings: Sequence[Setting]) -> str:
    """The estimate of one setting with its interval, or the smallest and the largest of several."""
    if len(settings) == 1:
        return settings[0].here
    means = [s.mean for s in settings if s.mean == s.mean]
    return f"{min(means):+.2f} to {max(means):+.2f}" if means else ""


def run_view(record: Record, out: Path, filters: Mapping[str, Sequence[str]]) -> dict:
    """A run as a line of the table of runs."""
    answer = record.text("exception") if record.text("status") == "failed" else str(record.headline.get("answer") or "")
    cut = answer if len(answer) <= SHORT else answer[:SHORT].rsplit(" ", 1)[0] + " …"
    took = "–"
    with suppress(TypeError, ValueError, OverflowError):
        took = spoken(float(record.data.get("seconds")))
    values = _values(record)
    marks = [f"{kind}-{i}" for kind, known in filters.items() for i, v in enumerate(known) if v in values[kind]]
    linked = (out / record.folder / "report.html").is_file()
    return {"record": record, "answer": answer, "short": cut, "took": took, "classes": " ".join(marks), "linked": linked}


def _values(record: Record) -> dict[str, list[str]]:
    return {
        "notebook": [record.text("notebook")],
        "preset": [record.text("preset") or NO_PRESET],
        "data": [record.dataset],
        "model": record.models,
    }


def _filters(records: Sequence[Record]) -> dict[str, list[str]]:
    """What the runs can be filtered by: every notebook, preset, data set and model that occurs, once."""
    found = [_values(record) for record in records]
    return {kind: sorted({v for values in found for v in values[kind] if v}) for kind in _values(Record(""))}


# ---------------------------------------------------------------- texts


def marks() -> dict[str, str]:
    """The mark of every verdict, and of what stands in place of one."""
    return {MIXED: "±", NOT_RUN: "○", SHOWN: "→", NO_TEST: "·"} | {v: SIGNS[v] for v in MEANINGS if v in SIGNS}


def kept(text: str) -> str:
    """A text as HTML in which the short phrases between commas and semicolons stay on one line."""
    found = [(escaped(phrase), len(phrase) <= KEEP) for phrase in re.split(r"(?<=[,;:]) ", signs(text))]
    return " ".join(f'<span class="keep">{phrase}</span>' if short else phrase for phrase, short in found)
