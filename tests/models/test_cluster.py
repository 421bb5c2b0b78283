"""Starting Ray on a busy machine: it is tried again, and what a failed start left is gone."""

import subprocess
import sys

import psutil
import pytest

from icdpo_nb.models.cluster import started

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class Busy:
    """A start that leaves a process behind, and fails as often as `failing` says."""

    def __init__(self, failing: int):
        self.failing, self.left, self.stopped = failing, [], 0

    def start(self) -> str:
        self.left.append(psutil.Process(subprocess.Popen([*SLEEP, "/ray/raylet"]).pid))
        if len(self.left) <= self.failing:
            raise TimeoutError(f"start {len(self.left)} took too long")
        return "there"

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def another():
    """A process of the tests that is not Ray's."""
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def alive(busy: Busy) -> list[bool]:
    return [p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in busy.left]


def test_a_start_that_fails_is_tried_again_and_leaves_nothing(another):
    busy = Busy(failing=2)
    assert started(busy.start, busy.stop, times=4) == "there"
    assert (busy.stopped, alive(busy)) == (2, [False, False, True])
    assert another.poll() is None
    busy.left[-1].kill()


def test_a_start_that_always_fails_says_why_the_last_time(another):
    busy = Busy(failing=9)
    with pytest.raises(TimeoutError, match="start 3 took too long"):
        started(busy.start, busy.stop, times=3)
    assert (busy.stopped, alive(busy)) == (3, [False] * 3)
    assert another.poll() is None
