"""The record beside a file of preferences: whose column it is, and how it is told."""

import json
from pathlib import Path

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.data.preferences import load_preferences
from icdpo_nb.data.teachers import column_of, record_file, records, teacher_column, write_records, written_by

ENTRY = {"lm": "smollm2", "revision": "gguf", "temperature": 0.7, "top_p": 0.8, "licence": "Apache-2.0"}
SAID = "by smollm2 (gguf), temperature 0.7, top-p 0.8, licence Apache-2.0"


def test_columns():
    assert (column_of("raw"), column_of("teacher-a")) == ("chosen", "teacher_a")
    assert teacher_column("teacher-x") == "teacher_x"
    for wrong in ("raw", "prompt", "", "a b", "../x", "teacher-ü", "1st", "chosen"):
        with pytest.raises(InputError, match="must be letters, digits and hyphens, such as teacher-x"):
            teacher_column(wrong)


@pytest.mark.parametrize(
    ("file", "record"), [("a.jsonl", "a.teacher.json"), ("a.b.jsonl.gz", "a.b.teacher.json"), ("a", "a.teacher.json")]
)
def test_the_name_of_the_record(file, record):
    assert record_file(Path("folder") / file) == Path("folder") / record


def test_a_set_says_who_wrote_its_demonstrations(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"Say {i}", "chosen": f"c{i}", "rejected": f"r{i}", "teacher_x": f"t{i}"} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_preferences(file, demonstrations="teacher-x").teacher == ""
    write_records(file, {"teacher_x": ENTRY})
    taught = load_preferences(file, demonstrations="teacher-x")
    assert taught.teacher == written_by(file, "teacher-x") == SAID
    assert taught.describe().startswith(f"mine.jsonl, teacher-x demonstrations ({SAID}), local, sha256 ")
    assert load_preferences(file).describe().startswith("mine.jsonl, raw demonstrations, local")
    assert load_preferences(rows, demonstrations="teacher-x").teacher == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"teacher_x": 7}', "null"])
def test_a_record_that_is_none_says_nothing(tmp_path, text):
    (tmp_path / "mine.teacher.json").write_text(text)
    assert records(tmp_path / "mine.jsonl") == {}
    assert written_by(tmp_path / "mine.jsonl", "teacher-x") == ""
