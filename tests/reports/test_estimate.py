"""The forecast of a run: exact where nothing is sampled, and nothing of it is kept."""

import json
import re
from dataclasses import replace

import pytest
from conftest import save_tiny_lm

from icdpo_nb import cli
from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.models.devices import named_device
from icdpo_nb.models.sizes import size_of
from icdpo_nb.reports import expectation, forecast
from icdpo_nb.reports.estimate import Estimate, estimate
from icdpo_nb.reports.expectation import weights_here
from icdpo_nb.reports.forecast import forecast_text
from icdpo_nb.reports.job import read_job
from icdpo_nb.reports.report import run_job
from icdpo_nb.reports.runner import RunError
from icdpo_nb.store.notes import Beside, Note
from icdpo_nb.store.pace import Passes

NOTEBOOK = "03_demo_source_nll"


def note(stage="sampling", part="a", seconds=10.0, spent=1.0, beside=None, tokens=100, **more) -> Note:
    return Note(stage, part, 20, tokens, 40, spent, beside, seconds, **more)


def of_notes(notes: list[Note], rehearsal: float = 20.0, **more) -> Estimate:
    return Estimate(read_job(NOTEBOOK), notes, rehearsal, 10**9, 2_000_000, 1_000_000, **more)


def test_time_adds_up_what_follows_and_overlaps_what_runs_side_by_side():
    one_after_another = [note(seconds=10, spent=1), note("scoring", seconds=5, spent=2)]
    assert of_notes(one_after_another).seconds == pytest.approx(20 - 3 + 15)
    side_by_side = [  # two at a time: a with 30 s, then b with 10 and 12 s and c with 15 s beside it
        note(seconds=30, spent=2, beside=Beside(1, 2, "a")), note(part="b", seconds=10, beside=Beside(1, 2, "b")),
        note(part="b", seconds=12, beside=Beside(1, 2, "b")), note(part="c", seconds=15, beside=Beside(1, 2, "c")),
    ]  # fmt: skip
    assert of_notes(side_by_side).seconds == pytest.approx(20 - 5 + (10 + 12 + 15))
    later = [note(seconds=7, beside=Beside(2, 2, "a")), note(part="b", seconds=9, beside=Beside(2, 2, "b"))]
    assert of_notes(side_by_side + later).seconds == pytest.approx(20 - 7 + 37 + 9)


def test_language_models_are_forecast_from_all_their_measured_calls():
    few = [(Passes(scored=100), 0.3), (Passes(scored=400), 0.6)]  # 0.2 s and 1 ms a token
    calls = [note("scoring", seconds=0.0, spent=0.3, work=Passes(scored=1000), measured=(call,)) for call in few]
    other = note("scoring", part="b", seconds=0.0, spent=0.0, work=Passes(scored=1000), measured=((Passes(scored=10), 0.1),))
    found = of_notes([*calls, other])
    assert [found.of(n) for n in calls] == pytest.approx([1.2, 1.2])
    assert found.seconds == pytest.approx(20 - 0.6 + 2.4 + found.of(other))


def test_models_without_weights_are_forecast_from_the_data_sheet():
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32)
    gpu, size = named_device("A100"), size_of(config)
    work = Passes(context=100_000)
    prefill = note(seconds=0.0, spent=0.0, work=work, n=3, longest=900, limit=128, described="CausalLM")
    found = of_notes([prefill], gpu_name="A100", gpu=gpu, sizes={"a": size})
    assert found.of(prefill) == pytest.approx(2 * size.in_layers * 100_000 / gpu.operations / 0.3, rel=0.01)
    decoding = replace(prefill, work=Passes(steps=1000, decoded=1000))  # one row: bound by reading the weights
    assert found.of(decoding) == pytest.approx(1000 * size.weights / gpu.bandwidth / 0.3, rel=0.01)
    text = forecast_text(found)
    assert "weights 13.5 GB (bfloat16)" in text
    assert re.search(r"\d+ contexts at a time on 80.0 GB", text)
    assert f" {size.contexts_at_a_time(gpu.memory, 900, 3, 128)} contexts at a time" in text
    small = replace(found, gpu=gpu._replace(memory=10e9))
    assert "too large: a fits with ICDPO_DTYPE=int8 (7.0 GB of weights)" in forecast_text(small)
    tiny = replace(found, gpu=gpu._replace(memory=3e9))
    assert "fits on no A100, not even with nf4" in forecast_text(tiny)


