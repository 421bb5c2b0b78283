"""The hub: claims belong to attempts, and go with them."""

from icdpo_nb.common.files import checksum
from icdpo_nb.store.store import Store
from icdpo_nb.sweeps.hub import Hub


def row(key: str, value: str) -> list[str]:
    return ["space", key, value, checksum(value)]


def test_an_item_is_one_attempts_until_it_is_done_released_or_forgotten(tmp_path):
    hub = Hub(str(tmp_path))
    assert hub.claim("a", "space", ["1", "2", "3"]) == ["1", "2", "3"]
    assert hub.claim("b", "space", ["2", "3", "4"]) == ["4"]
    assert hub.claim("b", "elsewhere", ["2"]) == ["2"], "another stage"
    assert hub.claim("a", "space", ["1"]) == ["1"], "its own stays its own"
    hub.add("a", {"stages": [["space", "double", "{}", 1.0]], "results": [row("1", "2")], "costs": []})
    assert hub.claim("b", "space", ["1"]) == [], "it is done"
    assert hub.read("b", "space", ["1", "2"])["results"] == [tuple(row("1", "2"))]
    hub.release("b", "space", ["2"])
    assert hub.claim("b", "space", ["2"]) == [], "it is not b's to release"
    hub.release("a", "space", ["2"])
    assert hub.claim("b", "space", ["2"]) == ["2"]
    hub.forget("a")
    assert hub.claim("b", "space", ["3"]) == ["3"]
    assert (hub.account().new, hub.account().known) == (1, 0)


def test_processes_of_the_drivers_machine_share_the_claims(tmp_path, monkeypatch):
    """A run that uses the store without the hub, from another process, waits for the sweep, and the sweep for it."""
    hub, other = Hub(str(tmp_path)), Store(tmp_path)
    hub.claim("a", "space", ["1"])
    monkeypatch.setattr("icdpo_nb.store.claims.owner", lambda: '["elsewhere", 1, 0]')
    assert other.claim("space", ["1", "2"]) == ["2"]
    monkeypatch.undo()
    assert hub.claim("a", "space", ["2"]) == []
    hub.forget("a")
    monkeypatch.setattr("icdpo_nb.store.claims.owner", lambda: '["elsewhere", 1, 0]')
    assert other.claim("space", ["1"]) == ["1"]


def test_it_says_how_far_an_attempt_is(tmp_path):
    hub = Hub(str(tmp_path / "store"))
    hub.tell(str(tmp_path / "progress.json"), "{}")
    assert (tmp_path / "progress.json").read_text() == "{}"
