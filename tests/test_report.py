"""Parameters, runner, HTML and command line, on a small notebook of the test's own."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from icdpo_nb import report
from icdpo_nb.cli import main
from icdpo_nb.parameters import check_parameters, declared_parameters
from icdpo_nb.protocol import InputError

CELL = """n: int = 3  # how many
rate: float = 0.5  # a share
name: str = "x=y"  # a text, with = in it
loud: bool = False  # a switch
tags: list = []  # some words"""
HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=alert(1)> $5 and $6 **bold** \u202egnp.exe"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of notebooks with one small notebook, `05_small`, in place of ours."""
    setup = "import pandas as pd\nimport icdpo_nb as nb\nrun = nb.start(globals())"
    body = f"""
hostile = {HOSTILE!r}
if loud: raise nb.InputError("too loud; lower your voice")
if n == 13: raise ZeroDivisionError("thirteen")
nb.show_text(hostile, hostile)
nb.show_table(pd.DataFrame({{hostile: [hostile], "n": [n]}}), hostile)
nb.show_answer(hostile)
print(hostile)
run.save("table", pd.DataFrame({{"n": [n]}}))
run.finish(answer=f"n is {{n}}, {{name}}", rate=rate)"""
    parameters = new_code_cell(CELL)
    parameters.metadata["tags"] = ["parameters"]
    cells = [new_markdown_cell("# A small question?"), parameters, new_code_cell(setup), new_code_cell(body)]
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(new_notebook(cells=cells), folder / "05_small.ipynb")
    monkeypatch.setattr(report, "NOTEBOOKS", folder)
    return tmp_path / "reports"


def test_declared_parameters():
    found = declared_parameters(CELL)
    assert [(p.name, p.kind, p.default) for p in found.values()] == [
        ("n", int, 3), ("rate", float, 0.5), ("name", str, "x=y"), ("loud", bool, False), ("tags", list, []),
    ]  # fmt: skip
    assert found["name"].help == "a text, with = in it"
    for bad in ("n = 3", "n: int", "n: dict = {}", "n: int = 2.5", "import os"):
        with pytest.raises(InputError):
            declared_parameters(bad)


def test_texts_become_the_declared_types():
    declared = declared_parameters(CELL)
    given = {"n": "4", "rate": "1e-5", "name": "7", "loud": "True", "tags": "a, b"}
    assert check_parameters(given, declared, "x") == {"n": 4, "rate": 1e-5, "name": "7", "loud": True, "tags": ["a", "b"]}
    assert check_parameters({"rate": 1}, declared, "x") == {"rate": 1.0}


def test_a_run_leaves_its_folder_and_the_gallery(small):
    folder = report.run_notebook("05_small", {"n": "4"}, small)
    assert sorted(p.name for p in folder.iterdir()) == [
        "headline.json",
        "notebook.ipynb",
        "report.html",
        "run.json",
        "table.jsonl",
    ]
    record = json.loads((folder / "run.json").read_text())
    assert record["parameters"] == {"n": 4, "rate": 0.5, "name": "x=y", "loud": False, "tags": []}
    assert record["headline"] == {"answer": "n is 4, x=y", "rate": 0.5}
    default = report.run_notebook("05_small", {}, small)
    assert default.name == "05_small"
    assert report.run_notebook("05_small", {"n": 4}, small) == folder, "the same parameters, the same place"
    index = (small / "index.html").read_text()
    assert index.count("report.html") == 2
    assert "n is 4, x=y" in index
    assert sorted(p.name for p in small.iterdir()) == sorted(["index.html", folder.name, "05_small"]), "nothing half is left"


def test_report_is_one_safe_offline_file(small):
    page = (report.run_notebook("05_small", {}, small) / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert "Content-Security-Policy" in page
    for outside in ("http://", "https://", "//cdn", "@import", "url("):
        assert outside not in page.replace("http://www.w3.org", ""), outside
    assert "<title>A small question?</title>" in page
    assert "<strong>bold" not in page


def test_bad_input_in_a_notebook_writes_nothing(small, capsys):
    assert main(["report", "05_small", "-p", "loud", "true", "-o", str(small)]) == 2
    assert capsys.readouterr().err == "icdpo-nb: too loud; lower your voice\n"
    assert list(small.iterdir()) == []


def test_a_broken_notebook_is_kept_apart(small, capsys):
    good = report.run_notebook("05_small", {}, small)
    before = (good / "report.html").read_bytes()
    assert main(["report", "05_small", "-p", "n", "13", "-o", str(small)]) == 3
    assert "the notebook broke: ZeroDivisionError in cell" in capsys.readouterr().err
    assert (good / "report.html").read_bytes() == before
    failed = [p for p in small.iterdir() if p.name.endswith(".failed")]
    assert sorted(p.name for p in failed[0].iterdir()) == ["notebook.ipynb", "run.json"]
    record = json.loads((failed[0] / "run.json").read_text())
    assert record["status"] == "failed"
    assert "ZeroDivisionError in cell" in record["exception"]
    assert failed[0].name.removesuffix(".failed") not in (small / "index.html").read_text(), "the gallery shows what is done"


def test_resume_leaves_what_is_done(small, capsys):
    options = ["report", "05_small", "-p", "n", "4", "-o", str(small)]
    assert main(options) == 0
    page = next(small.glob("05_small-*/report.html"))
    first = page.stat().st_mtime_ns
    assert main([*options, "--resume"]) == 0
    assert page.stat().st_mtime_ns == first
    assert main(options) == 0
    assert page.stat().st_mtime_ns > first


def test_unknown_notebook(small, capsys):
    assert main(["report", "05_smal"]) == 2
    assert "did you mean '05_small'?" in capsys.readouterr().err


def test_list_shows_parameters(small, capsys):
    assert main(["list"]) == 0
    assert "  rate: float = 0.5  a share" in capsys.readouterr().out


def test_presets(small, monkeypatch, capsys):
    presets = report.NOTEBOOKS / "presets"
    presets.mkdir()
    (presets / "loud.yaml").write_text("n: 5\nname: preset\n")
    assert main(["report", "05_small", "--preset", "loud", "-p", "n", "6", "-o", str(small)]) == 0
    record = json.loads(next(small.glob("*/run.json")).read_text())
    assert (record["parameters"]["n"], record["parameters"]["name"]) == (6, "preset")
    assert main(["report", "05_small", "--preset", "quiet"]) == 2
    assert "there is no preset 'quiet'; there are loud" in capsys.readouterr().err
    (presets / "wrong.yaml").write_text("n: 1e-5\nrate: no\n")
    assert main(["report", "05_small", "--preset", "wrong", "-o", str(small)]) == 2, "YAML's 1e-5 is a text, its no is false"
    assert "parameter n must be int, not '1e-5'" in capsys.readouterr().err
