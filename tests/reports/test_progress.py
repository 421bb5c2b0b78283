"""How far a report is: steps and times of a notebook, lines on a terminal (a real one, through a pty), one line elsewhere."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from icdpo_nb.cli import main
from icdpo_nb.reports import job
from icdpo_nb.reports.progress import Progress, doing, in_line, remaining, said_once, steps, to_file

PARAMETERS = 'go: str = ""  # the work goes on when this file is there'
WORK = """# papermill_description=long-work
import time
while go and not os.path.exists(go): time.sleep(0.05)"""
END = """import json
answer = "[b]it \\x1b[31mwent\\nwell" + 200 * "!"
with open(os.environ["ICDPO_RUN_DIR"] + "/headline.json", "w") as f: json.dump({"answer": answer}, f)"""


def make_notebooks(folder):
    """Two small notebooks that wait for a file; returns their cells."""
    parameters = new_code_cell(PARAMETERS)
    parameters.metadata["tags"] = ["parameters"]
    cells = [
        new_markdown_cell("# Will it go well?\n\nText."), parameters, new_code_cell("import os"),
        new_markdown_cell("Text"), new_code_cell(WORK), new_markdown_cell("## The [end]\n\n### of it"), new_code_cell(END),
    ]  # fmt: skip
    folder.mkdir()
    for name in ("01_first", "02_second"):
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return cells


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """The two notebooks in place of ours; the folder of reports."""
    make_notebooks(tmp_path / "notebooks")
    monkeypatch.setattr(job, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path / "reports"


def test_steps_are_descriptions_or_headings(tmp_path):
    title = "Will it go well?"
    assert steps(make_notebooks(tmp_path / "n")) == [title, title, title, title, "long work", "of it", "of it"]


def test_a_run_is_followed_and_the_last_one_tells_what_is_left(tmp_path):
    cells, told = make_notebooks(tmp_path / "n"), []
    run = Progress("r", cells, {"cells": [0, 1.0, 2.0, 0, 30.0, 0, 4.0]}, told.append)
    for cell in range(len(cells) + 1):
        run.enter(cell)
    assert [state["step"] for state in told][::4] == ["starting", "Will it go well?", "rendering"]
    assert [state["cell"] for state in told] == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    at = told[5]
    assert (at["step"], at["this"], at["rest"]) == ("long work", 30.0, 4.0)
    assert remaining(at, at["since"]) == 34.0
    assert remaining(at, at["since"] + 10) == 24.0
    assert remaining(at, at["since"] + 99) == 4.0, "it takes longer than the last time"
    assert remaining(told[0], told[0]["since"]) == 37.0
    assert remaining(told[-1], told[-1]["since"] + 1) == 0.0
    assert len(run.seconds) == len(cells)
    for unknown in ({}, {"cells": [1.0]}, {"cells": [None] * 7}, {"cells": "seven"}):
        told.clear()
        Progress("r", cells, unknown, told.append)
        assert remaining(told[0], time.time()) is None


def test_what_a_notebook_waits_for_stands_in_place_of_its_step(tmp_path):
    told = []
    Progress("r", make_notebooks(tmp_path / "n"), {}, told.append, tmp_path / "note").enter(0)
    assert doing(told[-1]) == "Will it go well?"
    (tmp_path / "note").write_text("downloading org/name: 14.5 GB into hub")
    assert doing(told[-1]) == "downloading org/name: 14.5 GB into hub"


def test_times_and_lines_are_short(tmp_path):
    record = {"seconds": 65.0, "headline": {"answer": "a\nb\x1b[31m" + 200 * "c"}}
    line = in_line(tmp_path, record)
    assert line.startswith(f"{tmp_path}/report.html  1 min 05 s  a b␛[31mccc")
    assert line.endswith("c…")
    assert len(line) == len(f"{tmp_path}/report.html  1 min 05 s  ") + 140
    assert in_line(tmp_path, {}) == f"{tmp_path}/report.html  0 s"


def test_a_state_that_cannot_be_kept_stops_nothing(tmp_path):
    to_file(tmp_path / "no" / "folder")({"run": "r"})
    to_file(tmp_path / "state")({"run": "r"})
    assert json.loads((tmp_path / "state").read_text()) == {"run": "r"}
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_without_a_terminal_a_download_is_one_line(tmp_path, capfd):
    """It is written once, however long it takes; and so is a long call, which counts on, of each of two models."""
    note, seen = tmp_path / "note", []
    downloads = ["downloading a/b: 14.5 GB into hub", "downloading c/d: 2 MB into hub"]
    calls = ["sampling with a: 20 of 1,000, about 49 min 00 s left", "scoring with b: 5 of 9, about 2 min 00 s left"]
    later = ["sampling with a: 21 of 1,000, about 48 min 57 s left", calls[1]]
    with said_once("01_method", note):
        for lines, known in ((downloads[:1], 1), (downloads[1:], 2), (calls, 4), (later, 4)):
            note.write_text("\n".join(lines))
            deadline = time.time() + 30
            while len(seen) < known and time.time() < deadline:
                seen += capfd.readouterr().err.splitlines()
                time.sleep(0.05)
            time.sleep(0.6)
        note.unlink()
    seen += capfd.readouterr().err.splitlines()
    assert seen == [f"01_method: {line}" for line in downloads + calls]


def test_without_a_terminal_a_finished_notebook_is_one_line(waiting, capfd):
    assert main(["report", "01_first", "02_second", "-o", str(waiting)]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert len(lines) == 2
    for name, line in zip(("01_first", "02_second"), lines, strict=True):
        assert re.fullmatch(rf"{waiting}/{name}/report.html  (\d+ min )?\d+ s  \[b\]it ␛\[31mwent well!+…", line)
    cells = json.loads((waiting / "01_first" / "run.json").read_text())["cells"]
    assert len(cells) == 7
    assert main(["report", "01_first", "-o", str(waiting), "--resume"]) == 0
    assert "/01_first/report.html  as it was  [b]it" in capfd.readouterr().out


CODE = """import pathlib, signal, sys
from icdpo_nb import cli
from icdpo_nb.reports import job
job.NOTEBOOKS = pathlib.Path({notebooks!r})
sys.exit(cli.main(sys.argv[1:]))"""


class Terminal:
    """A command on a terminal of 40 lines and 400 columns (paths of tests are long), and what it has written there."""

    def __init__(self, command):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 400, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.text = ""

    def until(self, *wanted: str) -> str:
        """What it wrote since the last call, as soon as all that is wanted stands there; without colours and cursor moves."""
        ends = time.monotonic() + 300
        while not all(w in self.text for w in wanted):
            assert time.monotonic() < ends, self.text
            try:
                assert select.select([self.master], [], [], 300)[0], self.text
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self.master, 65536).decode(errors="replace"))
            except OSError:  # it has ended
                assert all(w in self.text for w in wanted), self.text
        said, self.text = self.text, ""
        return said

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.parametrize("names", [["01_first"], ["01_first", "02_second"]])
def test_on_a_terminal_each_notebook_has_its_line(tmp_path, names):
    """Its step, cell and time; what is left is known the second time. What is finished stands above, with its answer."""
    make_notebooks(tmp_path / "notebooks")
    go, jobs, out = tmp_path / "go", str(len(names)), tmp_path / "reports"
    code = CODE.format(notebooks=str(tmp_path / "notebooks"))
    command = [sys.executable, "-c", code, "report", *names, "-o", str(out), "-p", "go", str(go), "-j", jobs]
    for left in (r"time left unknown", r"about (\d+ min )?\d+ s left")[: len(names)]:
        go.unlink(missing_ok=True)
        terminal = Terminal(command)
        try:
            said = terminal.until(*(f"{name}-" for name in names), "long work")
            line = rf"{{}}-\w+ +(long work|Will it go well\?|starting) +cell \d of 7 +(\d+ min )?\d+ s +{left}"
            assert all(re.search(line.format(name), said) for name in names)
            go.write_text("")
            said = terminal.until(*(f"/{name}-" for name in names), "[b]it ␛[31mwent")
            for name in names:
                assert re.search(rf"/{name}-\w+/report.html +(\d+ min )?\d+ s +\[b\]it", said), "markup of rich is text"
            assert terminal.process.wait(300) == 0
        finally:
            terminal.close()
    assert len(list(out.glob("*/report.html"))) == len(names)
