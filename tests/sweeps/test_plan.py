"""A sweep file becomes the runs that it asks for, worked out by hand."""

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


def saved(folder, text, name="grid.yaml"):
    (folder / name).write_text(text)
    return folder / name


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
