"""The time that a long call still takes, by hand: items that were there, parts that count in units of their own."""

import io

import pytest
from tqdm import tqdm

from icdpo_nb.common import countdown
from icdpo_nb.common.countdown import Countdown, counted, spoken


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(countdown.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def bar():
    return tqdm(total=1000, disable=True)


def test_times_in_words():
    assert [spoken(s) for s in (0.4, 59.4, 65, 3599, 3720)] == ["0 s", "59 s", "1 min 05 s", "59 min 59 s", "1 h 02 min"]


def test_what_was_there_says_nothing_of_the_pace(clock, bar):
    """200 of 1,000 were there; 100 of the others in 30 s leave 700, which take 3 min 30 s."""
    said = []
    count = Countdown("sampling with m", 1000, said.append, bar)
    count.update(200)
    clock[0] += 30
    count.update(100)
    assert said == ["sampling with m: 300 of 1,000, about 3 min 30 s left"]


def test_a_part_counts_as_it_goes_on(clock, bar):
    """A part of 50 items in 400 units of its own; the store counts its items once they are kept, and none twice."""
    said = []
    count = Countdown("scoring with m", 1000, said.append, bar)
    count.update(0)
    with count.part(50)(total=400) as inner:
        clock[0] += 60
        inner.update(80)
    assert said.pop() == "scoring with m: 10 of 1,000, about 1 h 39 min left"
    clock[0] += 40
    count.update(50)
    assert said.pop() == "scoring with m: 50 of 1,000, about 31 min 40 s left"
    with count.part(950)(total=950) as inner:
        clock[0] += 2
        inner.update()
    assert said.pop() == "scoring with m: 51 of 1,000, about 31 min 38 s left"


def test_short_calls_and_the_first_items_say_nothing(clock, bar):
    said = []
    short, long = Countdown("a", 10, said.append, bar), Countdown("b", 1000, said.append, bar)
    for count in (short, long):
        count.update(0)
    clock[0] += 29
    long.update(99)
    short.update(5)
    assert not said, "of the one too few have ended, the other takes less than a minute"
    long.update(1)
    clock[0] += 0.5
    long.update(1)
    assert said == ["b: 100 of 1,000, about 4 min 21 s left"], "not more than one sentence a second"


def test_a_bar_moves_with_it_and_the_line_ends_with_the_block(tmp_path, monkeypatch, clock):
    monkeypatch.setenv("ICDPO_NOTE", str(tmp_path / "note"))
    with counted("sampling with m", 100, lambda total: tqdm(total=total, file=io.StringIO())) as count:
        count.update(10)
        clock[0] += 60
        count.update(10)
        assert (tmp_path / "note").read_text() == "sampling with m: 20 of 100, about 8 min 00 s left"
        assert (count.bar.n, count.bar.total) == (20, 100)
    assert not (tmp_path / "note").exists()
