"""The first line of a long run, by hand: from the last run with its parameters, one for other prompts, or the notebook."""

import json
import re
from types import SimpleNamespace

import pytest

from icdpo_nb.models.packaged import PACKAGED, smollm2_cached
from icdpo_nb.reports import expectation as module
from icdpo_nb.reports.expectation import bulk, expectation, needs_rehearsal, weights_here
from icdpo_nb.reports.job import notebook_names, read_job
from icdpo_nb.reports.making import make

VALUES = {"lms": ["sandbox-small"], "n_prompts": 200, "seed": 0, "n": 3}


@pytest.fixture
def job(tmp_path):
    """A run of 01_method for 200 prompts that has no report yet."""
    made = SimpleNamespace(notebook="01_method", run_id="01_method-3f2a9c", values=VALUES, out=tmp_path, resume=False)
    made.folder = tmp_path / made.run_id
    texts = ["# Does it?", "It does, in\na way. Expected time: about six\nminutes after `00_a`, and ten otherwise. More."]
    made.node = SimpleNamespace(cells=[SimpleNamespace(cell_type="markdown", source=text) for text in texts])
    made.defaults = VALUES | {"n": 4}
    return made


def leave(job, run: str, changes=None, **record) -> None:
    """The record of a run of 01_method with other parameters."""
    folder = job.out / run
    folder.mkdir()
    about = {
        "run": run,
        "status": "done",
        "finished": "2026-11-29 12:00:00",
        "headline": {},
        "parameters": VALUES | (changes or {}),
    }
    (folder / "run.json").write_text(json.dumps(about | {"seconds": 233.0, "tokens": 1000, "added tokens": 1000} | record))


def test_the_last_run_with_its_parameters_tells(job):
    leave(job, job.run_id, tokens=2_000_000, **{"added tokens": 1_234_567})
    assert expectation(job) == "01_method-3f2a9c: 3 min 53 s, 1,234,567 tokens the last time; icdpo-nb estimate says more"


@pytest.mark.parametrize(
    ("record", "said"), [({"seconds": 59.0}, ""), ({"status": "failed"}, "01_method-3f2a9c: with the notebook's defaults")]
)
def test_a_short_run_says_nothing_and_a_failed_one_does_not_tell(job, record, said):
    leave(job, job.run_id, **record)
    assert expectation(job).partition(" about")[0] == said


def test_the_nearest_number_of_prompts_tells_in_proportion(job):
    """50 prompts in 30 s: 200 in 2 minutes."""
    leave(job, "01_method-000001", {"n_prompts": 50, "seed": 7}, seconds=30.0)
    leave(job, "01_method-000002", {"n_prompts": 4, "seed": 7}, seconds=20.0)
    leave(job, "01_method-000003", {"n_prompts": 1000}, seconds=700.0)
    why = "if it goes as 01_method-000001, which took 30 s for 50 prompts"
    assert expectation(job) == f"01_method-3f2a9c: about 2 min 00 s, 4,000 tokens, {why}; icdpo-nb estimate says more"


@pytest.mark.parametrize(("spent", "taken"), [(20.0, "1 min 30 s"), (70.0, "2 min 00 s")])
def test_what_is_no_work_of_models_does_not_grow(job, spent, taken):
    """Of 30 s the models take 20: four times as many prompts take 10 and 80 s. Side by side they may take more than 30."""
    work = [{"lm": "a", "sampling, s": spent - 5, "scoring, s": 2.0}, {"lm": "b", "sampling, s": 0.0, "scoring, s": 3.0}]
    leave(job, "01_method-000001", {"n_prompts": 50}, seconds=30.0, work=work)
    assert expectation(job).startswith(f"01_method-3f2a9c: about {taken}, 4,000 tokens, if it goes as")


@pytest.mark.parametrize(
    ("changes", "record"),
    [
        ({"n": 16}, {}),
        ({"n_prompts": 0}, {}),
        ({}, {"added tokens": 600}),  # the others were in the store
        ({}, {"status": "failed"}),
        ({"n_prompts": 1000}, {"seconds": 200.0}),  # 40 s
    ],
)
def test_other_runs_do_not_tell(job, changes, record):
    job.node.cells.clear()
    leave(job, "01_method-000001", {"n_prompts": 50} | changes, **record)
    (job.out / "01_method-000002").mkdir()
    (job.out / "01_method-000002" / "run.json").write_text("[1, 2]")
    assert expectation(job) == ""


