"""A job: made once from a name and parameters, the same wherever it is read again."""

import shlex
import shutil

import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.reports import job
from icdpo_nb.reports.job import load_job, read_job


def test_a_saved_job_is_the_same(tmp_path):
    made = read_job("03_demo_source_nll.ipynb", {"n_prompts": "7"}, out=tmp_path, timeout=3.0, resume=True)
    made.save(tmp_path / "job.json")
    found = load_job(tmp_path / "job.json")
    assert found == made
    assert (found.run_id, found.folder, found.title) == (made.run_id, made.folder, made.title)
    assert found.origins == made.origins
    assert found.reads == ("01_method",)
    assert found.values["n_prompts"] == 7


def test_its_name_tells_what_differs_from_the_defaults():
    plain = read_job("03_demo_source_nll")
    assert plain.run_id == "03_demo_source_nll"
    assert read_job("03_demo_source_nll", {"n_prompts": plain.defaults["n_prompts"]}).run_id == plain.run_id
    few, more = (read_job("03_demo_source_nll", {"n_prompts": n}).run_id for n in (2, 3))
    assert len({plain.run_id, few, more}) == 3


def test_the_command_names_the_preset_where_that_is_shorter(tmp_path, monkeypatch):
    """And it gives the same values again; a parameter that was set back to its default is said, too."""
    folder = tmp_path / "notebooks"
    (folder / "presets").mkdir(parents=True)
    shutil.copy(job.NOTEBOOKS / "01_method.ipynb", folder)
    monkeypatch.setattr(job, "NOTEBOOKS", folder)
    (folder / "presets" / "few.yaml").write_text("n_prompts: 7\nseed: 3\n")
    (folder / "presets" / "the-default-values.yaml").write_text("seed: 0\n")
    given = [({}, "few"), ({"seed": 0}, "few"), ({"seed": 3, "lms": "a,b c"}, "few"), ({}, "the-default-values"), ({}, None)]
    says = [
        "--preset few", "-p n_prompts 7", "--preset few -p lms 'a,b c'", "", "",
    ]  # fmt: skip
    for (parameters, preset), options in zip(given, says, strict=True):
        made = read_job("01_method", parameters, preset)
        assert made.command == f"icdpo-nb report 01_method {options}".rstrip()
        words = shlex.split(made.command)[3:]
        named = words[1] if words[:1] == ["--preset"] else None
        again = words[2 if named else 0 :]
        assert read_job("01_method", dict(zip(again[1::3], again[2::3], strict=True)), named).values == made.values


def test_what_is_given_comes_after_the_preset():
    preset = read_job("01_method", preset="smollm2")
    assert read_job("01_method", {"seed": 5}, "smollm2").given == preset.given | {"seed": 5}
    with pytest.raises(InputError, match="there is no preset 'nothing'; there are "):
        read_job("01_method", preset="nothing")
