"""A sweep file becomes the runs that it asks for, worked out by hand."""

import pytest
from sweeping import saved

from icdpo_nb.common.errors import InputError
from icdpo_nb.sweeps.plan import read_sweep

GRID = """
notebooks: [01_method, 04_consistency_mrr]
parameters: {n_prompts: 20}
grid:
  lms: [sandbox-small, [sandbox-medium, sandbox-large]]
  n_candidates: [3, 8]
seeds: [0, 1]
exclude: [{lms: sandbox-small, n_candidates: 8}, {notebook: 04_consistency_mrr, seed: 1}]
"""


def test_a_grid_is_every_combination_without_what_is_excluded(tmp_path):
    found = read_sweep(saved(tmp_path, GRID), tmp_path)
    asked = [(j.notebook, j.values["lms"], j.values["n_candidates"], j.values["seed"]) for j in found.jobs]
    small, two = ["sandbox-small"], ["sandbox-medium", "sandbox-large"]
    assert asked == [
        ("01_method", small, 3, 0), ("01_method", small, 3, 1),
        ("01_method", two, 3, 0), ("01_method", two, 3, 1), ("01_method", two, 8, 0), ("01_method", two, 8, 1),
        ("04_consistency_mrr", small, 3, 0), ("04_consistency_mrr", two, 3, 0), ("04_consistency_mrr", two, 8, 0),
    ]  # fmt: skip
    assert all(job.values["n_prompts"] == 20 and job.resume and job.out == tmp_path for job in found.jobs)
    assert found.settings[2] == {"notebook": "01_method", "lms": two, "n_candidates": 3, "seed": 0}
    assert (found.name, found.notebooks, found.seeds) == ("grid", ["01_method", "04_consistency_mrr"], [0, 1])
    assert found.varied == ["notebook", "lms", "n_candidates"]
    assert found.title == "How do the answers of 01_method and 04_consistency_mrr depend on lms and n_candidates?"


def test_one_of_each_needs_no_list(tmp_path):
    found = read_sweep(
        saved(tmp_path, "notebooks: 01_method\ngrid: {lms: smollm2, n_demos: 4}\nseeds: 7\ntimeout: 90\n"), tmp_path
    )
    (job,) = found.jobs
    assert (job.values["lms"], job.values["n_demos"], job.values["seed"], job.timeout) == (["smollm2"], 4, 7, 90.0)
    assert (found.settings, found.varied, found.title) == (({},), [], "What does 01_method find?")


def test_presets_come_before_what_the_file_gives(tmp_path):
    text = "notebooks: 01_method\npresets: [smollm2, none]\nparameters: {n_prompts: 3}\n"
    with_preset, without = read_sweep(saved(tmp_path, text), tmp_path).jobs
    assert (with_preset.values["lms"], with_preset.values["n_prompts"], with_preset.preset) == (["smollm2"], 3, "smollm2")
    assert (without.values["lms"], without.values["n_prompts"], without.preset) == (without.defaults["lms"], 3, None)


def test_the_same_run_is_asked_for_once(tmp_path):
    """A value that stands twice, and a parameter that a notebook lacks: it runs once for all its values."""
    text = "notebooks: [01_method, 00_start_here]\nparameters: {n_prompts: 5}\ngrid: {block_tokens: [16, 16, 8]}\n"
    found = read_sweep(saved(tmp_path, text), tmp_path)
    asked = [(j.notebook, j.values.get("block_tokens")) for j in found.jobs]
    assert asked == [("01_method", 16), ("01_method", 8), ("00_start_here", None)]
    assert found.settings[2] == {"notebook": "00_start_here"}


def test_seeds_alone(tmp_path):
    found = read_sweep(saved(tmp_path, "notebooks: 01_method\nseeds: [0, 1, 2]\n"), tmp_path)
    assert [job.run_id for job in found.jobs][0] == "01_method"
    assert found.title == "How much do the answers of 01_method vary between 3 seeds?"


