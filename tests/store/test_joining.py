"""The union of two stores, and a copy that another machine can begin with."""

import sqlite3

import pytest

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.store import claims
from icdpo_nb.store.joining import join, snapshot, store_at
from icdpo_nb.store.journal import Added
from icdpo_nb.store.store import Store


def filled(folder, stage, values):
    """A store with a value for each text."""
    store = Store(folder)
    store.compute(stage, {"model": stage}, [*values], lambda indices: [[*values.values()][i] for i in indices])
    return store


def found(store, stage, items):
    return store.compute(stage, {"model": stage}, items, lambda indices: [None for _ in indices])


def test_the_union_has_what_either_has_and_keeps_its_own(tmp_path):
    a = filled(tmp_path / "a", "x", {"both": 1, "other": "ours", "a": 2})
    b = filled(tmp_path / "b", "x", {"both": 1, "other": "theirs", "b": 3})
    filled(tmp_path / "b", "y", {"b": 4})
    before = b.path.read_bytes()
    assert join(a, tmp_path / "b") == Added(new=2, known=1, different=1)
    assert found(a, "x", ["both", "other", "a", "b"]) == [1, "ours", 2, 3]
    assert found(a, "y", ["b"]) == [4]
    assert join(a, tmp_path / "b" / "store.sqlite") == Added(known=3, different=1)
    assert b.path.read_bytes() == before


def test_damaged_rows_are_left_out_and_counted(tmp_path):
    b = filled(tmp_path / "b", "x", {"good": 1, "bad": 2, "worse": 3})
    b.file.db.execute("UPDATE results SET value = '7' WHERE value = '2'")
    b.file.db.execute("UPDATE results SET value = CAST(x'ff' AS TEXT) WHERE value = '3'")
    a = Store(tmp_path / "a")
    assert join(a, tmp_path / "b") == Added(new=1, damaged=2)
    assert found(a, "x", ["good", "bad", "worse"]) == [1, None, None]


def test_many_results_come_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("icdpo_nb.store.joining.AT_A_TIME", 3)
    filled(tmp_path / "b", "x", {f"{i}": i for i in range(10)})
    a = Store(tmp_path / "a")
    assert join(a, tmp_path / "b") == Added(new=10)
    assert found(a, "x", ["0", "9"]) == [0, 9]


def test_what_is_no_other_store_is_refused(tmp_path):
    a = filled(tmp_path / "a", "x", {"a": 1})
    (tmp_path / "text.sqlite").write_text("no database")
    for other, says in (("none", "no store there"), ("a", "both stores are the same"), ("text.sqlite", "not a store that can")):
        with pytest.raises(InputError, match=says):
            join(a, tmp_path / other)
    with pytest.raises(InputError, match="not a store; give a folder with store.sqlite"):
        store_at(tmp_path / "text.sqlite")
    assert store_at(tmp_path / "a" / "store.sqlite").path == store_at(tmp_path / "a").path == a.path


def test_a_snapshot_has_the_results_and_no_claims(tmp_path):
    a = filled(tmp_path / "a", "x", {"a": 1, "b": 2})
    claims.claim(a.file.db, "space", ["c"], lambda keys: [])
    snapshot(a, tmp_path / "copy.sqlite")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "copy.sqlite"]
    copied = sqlite3.connect(tmp_path / "copy.sqlite")
    assert copied.execute("SELECT COUNT(*) FROM claims").fetchone() == (0,)
    (tmp_path / "b").mkdir()
    (tmp_path / "copy.sqlite").rename(tmp_path / "b" / "store.sqlite")
    assert found(Store(tmp_path / "b"), "x", ["a", "b"]) == [1, 2]


def test_the_command(tmp_path, capsys):
    filled(tmp_path / "a", "x", {"a": 1})
    filled(tmp_path / "b", "x", {"b": 1})
    assert main(["store", "join", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out == "1 results added, 0 known before\n"
    for wrong in (["join"], ["join", "a"], ["join", "a", "b", "c"], ["list", "a"], ["clean", "a", "b"]):
        assert main(["store", *wrong]) == 2
        assert "write icdpo-nb store join A B" in capsys.readouterr().err
