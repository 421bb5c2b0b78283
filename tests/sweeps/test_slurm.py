"""Jobs for SLURM through submitit: what sbatch is asked for, how attempts end, and the same jobs as processes here."""

import json
import os
import re
import shutil
import sys
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import slurm_cluster
from sweeping import begun, saved, small_notebooks

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.store.journal import Added, replay
from icdpo_nb.store.store import Store
from icdpo_nb.sweeps import slurm
from icdpo_nb.sweeps.backend import KILLED, TOO_LONG, work_apart
from icdpo_nb.sweeps.slurm import Slurm

submitit = pytest.importorskip("submitit")


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A folder with an sbatch and an srun that only note what they are given."""
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": f'cp "$1" {tmp_path}/script; echo Submitted batch job 77', "srun": "true"}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def test_an_array_is_submitted_with_the_options_of_the_file(sbatch):
    given = {"partition": "gpu", "account": "us", "gpus": 1, "minutes": 240, "cpus": 4, "memory_gb": 32, "jobs": 2}
    given |= {"setup": ["module load cuda"], "sbatch": {"nice": 100}, "qos": "low", "constraint": "a100"}
    backend = Slurm(given)
    folders = [sbatch / "work" / name for name in "abc"]
    attempts = backend.submit(folders)
    assert [attempt.job.job_id for attempt in attempts] == ["77_0", "77_1", "77_2"]
    script = (sbatch / "script").read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.M))
    asked = {
        "array": "0-2%2", "partition": "gpu", "account": "us", "gpus-per-node": "1", "time": "240", "cpus-per-task": "4",
        "mem": "32GB", "nice": "100", "qos": "low", "constraint": "a100", "job-name": "icdpo-nb", "nodes": "1",
    }  # fmt: skip
    assert asked.items() <= flags.items()
    lines = script.splitlines()
    assert lines.index("module load cuda") < next(i for i, line in enumerate(lines) if line.startswith("srun"))
    assert f"-m submitit.core._submit {sbatch / 'work' / 'submitit'}" in script
    assert backend.slots >= 1000


def test_the_command_line_comes_before_the_file_and_a_job_has_hours_by_default(sbatch):
    Slurm({"jobs": 2}, 5).submit([sbatch / "work" / name for name in "abcdefg"])
    script = (sbatch / "script").read_text()
    assert "#SBATCH --array=0-6%5\n" in script
    assert "#SBATCH --time=240\n" in script
    assert "partition" not in script, "the cluster's own default"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"partion": "gpu"}, "the backend slurm has no option 'partion'; did you mean 'partition'"),
        ({"minutes": "4h"}, "option minutes of the backend slurm must be int, not '4h'"),
        ({"minutes": 0}, "must be int, not 0"),
        ({"gpus": True}, "must be int, not True"),
        ({"cluster": "moon"}, "option cluster of the backend slurm is 'moon', but must be slurm or local"),
    ],
)
def test_wrong_options_are_one_sentence(given, says):
    with pytest.raises(InputError, match=says):
        Slurm(given)


def test_without_slurm_or_submitit_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch here; start the sweep on a login node of SLURM, or with --on local"):
        Slurm({})
    assert Slurm({"cluster": "local"}).slots == 1
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs submitit; run: pip install -c constraints.txt -e '.\[slurm\]'"):
        Slurm({})


def test_what_sbatch_complains_of_is_said(sbatch):
    (sbatch / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: moon' >&2\nexit 1\n")
    with pytest.raises(InputError, match="the jobs cannot be submitted .*; correct the section `on`"):
        Slurm({"partition": "moon"}).submit([sbatch / "work" / "a"])


def submitted(tmp_path, queue=None, result=None):
    """An attempt whose job left this result, or none."""
    from submitit.core.utils import cloudpickle_dump

    path = tmp_path / "result.pkl"
    if result:
        cloudpickle_dump(result, path)
    job = SimpleNamespace(job_id="77_0", paths=SimpleNamespace(result_pickle=path), done=lambda: True, state="FINISHED")
    return slurm._Submitted(job, queue)


def test_how_attempts_end(tmp_path):
    assert submitted(tmp_path, None, ("success", 3)).code() == 3
    said = "Job not requeued because: timed-out and not checkpointable."
    late = submitted(tmp_path, None, ("error", f"Traceback\n  ...\n{said}\n"))
    assert (late.code(), late.reason()) == (TOO_LONG, said)
    broken = submitted(tmp_path, None, ("error", "Traceback\nModuleNotFoundError: no icdpo_nb\n"))
    assert (broken.code(), broken.reason()) == (KILLED, "ModuleNotFoundError: no icdpo_nb")
    assert not late.goes_on()
    (tmp_path / "result.pkl").unlink()
    killed = submitted(tmp_path)
    assert (killed.code(), killed.reason()) == (KILLED, "the process of the job ended without a result (FINISHED)")


def test_a_job_that_left_the_queue_without_a_result_has_ended(tmp_path, monkeypatch):
    """Not before the queue was asked anew, nor while it does not answer, nor before a slow file system may show the result."""
    said = tmp_path / "said"
    says = f"#!/bin/sh\n[ -f {said} ] && cat {said}\n"
    shows = "#!/bin/sh\necho JobId=78 JobState=TIMEOUT Reason=TimeLimit Nice=0\n"
    for name, text in {"squeue": says, "scontrol": shows}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "ASK_SECONDS", 0.0)
    now = [100.0]
    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    attempt = submitted(tmp_path, slurm._Queue())
    assert attempt.goes_on(), "squeue has not answered"
    said.write_text("77_0\n77_1\n")
    now[0] += 5
    assert attempt.code() is None
    said.unlink()
    now[0] += 100
    assert attempt.code() is None, "squeue failed"
    said.write_text("77_1\n")
    now[0] += 5
    assert attempt.code() is None
    assert not attempt.goes_on()
    now[0] += slurm.GRACE_SECONDS + 1
    assert (attempt.code(), attempt.reason()) == (TOO_LONG, "SLURM ended the job: TIMEOUT, TimeLimit")


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_notebooks(tmp_path, monkeypatch)


def test_at_the_end_what_goes_on_is_cancelled_and_awaited(tmp_path, monkeypatch):
    """A job that ends by itself is not; one that waits in the queue leaves it without a result."""
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    backend, queued, cancelled = Slurm({}), {"77_1"}, []
    monkeypatch.setattr(slurm._Queue, "has_left", lambda self, job_id, since: job_id not in queued)
    done, waits = submitted(tmp_path, backend.queue, ("success", 0)), submitted(tmp_path / "none", backend.queue)
    done.job.job_id, waits.job.job_id = "77_0", "77_1"
    for attempt in (done, waits):
        attempt.job.cancel = lambda check, attempt=attempt: cancelled.append(attempt.job.job_id) or queued.clear()
    backend.attempts = [done, waits]
    backend.close()
    assert cancelled == ["77_1"]


COMPUTES = "import json, os, pathlib, sys\nfrom icdpo_nb.store.store import Store\n"
COMPUTES += "calls = []\nvalues = Store().compute('square', {}, [1, 2, 3], lambda k: calls.extend(k) or [i * i for i in k])\n"
COMPUTES += "print(values, len(calls), os.environ['OMP_NUM_THREADS'])\nsys.exit(3)"


def test_an_attempt_apart_begins_with_what_is_known_and_leaves_a_journal(tmp_path, monkeypatch):
    """In a store of its own, which goes; it has the snapshot of the driver's store and the journals of other attempts."""
    monkeypatch.setattr("icdpo_nb.sweeps.backend.command", lambda folder: [sys.executable, "-c", COMPUTES])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    work = tmp_path / "work"
    for name in ("a", "b"):
        (work / name).mkdir(parents=True)
        (work / name / "where").write_text(str(tmp_path))
    assert work_apart(work / "a", {"OMP_NUM_THREADS": "7"}) == 3
    assert (work / "a" / "out").read_text().split() == ["[0,", "1,", "4]", "3", "7"]
    assert work_apart(work / "b", {"OMP_NUM_THREADS": "7"}) == 3
    assert (work / "b" / "out").read_text().split()[-2:] == ["0", "7"]
    assert replay(work / "a" / "journal", Store(tmp_path / "here")) == Added(new=3)
    assert not (work / "b" / "journal").exists()


