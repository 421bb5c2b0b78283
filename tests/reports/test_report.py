"""Parameters, runner, HTML and command line, on a small notebook of the test's own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.reports import job, origins, report
from icdpo_nb.reports.parameters import check_parameters, declared_parameters
from icdpo_nb.reports.processes import side_by_side
from icdpo_nb.reports.run import Run, project
from icdpo_nb.store.claims import owner

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
    monkeypatch.setattr(job, "NOTEBOOKS", folder)
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


def test_a_run_leaves_its_folder_and_the_front_page(small):
    folder = report.run_notebook("05_small", {"n": "4"}, small)
    assert sorted(p.name for p in folder.iterdir()) == [
        "headline.json",
        "notebook.ipynb",
        "report.html",
        "run.json",
        "table.csv",
        "table.jsonl",
    ]
    record = json.loads((folder / "run.json").read_text())
    assert record["parameters"] == {"n": 4, "rate": 0.5, "name": "x=y", "loud": False, "tags": []}
    assert record["headline"] == {"answer": "n is 4, x=y", "rate": 0.5}
    default = report.run_notebook("05_small", {}, small)
    assert default.name == "05_small"
    assert report.run_notebook("05_small", {"n": 4}, small) == folder, "the same parameters, the same place"
    index = (small / "index.html").read_text()
    assert re.findall(r'href="([^"#]*)"', index) == [f"{folder.name}/report.html", "05_small/report.html"], "newest first"
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


def test_bad_input_in_a_notebook_is_kept_as_failed(small, capsys):
    """The notebook as far as it came and the sentence; a later run that is done takes its place."""
    options = ["report", "05_small", "-p", "loud", "true", "-o", str(small)]
    assert main(options) == 2
    assert capsys.readouterr().err == "icdpo-nb: too loud; lower your voice\n"
    failed, index = sorted(small.iterdir())
    assert failed.name.endswith(".failed")
    assert "bad input: too loud; lower your voice" in index.read_text(), "it is on the front page at once"
    assert sorted(p.name for p in failed.iterdir()) == ["notebook.ipynb", "run.json"]
    record = json.loads((failed / "run.json").read_text())
    assert (record["status"], record["exception"]) == ("failed", "bad input: too loud; lower your voice")
    assert "git " in (failed / "notebook.ipynb").read_text(), "what ran before it is there"
    path = job.NOTEBOOKS / "05_small.ipynb"
    path.write_text(path.read_text().replace("too loud; lower your voice", "still").replace("if loud", "if not loud"))
    assert main(options) == 0
    assert sorted(p.name for p in small.iterdir()) == [failed.name.removesuffix(".failed"), "index.html"]


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
    index = (small / "index.html").read_text()
    assert "ZeroDivisionError in cell" in index
    assert f"{failed[0].name}/report.html" not in index


def test_resume_leaves_what_is_done(small, capsys):
    options = ["report", "05_small", "-p", "n", "4", "-o", str(small)]
    assert main(options) == 0
    page = next(small.glob("05_small-*/report.html"))
    first = page.stat().st_mtime_ns
    assert main([*options, "--resume"]) == 0
    assert page.stat().st_mtime_ns == first
    assert main(options) == 0
    assert page.stat().st_mtime_ns > first


def test_resume_compares_parameters_code_and_data(small, tmp_path, monkeypatch):
    """A report is made again as soon as anything that it was made from is another; by name alone, a dirty tree is like any."""
    code, data = tmp_path / "package", tmp_path / "rows.jsonl"
    code.mkdir()
    (code / "a.py").write_text("1")
    data.write_text("{}")
    monkeypatch.setattr(origins, "PACKAGE", code)
    given = {"name": str(data)}
    report.run_notebook("05_small", given, small)
    notebook = job.NOTEBOOKS / "05_small.ipynb"

    def remade() -> bool:
        return not report.is_current(job.read_job("05_small", given, out=small))

    assert not remade()
    changes = [(code / "a.py", "2"), (code / "new.py", ""), (data, "{ }")]
    for pair in (("# A small", "# One small"), ("n: int = 3", "n: int = 4")):  # its prose, and the default of a parameter
        changes.append((notebook, notebook.read_text().replace(*pair)))
    for path, text in changes:
        before = path.read_text() if path.exists() else None
        path.write_text(text)
        assert remade(), f"{path.name} is another"
        path.unlink() if before is None else path.write_text(before)
        assert not remade()
    with monkeypatch.context() as patch:
        patch.setattr(origins, "versions", lambda: {"torch": "3"})
        assert remade()
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "a.pyc").write_text("")
    assert not remade()
    data.unlink()
    assert remade()


def test_origins_are_files_that_are_named_and_reports_that_are_read(small, tmp_path):
    """Tables of a report without what it cost; a part of a model's name, from the project; a folder from the current one."""
    node = nbformat.read(job.NOTEBOOKS / "05_small.ipynb", as_version=4)
    node.metadata["icdpo_nb"] = {"reads": ["01_method"]}
    values = {"lms": ["x+model", "raw"], "n": 3}
    for folder in (small / "01_method", tmp_path / "model", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "elsewhere")
        for file in (
            "reports/01_method/means.jsonl",
            "reports/01_method/work.jsonl",
            "model/weights",
            "elsewhere/raw",
            "other",
        ):
            (tmp_path / file).write_text(file)
            found.append(origins.origins(node, values, small)["files"])
    assert found[1] == found[0]
    assert found[0].keys() == {"report 01_method", "model"}
    assert found[2] == {**found[1], "model": found[2]["model"]} != found[1]
    assert found[3] == found[4] == {**found[2], "raw": found[3]["raw"]}


