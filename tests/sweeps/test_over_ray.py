"""The backend `ray` on a real cluster of two nodes: it finds what the backend `local` finds, also if a node is killed."""

import json
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.models.cluster import started
from icdpo_nb.store.journal import JOURNAL
from icdpo_nb.store.store import ITEMS_AT_A_TIME, Store
from icdpo_nb.sweeps.backends import open_backend
from icdpo_nb.sweeps.driver import run_jobs
from icdpo_nb.sweeps.plan import read_sweep
from icdpo_nb.sweeps.watch import Watch

SWEEP = """
notebooks: 03_demo_source_nll
parameters: {lms: [sandbox-small], demonstrations: [teacher-a, raw], n_prompts: 60}
grid: {n_demos: [1, 2]}
seeds: [0, 1]
"""
KILL_SECONDS = 300  # until the second node must have a run that has results


@pytest.fixture(scope="module")
def cluster():
    """A head with one core, and a second node with one core; both on this machine, without a common store."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        made = Cluster()
        for node in ({"include_dashboard": False}, {}):
            second = started(lambda node=node: made.add_node(num_cpus=1, **node), lambda: None)
        patch.setenv("RAY_ADDRESS", made.address)
        yield second
        import ray

        ray.shutdown()
        made.shutdown()


def swept(folder: Path, monkeypatch, on: str, when: threading.Thread | None = None) -> dict[str, bytes]:
    """Run the sweep with a new store and a journal of all that is computed. Returns the headline files by run."""
    monkeypatch.setenv("ICDPO_STORE", str(folder / "store"))
    monkeypatch.setenv(JOURNAL, str(folder / "journal"))
    folder.mkdir()
    (folder / "toy.yaml").write_text(SWEEP)
    sweep = read_sweep(folder / "toy.yaml", folder / "reports")
    if when:
        when.start()
    outcomes, _ = run_jobs(sweep, open_backend({"backend": on}, None, 2), Watch(len(sweep.jobs)), Store())
    assert [outcome.code for outcome in outcomes] == [0] * 4, [outcome.reason for outcome in outcomes]
    return {job.run_id: (job.folder / "headline.json").read_bytes() for job in sweep.jobs}


def computed(folder: Path) -> Counter:
    """How often each result was computed, by whoever."""
    lines = [json.loads(line) for path in (folder / "journal").glob("*.jsonl") for line in path.read_text().splitlines()]
    return Counter((space, key) for table, space, key, *_ in lines if table == "results")


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    """What the backend `local` finds, and what it computed for that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("home") / "local"
        return swept(folder, patch, "local"), computed(folder)


@pytest.mark.slow
def test_two_nodes_find_what_one_machine_finds_and_compute_nothing_twice(cluster, at_home, tmp_path, monkeypatch):
    headlines, results = at_home
    assert swept(tmp_path / "ray", monkeypatch, "ray") == headlines
    assert set(results.values()) == {1}
    assert computed(tmp_path / "ray") == results


@pytest.mark.slow
def test_a_killed_node_loses_nothing(cluster, at_home, tmp_path, monkeypatch):
    """SIGKILL to the second node's raylet and to all its processes, when the sweep has results and a run goes on there."""
    headlines, results = at_home
    raylet = psutil.Process(cluster.all_processes["raylet"][0].process.pid)
    killed = []

    def kill() -> None:
        ends = time.monotonic() + KILL_SECONDS
        while time.monotonic() < ends and not killed:
            time.sleep(0.05)
            there = [p for p in raylet.children(recursive=True) if "icdpo_nb" in " ".join(_words(p))]
            if there and any((tmp_path / "ray" / "journal").glob("*.jsonl")):
                for process in [raylet, *raylet.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)

    assert swept(tmp_path / "ray", monkeypatch, "ray", threading.Thread(target=kill, daemon=True)) == headlines
    assert len(killed) > 3, "the raylet, its workers, and a run"
    found = computed(tmp_path / "ray")
    assert found.keys() == results.keys(), "nothing is lost"
    assert sum(found.values()) - len(found) <= ITEMS_AT_A_TIME, "twice at most what was in flight"


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def test_bad_options_are_one_sentence():
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="the backend ray has no option 'adress'; did you mean 'address'"):
        open_backend({"backend": "ray", "adress": "x"})
    with pytest.raises(InputError, match="option cpus of the backend ray must be int, not 0"):
        open_backend({"backend": "ray", "cpus": 0})


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("icdpo_nb.sweeps.over_ray.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the backend ray needs Ray; run: pip install .*\[ray\]"):
        open_backend({"backend": "ray"})
