"""What is waited for, in a notebook's run and elsewhere."""

from icdpo_nb.common.notes import NOTE, told, told_later


def test_a_run_shows_the_latest_sentence_as_long_as_it_is_true(tmp_path, monkeypatch, capsys):
    note = tmp_path / "note"
    monkeypatch.setenv(NOTE, str(note))
    with told("first") as say:
        assert note.read_text() == "first"
        say("second")
        assert note.read_text() == "second"
    assert not note.exists()
    with told(""):
        assert not note.exists()
    assert capsys.readouterr() == ("", "")


def test_elsewhere_the_first_one_is_written_to_stderr(monkeypatch, capsys):
    monkeypatch.delenv(NOTE, raising=False)
    with told("first") as say:
        say("second")
    with told("") as say:
        say("third")
    assert capsys.readouterr() == ("", "first\n")


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(NOTE, str(tmp_path / "no folder" / "note"))
    with told("first") as say:
        say("second")


def test_places_that_wait_side_by_side_have_a_line_each(tmp_path, monkeypatch, capsys):
    note = tmp_path / "note"
    monkeypatch.setenv(NOTE, str(note))
    with told_later() as one:
        assert not note.exists()
        with told("downloading a\nand b"), told_later() as other:
            one("sampling: 1 of 9")
            other("scoring: 2 of 9")
            assert note.read_text().splitlines() == ["downloading a and b", "sampling: 1 of 9", "scoring: 2 of 9"]
        one("sampling: 2 of 9")
        assert note.read_text() == "sampling: 2 of 9"
        one("")
        assert not note.exists()
    assert capsys.readouterr() == ("", "")
