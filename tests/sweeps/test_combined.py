"""The combined report: the answer, a table over the grid, failed runs and links, as one safe offline page."""

import json
import re

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from sweeping import leave_report, saved, small_notebooks, texts_of

from icdpo_nb.sweeps.combined import write_combined_report
from icdpo_nb.sweeps.exhibits import answer_of, setting_labels
from icdpo_nb.sweeps.gathered import claims_of, done_records, together
from icdpo_nb.sweeps.plan import Outcome, read_sweep

HOSTILE = "<script>alert(1)</script><img src=x> `$5` **bold** [a](http://x.example) \u202egnp.exe"


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_notebooks(tmp_path, monkeypatch, light=True)


def estimates(mean, key, **names):
    return {**names, "lm": "m", "source": "raw", key: "ICDPO > ICL" if key == "claim" else "ICDPO", "mean": mean,
            "low": mean - 0.5, "high": mean + 0.5, "n": 40, "p": 0.01, "same": 0.0}  # fmt: skip


def headline(mean, finding, verdict):
    claims = [{**estimates(mean, "claim"), "finding": finding, "verdict": verdict}]
    return {"margin": 0.25, "means": [estimates(mean, "method")], "claims": claims}


@pytest.fixture
def grid(small, tmp_path):
    """Four runs: two agree, one cannot tell, one failed with a hostile reason."""
    found = read_sweep(saved(tmp_path, "notebooks: 05_small\ngrid: {size: [1, 2], name: [x, y]}\n"), small)
    for job, mean, finding in zip(found.jobs, (1.0, 2.0, 0.1), ("higher", "higher", "cannot tell"), strict=False):
        leave_report(job, **headline(mean, finding, "agrees" if mean >= 1 else "cannot tell"))
    return found, [*(Outcome(job, 0, tries=1) for job in found.jobs[:3]), Outcome(found.jobs[3], 3, HOSTILE, 2)]


def test_the_page(grid, small):
    found, outcomes = grid
    path = write_combined_report(found, outcomes)
    assert path == small / "grid" / "report.html"
    page = path.read_text()
    assert "<script" not in page
    for outside in ("http://", "https://", "//cdn", "@import", "url("):
        assert outside not in page.replace("http://www.w3.org", "").replace("(http://x.example)", ""), outside
    soup, words = BeautifulSoup(page, "html.parser"), texts_of(page)
    assert soup.h1.get_text().removesuffix("¶") == "How do the answers of 05_small depend on size and name?"
    assert "The one comparison depends on the setting: ICDPO &gt; ICL (higher in 2, undecided in 1)." in words
    assert "1 of 4 runs failed" in words
    table = [[cell.get_text() for cell in row.find_all(["td", "th"])] for row in soup.find("table").find_all("tr")]
    assert table == [
        ["size", "name", "ICDPO"],
        ["1", "x", "1.00 [0.50, 1.50]"],
        ["1", "y", "2.00 [1.50, 2.50]"],
        ["2", "x", "0.10 [−0.40, 0.60]"],
    ]
    assert "Whichever row is the best here was found on the prompts that it is measured on" in words
    links = [a["href"] for a in soup.find_all("a") if a["href"].endswith("/report.html")]
    assert links == [f"../{job.run_id}/report.html" for job in found.jobs[:3]], "one each, but for the one that failed"
    assert soup.find("img")["alt"].startswith("Means of 05_small by setting.")
    assert [row.get_text() for row in soup.find_all("tr") if found.jobs[3].run_id in row.get_text()], "named with its reason"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "⟨U+202E⟩" in page


def test_its_record_and_tables(grid, small):
    found, outcomes = grid
    write_combined_report(found, outcomes)
    folder = small / "grid"
    record = json.loads((folder / "run.json").read_text())
    assert (record["run"], record["notebook"], record["status"]) == ("grid", "sweep", "done")
    assert record["parameters"] == {"size": [1, 2], "name": ["x", "y"], "seed": 0}
    assert record["seconds"] == 183.0, "of its runs"
    runs = pd.read_json(folder / "runs.jsonl", lines=True)
    assert runs["exit code"].tolist() == [0, 0, 0, 3]
    assert pd.read_json(folder / "means.jsonl", lines=True)["mean"].tolist() == [1.0, 2.0, 0.1]
    front = (small / "index.html").read_text()
    assert 'href="grid/report.html"' in front
    assert "How do the answers of 05_small depend on size and name?" in front


def test_it_is_made_again_in_the_same_bytes(grid):
    found, outcomes = grid
    pages = [re.sub(r"finished [\d :-]+", "", write_combined_report(found, outcomes).read_text()) for _ in range(2)]
    assert pages[0] == pages[1]


def test_runs_without_estimates_and_none_at_all(small, tmp_path):
    found = read_sweep(saved(tmp_path, "notebooks: 05_small\nseeds: [0, 1]\n"), small)
    leave_report(found.jobs[0])
    page = write_combined_report(found, [Outcome(found.jobs[0], 0), Outcome(found.jobs[1], 4, "gone", 2)]).read_text()
    assert "1 run is done, and its notebook compares nothing that could be put together." in texts_of(page)
    page = write_combined_report(found, [Outcome(job, 4, "gone", 2) for job in found.jobs]).read_text()
    assert "2 of 2 runs failed" in texts_of(page)


def test_several_notebooks_have_their_own_tables(small, tmp_path):
    found = read_sweep(saved(tmp_path, "notebooks: [05_small, 06_reader]\nseeds: [0, 1, 2]\n"), small)
    for job in found.jobs:
        leave_report(job, **headline(1.0 + job.values["seed"] / 10, "higher", "agrees"))
    soup = BeautifulSoup(write_combined_report(found, [Outcome(job, 0) for job in found.jobs]).read_text(), "html.parser")
    captions = [caption.get_text() for caption in soup.find_all("figcaption")]
    assert sum("05_small: mean [95 % interval] over 40 prompts, over 3 seeds" in c for c in captions) == 1
    assert sum("06_reader: mean [95 % interval] over 40 prompts, over 3 seeds" in c for c in captions) == 1
    counts = soup.find_all("table")[-1].get_text(" ")
    assert counts.split() == "notebook claim agrees 05_small ICDPO > ICL 3 06_reader ICDPO > ICL 3".split()  # noqa: SIM905


def test_the_answer_says_what_does_not_depend_on_the_setting(grid):
    found, outcomes = grid
    for job, mean in zip(found.jobs[:3], (1.0, 1.0, 1.0), strict=True):
        leave_report(job, **headline(mean, "higher", "agrees"))
    claims = together(claims_of(done_records(found, outcomes)), "claim")
    assert answer_of(found, outcomes, claims) == [
        "The one comparison comes out the same in every setting: ICDPO > ICL (higher).",
        "1 of 4 runs failed and left no results.",
    ]
    claims = pd.concat(
        [claims, claims.assign(claim="A > B"), claims.assign(claim="C > D", finding=["higher", "lower", "higher"])]
    )
    assert answer_of(found, outcomes[:3], claims) == [
        "Of 3 comparisons, 2 come out the same in every setting: ICDPO > ICL (higher) and A > B (higher).",
        "1 depends on the setting: C > D (higher in 2, lower in 1).",
    ]
    claims = claims[claims["claim"] != "A > B"]
    assert answer_of(found, outcomes[:3], claims)[0].startswith(
        "Of 2 comparisons, 1 comes out the same in every setting: ICDPO"
    )
    claims = claims[claims["claim"] == "C > D"]
    assert setting_labels(claims, found) == ["size 1, x", "size 1, y", "size 2, x"]
