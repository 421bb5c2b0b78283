"""A report in one call from Python, from a table in memory or a file; bad input is one sentence."""

import asyncio
import json

import pandas as pd
import pytest
from test_report import small  # noqa: F401

import icdpo_nb as nb
from icdpo_nb.common.errors import InputError
from icdpo_nb.reports import job

ROWS = [{"prompt": f"How do I cook {i}?", "chosen": f"Slowly {i}.", "rejected": "No."} for i in range(8)]
CELL = """preferences: str = "pocket"  # preference set: sandbox, pocket, hh-rlhf, a file or folder, or a hub id
n: int = 1  # a number"""


@pytest.fixture
def reader(small, tmp_path, monkeypatch):  # noqa: F811
    """A notebook that reads a preference set; the folder of its reports."""
    import nbformat

    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "cache"))
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    node.cells = [
        nbformat.v4.new_markdown_cell("# What is read?\n\nText."),
        nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import icdpo_nb as nb\nrun = nb.start(globals())\ndata = nb.load_preferences(preferences)\n"
            "run.finish(answer=data.sha256, n=n)"
        ),
    ]
    nbformat.write(node, job.NOTEBOOKS / "07_reader.ipynb")
    return tmp_path / "reports"


def headline(page) -> dict:
    return json.loads((page.parent / "headline.json").read_text())


@pytest.mark.slow
def test_a_report_from_a_frame_is_that_of_its_file(reader, tmp_path):
    frame, file = pd.DataFrame(ROWS), tmp_path / "rows.jsonl"
    frame.to_json(file, orient="records", lines=True)
    pages = [nb.report("07_reader", preferences=given, n=3, out=reader) for given in (frame, ROWS, file, str(file))]
    assert [page.name for page in pages] == ["report.html"] * 4
    assert all(page.exists() for page in pages)
    assert {headline(page)["answer"] for page in pages} == {nb.load_preferences(frame).sha256}
    assert pages[2] == pages[3]
    record = json.loads((pages[0].parent / "run.json").read_text())
    kept = record["parameters"]["preferences"]
    assert nb.load_preferences(kept).sha256 == headline(pages[0])["answer"], "the command in the report makes it again"
    assert kept in (pages[0].parent / "report.html").read_text()
    finished = record["finished"]
    again = nb.report("07_reader", preferences=frame, n=3, out=reader, resume=True)
    assert json.loads((again.parent / "run.json").read_text())["finished"] == finished


def test_a_report_from_a_notebook_that_is_running(reader):
    """JupyterLab's kernel has an event loop of its own."""

    async def cell():
        return nb.report("07_reader", out=reader)

    assert headline(asyncio.run(cell()))["answer"] == nb.load_preferences("pocket").sha256


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preferences": pd.DataFrame(ROWS).drop(columns="chosen")}, r"^DataFrame, row 1: no column 'chosen'"),
        ({"preferences": 3}, "^int: preferences are given as int, but must be a name"),
        ({"preferences": "no-such.jsonl"}, "no such file or folder"),
        ({"preference": "pocket"}, "has no parameter 'preference'; did you mean 'preferences'"),
        ({"n": "many"}, "parameter n must be int, not 'many'"),
        ({"preset": "nothing"}, "there is no preset 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence(reader, given, says):
    with pytest.raises(InputError, match=says) as error:
        nb.report("07_reader", out=reader, **given)
    assert "\n" not in str(error.value)


def test_unknown_notebook(monkeypatch):
    with pytest.raises(InputError, match="there is no notebook '09_your_data'; did you mean '09_your_own_data'"):
        nb.report("09_your_data", preferences=ROWS)