def test_what_would_make_it_fit():
    job = read_job("01_method")
    found = replace(of_notes([note(seconds=1000.0, spent=0.0)], rehearsal=100.0), job=job)
    assert "-p n_prompts 50 takes about 10 min 00 s" in forecast_text(found)  # 100 s + half of 1,000 s
    assert "-p n_prompts 26 fits into 6 min 00 s" in forecast_text(found, hours=0.1)  # (360 - 100) / 1000 of 100 prompts
    assert "no number of prompts makes it fit" in forecast_text(found, hours=0.01)
    assert "0.61 for the machine" in forecast_text(found, price=2.0)


def test_a_training_is_not_forecast():
    with pytest.raises(InputError, match="06_fine_tuning trains models, which is not forecast"):
        estimate(read_job("06_fine_tuning"))


@pytest.fixture
def told(monkeypatch):
    """Forecasts and reports that only say their names; 03 fails in its rehearsal, 02 would be left as it is."""

    def forecast_of(job, *gpu):
        if job.notebook == "03_demo_source_nll":
            raise RunError("ValueError in cell 3: no")
        return estimate(job) if job.notebook == "06_fine_tuning" else f"forecast of {job.notebook}"

    monkeypatch.setattr(forecast, "is_current", lambda job: job.notebook == "02_retrieval_ablation")
    monkeypatch.setattr(forecast, "forecast", forecast_of)
    monkeypatch.setattr(cli, "make", lambda job, *shown: f"report of {job.notebook}")


def test_what_will_run_is_forecast_first(told, tmp_path, capsys):
    """Each report that is not left as it is; of one that has no forecast, why not; and then all of them run."""
    names = ["01_method", "02_retrieval_ablation", "03_demo_source_nll", "06_fine_tuning"]
    assert main(["report", "--estimate", "--resume", "-o", str(tmp_path), *names]) == 0
    assert capsys.readouterr().out.split("\n\n") == [
        "forecast of 01_method",
        "03_demo_source_nll has no forecast, since its rehearsal ended early (the notebook broke: ValueError in cell 3: no)",
        "06_fine_tuning trains models, which is not forecast; its time stands in the README's table",
        "".join(f"report of {name}\n" for name in names),
    ]


def test_large_models_are_forecast_in_their_first_run(told, few, tmp_path, monkeypatch, capsys):
    command = ["report", "01_method", "-o", str(tmp_path), "-p", "lms", few["lms"][0]]
    assert main(command) == 0
    assert capsys.readouterr().out == "report of 01_method\n", "they are small"
    monkeypatch.setattr(expectation, "LARGE", weights_here(few["lms"][0]))
    assert main(command) == 0
    assert capsys.readouterr().out == "forecast of 01_method\n\nreport of 01_method\n"
    assert main([*command, "--no-estimate"]) == 0
    assert capsys.readouterr().out == "report of 01_method\n"


@pytest.fixture
def few(tmp_path) -> dict:
    lm = save_tiny_lm(tmp_path / "lm", "llama")
    return {"lms": [str(lm)], "n_prompts": 30, "preferences": "sandbox", "domains": ["instructions"]}


@pytest.mark.slow
def test_given_texts_are_counted_exactly(few, tmp_path, monkeypatch, capsys):
    """03 scores given responses only: its tokens are known before it runs, and are those that the run then counts."""
    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "store"))
    job = read_job(NOTEBOOK, few, out=tmp_path / "reports")
    found = estimate(job)
    assert not (tmp_path / "store" / "store.sqlite").exists()
    assert not (tmp_path / "reports").exists()
    assert found.sampled == 0
    record = json.loads((run_job(job) / "run.json").read_text())
    assert found.tokens == record["tokens"] > 0
    again = estimate(job)
    assert again.tokens == 0  # the store has all of it
    assert "the store has all results" in forecast_text(again)
    command = ["estimate", NOTEBOOK, "-p", "lms", few["lms"][0], "-p", "n_prompts", "30", "-p", "domains", "instructions"]
    assert main(command) == 0
    assert "forecast from a few prompts" in capsys.readouterr().out
    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "another"))
    assert main(["report", "--estimate", "-o", str(tmp_path / "again"), *command[1:]]) == 0
    forecast, _, report = capsys.readouterr().out.rpartition("\n\n")
    assert f"tokens  {found.tokens:,} tokens" in forecast
    assert "report.html" in report


def test_the_command_complains_in_one_sentence(capsys):
    assert main(["estimate", "01_methods"]) == 2
    assert "did you mean '01_method'" in capsys.readouterr().err
    assert main(["estimate", "01_method", "--gpu", "H1000"]) == 2
    assert "did you mean H100" in capsys.readouterr().err