ENDING = """import json, os, pathlib, signal, time
import zmq
from ipykernel.kernelapp import IPKernelApp
app, run_dir, how = IPKernelApp.instance(), pathlib.Path(os.environ["ICDPO_RUN_DIR"]), os.environ["HOW"]
sockets = [getattr(app, f"{name}_socket").mechanism for name in ("shell", "stdin", "control", "iopub")]
print("encrypted:", set(sockets) == {zmq.CURVE})
(run_dir / "pid.json").write_text(str(os.getpid()))
if how == "dead": os.kill(os.getpid(), signal.SIGKILL)
if how == "slow": time.sleep(600)
if how == "broken": raise ValueError(f"no access with {os.environ['HUB_TOKEN']}")
print(dict(os.environ))
(run_dir / "table.jsonl").write_text(json.dumps(os.environ["HUB_TOKEN"]))"""
TOKEN = 'hf_"<secret> \\ of ours'


@pytest.fixture
def ending(tmp_path, monkeypatch):
    """A notebook, `06_ending`, that ends as the variable HOW says, and an older report of it; the folder of reports."""
    parameters = new_code_cell("n: int = 3  # how many")
    parameters.metadata["tags"] = ["parameters"]
    cells = [new_markdown_cell("# How will it end?"), parameters, new_code_cell(ENDING), new_code_cell("1")]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "06_ending.ipynb")
    monkeypatch.setattr(job, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("HUB_TOKEN", TOKEN)
    older = tmp_path / "reports" / "06_ending"
    older.mkdir(parents=True)
    (older / "report.html").write_text("older")
    return tmp_path / "reports"


def check_failed(out: Path, says: str) -> None:
    """The run is kept as failed with its reason, its notebook as far as it came, and the older report as it was."""
    assert sorted(p.name for p in out.iterdir()) == ["06_ending", "06_ending.failed", "index.html"], "nothing half is left"
    assert (out / "06_ending" / "report.html").read_text() == "older"
    record = json.loads((out / "06_ending.failed" / "run.json").read_text())
    assert (record["status"], record["run"]) == ("failed", "06_ending")
    assert says in record["exception"]
    notebook = nbformat.read(out / "06_ending.failed" / "notebook.ipynb", as_version=4)
    marks = [cell.metadata.papermill.status for cell in notebook.cells if "papermill" in cell.metadata]
    stopped = marks.index("failed")
    assert set(marks[:stopped]) == {"completed"}
    assert set(marks[stopped + 1 :]) == {"pending"}, "papermill calls them completed"
    assert f"in cell {stopped}" in record["exception"]
    for file in (out / "06_ending.failed").iterdir():
        assert "hf_" not in file.read_text()


@pytest.mark.parametrize(
    ("how", "options", "code", "says"),
    [
        ("broken", [], 3, "the notebook broke: ValueError in cell 2: no access with [HUB_TOKEN]"),
        ("dead", [], 4, "dead kernel: the kernel died in cell 2; perhaps it ran out of memory"),
        ("slow", ["--timeout", "3.5"], 5, "because it took longer than 3.5 s"),
    ],
)
def test_how_runs_end(ending, monkeypatch, capfd, how, options, code, says):
    monkeypatch.setenv("HOW", how)
    before = set(psutil.Process().children())
    assert main(["report", "06_ending", "-o", str(ending), *options]) == code
    said = capfd.readouterr().err
    assert said.startswith("icdpo-nb: ")
    assert says in said
    assert said.count("\n") == 1
    check_failed(ending, says.removeprefix("the notebook broke: "))
    assert set(psutil.Process().children()) <= before, "no kernel is left"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_kept_as_failed(ending, monkeypatch, sign):
    monkeypatch.setenv("HOW", "slow")
    code = f"""import sys, pathlib, signal
from icdpo_nb import cli
from icdpo_nb.reports import job, report
job.NOTEBOOKS = pathlib.Path({str(job.NOTEBOOKS)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background inherits that it is ignored
sys.exit(cli.main(["report", "06_ending", "-o", {str(ending)!r}]))"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as command:
        while not (begun := [p for p in ending.glob(".*/*/pid.json") if p.read_text()]):
            assert command.poll() is None
            time.sleep(0.05)
        kernel = psutil.Process(int(begun[0].read_text()))
        command.send_signal(sign)
        try:
            assert command.wait(60) == 130
        finally:
            command.kill()
        assert command.stderr.read() == "icdpo-nb: interrupted\n"
    check_failed(ending, "interrupted in cell 2")
    assert not kernel.is_running()


def test_ctrl_c_while_libraries_load_is_one_line():
    """It comes in the middle of an import, where an exception would show as a traceback, or be lost."""
    code = """import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from icdpo_nb.__main__ import main
load = builtins.__import__
def interrupted(name, *rest):
    if name == "pandas":
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            pass
    return load(name, *rest)
builtins.__import__ = interrupted
sys.argv[1:] = ["list"]
sys.exit(main())"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "icdpo-nb: interrupted\n")


@pytest.mark.parametrize("whom", ["group", "parent"])
def test_ctrl_c_ends_all_that_runs_side_by_side(ending, monkeypatch, whom):
    """As a terminal sends it, or to the parent alone: one line, both kept as failed, and nothing goes on, not even what a
    notebook has started."""
    monkeypatch.setenv("HOW", "slow")
    node = nbformat.read(job.NOTEBOOKS / "06_ending.ipynb", as_version=4)
    node.cells[2].source = f"import subprocess; subprocess.Popen(['sleep', '600'])\n{node.cells[2].source}"
    for name in ("06_ending", "07_ending"):
        nbformat.write(node, job.NOTEBOOKS / f"{name}.ipynb")
    code = f"""import sys, pathlib, signal
from icdpo_nb import cli
from icdpo_nb.reports import job
job.NOTEBOOKS = pathlib.Path({str(job.NOTEBOOKS)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(cli.main(["report", "06_ending", "07_ending", "-j", "2", "-o", {str(ending)!r}]))"""
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", code], **options) as command:
        while len([p for p in ending.glob(".*/*/pid.json") if p.read_text()]) < 2:
            assert command.poll() is None
            time.sleep(0.05)
        begun = psutil.Process(command.pid).children(recursive=True)
        assert sum("sleep" in process.cmdline() for process in begun) == 2
        (os.killpg if whom == "group" else os.kill)(command.pid, signal.SIGINT)
        try:
            assert command.wait(120) == 130
        finally:
            command.kill()
        assert command.stderr.read() == "icdpo-nb: interrupted\n"
    psutil.wait_procs(begun, 30)
    assert not [process for process in begun if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    left = ["06_ending", "06_ending.failed", "07_ending.failed", "index.html"]
    assert sorted(p.name for p in ending.iterdir()) == left, "nothing half is left"
    for name in left[1:3]:
        assert "interrupted in cell 2" in json.loads((ending / name / "run.json").read_text())["exception"]
        assert name in (ending / "index.html").read_text()


def test_what_a_killed_run_left_is_cleared(ending, monkeypatch):
    """By the next run; a folder of a run that still goes on stays, and so does one that is none of ours."""
    monkeypatch.setenv("HOW", "slow")
    code = f"""import pathlib
from icdpo_nb.reports import job, report
job.NOTEBOOKS = pathlib.Path({str(job.NOTEBOOKS)!r})
report.run_notebook("06_ending", {{}}, {str(ending)!r})"""
    with subprocess.Popen([sys.executable, "-c", code]) as command:
        while not (begun := [p for p in ending.glob(".*/*/pid.json") if p.read_text()]):
            assert command.poll() is None
            time.sleep(0.05)
        kernel = psutil.Process(int(begun[0].read_text()))
        command.kill()
    with suppress(psutil.NoSuchProcess):  # it ends by itself, soon
        kernel.kill()
    killed = begun[0].parents[1]
    assert killed.is_dir()
    for name, process in {".live-1": owner(), ".reused-1": json.dumps([*json.loads(owner())[:2], 0.0])}.items():
        (ending / name).mkdir()
        (ending / name / report.OWNER).write_text(process)
    (ending / ".git").mkdir()
    monkeypatch.setenv("HOW", "well")
    report.run_notebook("06_ending", {}, ending)
    assert sorted(p.name for p in ending.iterdir()) == [".git", ".live-1", "06_ending", "index.html"]


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out.startswith(f"icdpo-nb {version('icdpo-nb')} (git ")


def test_reports_lie_in_the_project_wherever_one_stands_in_it(small, tmp_path, monkeypatch, capsys):
    """As a notebook, run by hand, looks for them there; outside of any project that is the current folder."""
    below = tmp_path / "notebooks" / "drafts"
    below.mkdir()
    small.mkdir()
    monkeypatch.chdir(below)
    assert project() == tmp_path
    assert main(["report", "05_small"]) == 0
    assert capsys.readouterr().out.startswith("../../reports/05_small/report.html  ")
    assert Run({}, None).sibling("05_small") == small / "05_small"
    assert Run({}, None).sibling("01_method") is None
    assert Run({}, None).sibling("01_method", "reports/05_small") == small / "05_small"
    with pytest.raises(InputError, match="no run there; give the folder of a finished run, for example reports/01_method"):
        Run({}, None).sibling("01_method", "05_small")
    small.rename(tmp_path / "other")
    assert project() == below


def test_kernels_are_encrypted_and_no_token_is_kept(ending, monkeypatch):
    monkeypatch.setenv("HOW", "well")
    (ending / "06_ending.failed").mkdir()
    folder = report.run_notebook("06_ending", {}, ending)
    page = (folder / "report.html").read_text()
    assert "encrypted: True" in page
    assert "[HUB_TOKEN]" in page
    for file in folder.iterdir():
        assert "hf_" not in file.read_text()
    assert not (ending / "06_ending.failed").exists(), "it is done now"
    record = json.loads((folder / "run.json").read_text())
    assert set(record) == {
        "run", "notebook", "title", "preset", "status", "exception", "parameters", "seed", "git", "versions", "provenance",
        "origins", "began", "finished", "seconds", "cells", "headline", "uses", "workers", "work", "tokens", "added tokens",
    }  # fmt: skip


def test_no_room_for_reports_is_one_sentence(ending, capsys):
    assert main(["report", "06_ending", "-o", str(ending / "06_ending" / "report.html")]) == 2
    assert "the run cannot be kept in" in capsys.readouterr().err


def test_html_of_a_careless_cell_becomes_text(tmp_path):
    """Only plain markup stays markup, whatever a cell displays."""
    bad = "<b onclick=alert(1)>b</b><script>alert(1)</script><meta http-equiv=refresh content=0><a href=http://x.example>a</a>"
    data = [
        {"text/html": f'<table class="chosen"><tr><td>{bad}</td></tr></table>'},
        {"text/markdown": bad},
        {"text/latex": bad},
    ]
    outputs = [new_output("display_data", data=d) for d in data] + [new_output("stream", text=bad + "\u202e\x07")]
    nbformat.write(new_notebook(cells=[new_code_cell("1", outputs=outputs)]), tmp_path / "x.ipynb")
    page = report.to_html(tmp_path / "x.ipynb", "title", "footer")
    body = page.partition("</head>")[2]
    assert '<table class="chosen">' in body
    assert body.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
    assert not re.search("<(script|meta|a|b)[ >]", body)
    assert "⟨U+202E⟩␇" in body


def test_a_damaged_record_does_not_stop_the_front_page(tmp_path):
    for name, text in {"half": '{"status": "do', "strange": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    assert "No notebook has been run here." in report.write_front_page(tmp_path).read_text()


def test_unknown_notebook(small, capsys):
    assert main(["report", "05_smal"]) == 2
    assert "did you mean '05_small'?" in capsys.readouterr().err


def test_list_shows_parameters(small, capsys):
    assert main(["list"]) == 0
    assert "  rate: float = 0.5  a share" in capsys.readouterr().out


def test_a_reader_may_stop_reading():
    command = [sys.executable, "-m", "icdpo_nb.cli", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == ""
        assert listing.wait(60) == 0


def test_presets(small, monkeypatch, capsys):
    presets = job.NOTEBOOKS / "presets"
    presets.mkdir()
    (presets / "loud.yaml").write_text("n: 5\nname: preset\n")
    assert main(["report", "05_small", "--preset", "loud", "-p", "n", "6", "-o", str(small)]) == 0
    record = json.loads(next(small.glob("*/run.json")).read_text())
    assert (record["parameters"]["n"], record["parameters"]["name"], record["preset"]) == (6, "preset", "loud")
    assert '>preset <span class="keep">loud</span>' in (small / "index.html").read_text()
    assert main(["report", "05_small", "--preset", "quiet"]) == 2
    assert "there is no preset 'quiet'; there are loud" in capsys.readouterr().err
    (presets / "wrong.yaml").write_text("n: 1e-5\nrate: no\n")
    assert main(["report", "05_small", "--preset", "wrong", "-o", str(small)]) == 2, "YAML's 1e-5 is a text, its no is false"
    assert "parameter n must be int, not '1e-5'" in capsys.readouterr().err


NOTE = "import os, sys, time; print(os.environ['OMP_NUM_THREADS'], file=open(sys.argv[1], 'w'))"


def test_side_by_side_ends_with_the_worst_code(tmp_path, monkeypatch, capfd):
    """Three commands, two at a time: the first ends only when the second has begun, the third begins when one has ended."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    wait = f"{NOTE}\nwhile not os.path.exists({str(tmp_path / 'b')!r}): time.sleep(0.01)"
    codes = [wait, f"{NOTE}\nsys.exit('icdpo-nb: said')", f"{NOTE}\nsys.exit(5)"]
    commands = [[sys.executable, "-c", code, str(tmp_path / name)] for code, name in zip(codes, "abc", strict=True)]
    assert side_by_side(commands, 2) == 5
    assert capfd.readouterr().err == "icdpo-nb: said\n"
    share = str(max(1, os.cpu_count() // 2))
    assert [(tmp_path / name).read_text().strip() for name in "abc"] == [share] * 3


def test_side_by_side_waits_for_what_is_read(tmp_path):
    """Three commands, three at a time: the first, which the last reads, ends badly when the second has begun."""
    a, b, c = (str(tmp_path / name) for name in "abc")
    first = f"import os, sys\nwhile not os.path.exists({b!r}): pass\nopen({a!r}, 'w'); sys.exit(3)"
    codes = [first, f"open({b!r}, 'w')", f"import os; assert os.path.exists({a!r}); open({c!r}, 'w')"]
    assert side_by_side([[sys.executable, "-c", code] for code in codes], 3, [set(), set(), {0}]) == 3
    assert (tmp_path / "c").exists()


def test_a_notebook_waits_for_those_that_it_reads(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("icdpo_nb.reports.making.side_by_side", lambda commands, jobs, after, watcher: asked.extend(after) or 0)
    named = ["03_demo_source_nll", "01_method", "00_start_here", "03_demo_source_nll.ipynb"]
    assert main(["report", *named, "-j", "2", "-o", str(tmp_path)]) == 0
    assert asked == [set(), set(), set(), {1}]


def test_side_by_side_ends_what_runs_when_it_is_interrupted(tmp_path, monkeypatch):
    end = f"{NOTE}\nwhile True: time.sleep(0.01)"
    commands = [[sys.executable, "-c", end, str(tmp_path / name)] for name in "abc"]

    def interrupted(seconds):
        if (tmp_path / "a").exists() and (tmp_path / "b").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    before = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        side_by_side(commands, 2)
    assert set(psutil.Process().children()) <= before
    assert not (tmp_path / "c").exists()


def test_each_of_several_reports_is_asked_for_with_the_same_options(ending, monkeypatch, capfd):
    asked = []

    def noted(commands, jobs, *rest):
        asked.extend([jobs, *(job.load_job(command[-1]) for command in commands)])
        return 0

    monkeypatch.setattr("icdpo_nb.reports.making.side_by_side", noted)
    given = ["-o", str(ending), "--timeout", "9", "--resume", "-p", "n", "4"]
    assert main(["report", "06_ending", "06_ending", "-j", "2", *given]) == 0
    assert asked == [2] + 2 * [job.read_job("06_ending", {"n": 4}, out=ending, timeout=9.0, resume=True)]
    assert (ending / "index.html").exists()
    assert main(["report", "06_ending", "-j", "0"]) == 2
    assert "invalid" in capfd.readouterr().err