@pytest.mark.slow
def test_the_same_jobs_as_processes_here(small, tmp_path, capsys):
    """Through submitit's own executor: one that fails once, one that is killed, two at a time."""
    on = "on: {backend: slurm, cluster: local, jobs: 2}\n"
    path = saved(tmp_path, f"notebooks: 05_small\ngrid: {{name: [once, killed, x]}}\n{on}")
    assert main(["sweep", str(path), "-o", str(small)]) == KILLED
    assert sorted(name for name, *_ in begun(tmp_path)) == ["killed", "killed", "once", "once", "x"]
    assert len([*small.glob("05_small*/run.json")]) == 2
    assert "1 of 3 runs failed" in (small / "grid" / "report.html").read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The SLURM cluster that this machine belongs to, or one of one node."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        if not slurm_cluster.answers():
            if not slurm_cluster.installed():
                pytest.skip("no SLURM cluster answers, and the packages slurm-wlm and munge are not installed")
            patch.setenv("SLURM_CONF", str(stack.enter_context(slurm_cluster.one_node(tmp_path_factory.mktemp("slurm")))))
        yield


TOY = """notebooks: 01_method
parameters: {n_prompts: 2, teacher: none, max_new_tokens: 8, demonstrations: teacher-a, block_tokens: 3}
grid: {lms: [sandbox-small, sandbox-medium], n_candidates: [2, 3]}
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "slurm"])
def test_four_runs_find_the_same_wherever_they_run(tmp_path, monkeypatch, where, request):
    """With the sandbox's models: byte for byte the same headlines from local processes and from jobs with stores of their own,
    whose results the driver has afterwards, so that the same runs compute nothing again."""
    if where == "slurm":
        request.getfixturevalue("cluster")
    found = {}
    for name, on in {"local": "backend: local", "apart": f"backend: slurm, cluster: {where}, minutes: 20"}.items():
        monkeypatch.setenv("ICDPO_STORE", str(tmp_path / f"store-{name}"))
        path = saved(tmp_path, f"{TOY}on: {{{on}, jobs: 2}}\n", f"{name}.yaml")
        assert main(["sweep", str(path), "-o", str(tmp_path / name)]) == 0
        runs = sorted((tmp_path / name).glob("01_method-*"))
        found[name] = {run.name: (run / "headline.json").read_bytes() for run in runs}
        assert len(runs) == 4
    assert found["local"] == found["apart"]
    apart, here = Store(tmp_path / "store-apart"), Store(tmp_path / "store-local")
    kept = [{(s["stage"], str(s["inputs"]), s["results"]) for s in store.stages()} for store in (apart, here)]
    assert kept[0] == kept[1]
    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "store-apart"))
    shutil.rmtree(runs[0])
    assert main(["sweep", str(path), "-o", str(tmp_path / "apart"), "--on", "local"]) == 0
    work = [json.loads(line) for line in (runs[0] / "work.jsonl").read_text().splitlines()]
    assert [row["added tokens"] for row in work] == [0], "the driver's store has it all"
