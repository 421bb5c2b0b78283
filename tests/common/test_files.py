"""Files that are whole or not there, and digests of many texts."""

import pytest

from icdpo_nb.common.files import digest_of_texts, write_whole, written_whole


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    with written_whole(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(TypeError), written_whole(path) as file:
        file.write("text, where bytes belong")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path], "nothing half stays"


def test_texts_that_utf8_cannot_encode_are_written(tmp_path):
    write_whole(tmp_path / "file", "é \ud800")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "é \\ud800"


def test_the_digest_tells_texts_their_borders_and_their_order_apart():
    several = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""], [], ["é"], ["1:a", "b"]]
    assert len({digest_of_texts(texts) for texts in several}) == len(several)
    assert digest_of_texts(iter(["ab", "c"])) == digest_of_texts(("ab", "c"))
