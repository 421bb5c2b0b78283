"""Two runs made by hand, and what differs between them."""

import json

import pandas as pd
import pytest

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.reports.compare import differences, flips, read_run


def make_run(folder, n, responses, s, status="done"):
    """A run with one parameter, one headline number and a table of two prompts."""
    folder.mkdir(parents=True)
    record = {"status": status, "parameters": {"n": n, "lms": ["a"]}, "headline": {"answer": f"n is {n}", "gain": n / 10},
              "uses": {"models": {"a": {"fingerprint": "x"}}}, "origins": {"code": f"of {n}"}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    table = pd.DataFrame({"prompt_id": ["p", "p", "q", "q"], "candidate_id": [0, 1, 0, 1], "response": responses, "S": s})
    parts = [table.assign(lm="m", retriever="R"), table.assign(lm="m", retriever="none", S=float("nan"))]
    pd.concat(parts).to_json(folder / "candidates.jsonl", orient="records", lines=True)
    return folder


@pytest.fixture
def runs(tmp_path):
    """The second run chooses another response for q, and the same text at another place for p."""
    a = make_run(tmp_path / "a", 3, ["yes", "no", "1", "2"], [2.0, 1.0, 5.0, 4.0])
    b = make_run(tmp_path / "b", 4, ["no", "yes", "1", "two\n\x1b[31mlines"], [1.0, 2.0, None, 0.0])
    return a, b


def test_what_differs(runs):
    a, b = map(read_run, runs)
    assert differences(a, b, "parameters").to_dict("records") == [{"what": "n", "A": 3, "B": 4, "B - A": 1}]
    headline = differences(a, b, "headline")
    assert headline["what"].tolist() == ["answer", "gain"]
    assert headline["B - A"].iloc[1] == pytest.approx(0.1)
    assert differences(a, b, "uses").empty


def test_flips(runs):
    found = flips(*runs)
    assert found.to_dict("records") == [{"candidates": "m, R", "prompt_id": "q", "A": "1", "B": "two\n\x1b[31mlines"}]
    assert flips(runs[0], runs[0]).empty


def test_command_line(runs, capsys):
    assert main(["compare", *map(str, runs)]) == 0
    said = capsys.readouterr().out
    assert "  n: 3 -> 4 (+1)" in said
    assert "code, versions and files: 1 differences\n  code: of 3 -> of 4" in said
    assert "chosen response changed (score S): 1" in said
    assert "    B: two ␛[31mlines" in said, "on one line, hidden characters visible"


def test_no_run_is_one_sentence(tmp_path, capsys):
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "no record of a run there" in capsys.readouterr().err
    broken = make_run(tmp_path / "broken", 1, ["a"] * 4, [1.0] * 4, status="failed")
    with pytest.raises(InputError, match="did not finish"):
        read_run(broken)