def test_a_first_run_with_the_defaults_takes_what_the_notebook_says(job):
    """Whatever its seed; a finished run tells better."""
    job.values, job.run_id = job.defaults | {"seed": 3}, "01_method-5eed03"
    said = "01_method-5eed03: expected time about six minutes after 00_a, and ten otherwise; icdpo-nb estimate says more"
    assert expectation(job) == said
    job.node.cells.pop()
    assert expectation(job) == ""
    leave(job, "01_method", {"n": 4})
    assert expectation(job).startswith("01_method-5eed03: about 3 min 53 s, 1,000 tokens, if it goes as 01_method, which")


def test_other_first_runs_say_what_the_defaults_take_and_what_differs(job):
    """The seed costs nothing, and the number of prompts comes first, with the default beside it."""
    said = "01_method-3f2a9c: with the notebook's defaults about six minutes after 00_a, and ten otherwise; this run differs in"
    assert expectation(job) == f"{said} n; icdpo-nb estimate says more"
    job.values = VALUES | {"lms": ["smollm2"], "n_prompts": 1000, "seed": 3}
    assert expectation(job) == f"{said} n_prompts (1,000 for 200), lms, n; icdpo-nb estimate says more"
    job.node.cells.pop()
    assert expectation(job) == ""


def test_every_notebook_says_what_it_takes(tmp_path):
    for name in notebook_names():
        assert re.match(rf"{name}: expected time about \w+ minute", expectation(read_job(name, out=tmp_path)))


def test_only_the_first_long_run_needs_a_rehearsal(job, tmp_path, monkeypatch):
    """Weights of 1,000 bytes, 2e7 more for what does not depend on them, and 200 prompts: 4,000,200,000."""
    weights = tmp_path / "model" / "model-00001-of-00002.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(1000))
    job.values = VALUES | {"lms": [str(weights.parent), "not-here"]}
    assert bulk(job) == 4_000_200_000
    assert not needs_rehearsal(job)
    monkeypatch.setattr(module, "LARGE", 4_000_200_000)
    monkeypatch.setattr(module, "_on_gpu", lambda: False)
    assert needs_rehearsal(job)
    job.values |= {"lms": ["not-here"], "teacher": str(weights.parent)}
    assert needs_rehearsal(job)
    monkeypatch.setattr(module, "_on_gpu", lambda: True)
    assert not needs_rehearsal(job), "it is short on a GPU"
    monkeypatch.setattr(module, "LARGE_ON_GPU", 4_000_200_000)
    assert needs_rehearsal(job)
    leave(job, "01_method-000001", job.values | {"n_prompts": 50})
    assert not needs_rehearsal(job), "that one tells"
    job.values |= {"teacher": "none"}
    assert not needs_rehearsal(job)


def test_no_defaults_are_rehearsed(tmp_path):
    """Their time is in the notebook's text."""
    assert not any(needs_rehearsal(read_job(name, out=tmp_path)) for name in notebook_names())


def test_the_weights_of_a_model_that_is_here(tmp_path, monkeypatch):
    """Packaged ones, a folder, or a hub id in the cache; nothing is asked of the hub, and SmolLM2 is not made."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(bytes(700))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path))
    named = {"org/name": 700, str(snapshot): 700, "org/other": 0, "smollm2": 0, "http://host:8000/v1": 0, "": 0}
    assert {name: weights_here(name) for name in named} == named
    assert weights_here("sandbox-small") == (PACKAGED["sandbox-small"] / "model.safetensors").stat().st_size
    smollm2_cached().mkdir()
    (smollm2_cached() / "model.safetensors").write_bytes(bytes(900))
    assert weights_here("smollm2") == 900


def test_it_is_the_first_line(job, monkeypatch, capsys):
    leave(job, "01_method-000001", {"n_prompts": 400})
    monkeypatch.setattr(
        "icdpo_nb.reports.making.run_job", lambda job, listener: print("begins") or job.out / "01_method-000001"
    )
    make(job)
    said = capsys.readouterr()
    assert said.out == "begins\n"
    assert said.err.startswith("01_method-3f2a9c: about 1 min 56 s, 500 tokens, if it goes as 01_method-000001, which took")