ONE = "notebooks: 01_method\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "grid.yaml: no notebook named; write for example"),
        ("- 01_method\n", "grid.yaml: not a mapping of names to values; write sections such as"),
        ("notebooks: [01_methods]\n", "grid.yaml, line 1: there is no notebook '01_methods'; did you mean '01_method'"),
        (f"{ONE}gird: {{}}\n", "grid.yaml, line 2: unknown section 'gird'; did you mean 'grid'"),
        (f"{ONE}grid: [lms]\n", "grid.yaml, line 2: grid must be a mapping of parameters to lists of values"),
        (f"{ONE}notebooks: 02\n", "grid.yaml, line 2: notebooks stands twice; keep one"),
        (f"{ONE}grid:\n  n_prompts: [1]\n  n_prompt: [1]\n", "line 4: no notebook here has a parameter 'n_prompt'"),
        (f"{ONE}grid:\n  n_prompts: [1, two]\n", "line 3: parameter n_prompts must be int, not 'two'"),
        (f"{ONE}grid: {{n_prompts: []}}\n", "line 2: n_prompts has no values; name at least one"),
        (f"{ONE}grid: {{n_prompts: [1]}}\nparameters: {{n_prompts: 1}}\n", "line 2: n_prompts stands in parameters, too"),
        (f"{ONE}parameters: {{n_demos: -1}}\n", "line 2: parameter n_demos is -1, but must be at least 0"),
        ("notebooks: [01_method, 06_fine_tuning]\ngrid: {lms: [smollm2]}\n", "06_fine_tuning has no parameter 'lms', but 'lm'"),
        (f"{ONE}seeds: [0, x]\n", "line 2: parameter seed must be int, not 'x'"),
        (f"{ONE}seeds: [0]\ngrid: {{seed: [1]}}\n", "line 2: seed stands in parameters or grid, too; keep it in one"),
        (f"{ONE}presets: smollm\n", "line 2: there is no preset 'smollm'; there are"),
        ("notebooks: 04_consistency_mrr\npresets: summarization-judge\n", "line 2: .*summarization-judge.yaml, line"),
        (f"{ONE}exclude: [{{n_demos: 3}}]\n", "line 2: exclusion 1 fits no run; correct or remove it"),
        (f"{ONE}exclude: [{{n_demo: 3}}]\n", "line 2: no notebook here has a parameter 'n_demo'; did you mean 'n_demos'"),
        (f"{ONE}exclude: [{{n_demos: 2}}]\n", "grid.yaml: every run is excluded; leave some"),
        (f"{ONE}exclude: 3\n", "line 2: exclude must be a list of mappings"),
        (f"{ONE}timeout: soon\n", "line 2: timeout must be a number of seconds, not 'soon'"),
        (f"{ONE}on: local\n", "line 2: on must be a mapping: the backend and its options"),
    ],
)  # fmt: skip
def test_what_no_run_could_be_made_of_is_one_sentence(tmp_path, text, says):
    with pytest.raises(InputError, match=says) as raised:
        read_sweep(saved(tmp_path, text), tmp_path)
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.yaml"], "nothing is written"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("grid.txt", "not a sweep; give a YAML file"),
        ("01_method.yaml", "a sweep's report stands beside those of the notebooks; give the file a name of its own"),
        ("01_method-abc.yaml", "give the file a name of its own"),
        ("none.yaml", "none.yaml: cannot be read"),
    ],
)
def test_a_file_of_another_kind_or_name_is_refused(tmp_path, name, says):
    path = tmp_path / name if name == "none.yaml" else saved(tmp_path, ONE, name)
    with pytest.raises(InputError, match=says):
        read_sweep(path, tmp_path)


def test_a_folder_of_another_kind_is_never_replaced(tmp_path):
    path = saved(tmp_path, ONE)
    (tmp_path / "grid").mkdir()
    with pytest.raises(InputError, match="grid: there is something else than a sweep's report; move it, or give .* another"):
        read_sweep(path, tmp_path)
    (tmp_path / "grid" / "run.json").write_text('{"notebook": "sweep"}')
    assert read_sweep(path, tmp_path).name == "grid"
