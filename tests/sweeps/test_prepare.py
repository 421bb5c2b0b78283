"""Weights and data are fetched once for all jobs, and what no job could load stops the sweep before it begins."""

import pytest
from sweeping import saved

from icdpo_nb.common.errors import InputError
from icdpo_nb.sweeps import prepare
from icdpo_nb.sweeps.plan import read_sweep


def test_each_model_and_set_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(prepare, "fetch_model", lambda name: asked.append(name))
    monkeypatch.setattr(prepare, "fetch_data", lambda *given: asked.append(given))
    text = "notebooks: [01_method, 06_fine_tuning]\nparameters: {lm: owner/tuned}\n"
    text += "grid: {lms: [owner/a, owner/a+folder, smollm2], reward: [sandbox, owner/rm], data_dir: ['', sub]}\n"
    prepare.prepare(read_sweep(saved(tmp_path, text), tmp_path).jobs)
    assert asked == [
        "owner/a", "sandbox-teacher", "owner/rm", "owner/a+folder", "smollm2", "owner/tuned",
        ("sandbox", None), ("sandbox", "sub"),
    ]  # fmt: skip


def test_what_cannot_be_loaded_is_said_before_anything_runs(tmp_path):
    for text, says in (
        ("grid: {lms: [sandbox-small, sandbox-tiny]}", "model 'sandbox-tiny': no such folder, and not one of"),
        ("parameters: {preferences: mine.jsonl}", "preferences 'mine.jsonl': no such file or folder"),
    ):
        with pytest.raises(InputError, match=says):
            prepare.prepare(read_sweep(saved(tmp_path, f"notebooks: 01_method\n{text}\n"), tmp_path).jobs)
    prepare.prepare(read_sweep(saved(tmp_path, "notebooks: 01_method\n"), tmp_path).jobs)
