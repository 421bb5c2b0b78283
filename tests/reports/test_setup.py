"""What a notebook does first: parts by its parameters, made when they are asked for, and kept for the run's record."""

import json

import numpy as np
import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.protocol import PAPER
from icdpo_nb.reports import setup as module
from icdpo_nb.reports.run import Run
from icdpo_nb.reports.setup import setup

GIVEN = {
    "lms": ["sandbox-small"],
    "preferences": "pocket",
    "demonstrations": ["teacher-a", "raw"],
    "domains": ["helpful"],
    "n_prompts": 3,
    "n_demos": 1,
    "protocol": "PAPER",
    "leaks": "drop",
    "reward": "pocket",
    "store": False,
    "seed": 4,
}


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    notes = []
    monkeypatch.setattr(module, "show_note", notes.append)
    return notes


def test_parts_are_those_that_the_parameters_name(tmp_path, shown):
    made = setup(Run(GIVEN, tmp_path))
    assert made.protocol == PAPER.but(n_demos=1)
    assert [p.domain for p in made.prompts] == ["helpful"] * 3
    assert list(made.data) == ["teacher-a", "raw"]
    assert made.data["raw"].support[0].chosen != made.data["teacher-a"].support[0].chosen
    made.show("And so on.", models={"teacher none": made.lm("none")})
    kept = json.loads((tmp_path / "uses.json").read_text())
    assert list(kept["models"]) == [], "it asked for no model"
    assert list(kept["data"]) == ["teacher-a", "raw"]
    assert kept["others"]["reward"]["name"] == made.reward.name
    assert list(kept["others"]) == ["reward"], "the encoder that a reward may need is none of the notebook's"
    assert shown[0].count("dropped:") == 2
    assert shown[1].startswith("3 test prompts.")
    assert shown[1].endswith("And so on.")
    assert f"Protocol: {made.protocol.name}." in shown[1]


def test_nothing_is_loaded_before_it_is_asked_for(shown):
    made = setup(Run(GIVEN | {"lms": ["no-such-model"], "reward": "no-such-reward"}, None))
    assert len(made.prompts) == 3
    with pytest.raises(InputError, match="no-such-model"):
        made.models  # noqa: B018
    with pytest.raises(InputError, match="no-such-reward"):
        made.show()


def test_lengths_are_counted_by_the_first_model(shown):
    whole = setup(Run(GIVEN, None))
    count = whole.models["sandbox-small"].count_tokens
    middle = int(np.median(count([p.prompt for p in whole.data["raw"].support])))
    short = setup(Run(GIVEN | {"max_prompt_tokens": middle}, None))
    assert short.data["raw"].dropped[f"prompt over {middle} tokens"] > 0
    assert max(count([p.prompt for p in short.data["raw"].support])) <= middle
    short.show()
    assert "Language model: sandbox-small (packaged, float32 on cpu)." in shown[1]


def test_fixed_values_stand_for_parameters_that_are_not_there():
    few = {k: v for k, v in GIVEN.items() if k not in ("preferences", "demonstrations")}
    made = setup(Run(few, None), preferences="pocket", demonstrations="teacher-b")
    assert list(made.data) == ["teacher-b"]
    with pytest.raises(InputError, match="has lms, seed as a parameter, and fixes it too"):
        setup(Run(GIVEN, None), seed=1, lms=[])


def test_a_run_may_have_no_reward(tmp_path, shown):
    made = setup(Run(GIVEN | {"lms": ["sandbox-small"], "reward": "none"}, tmp_path))
    assert made.reward is None
    made.show()
    assert json.loads((tmp_path / "uses.json").read_text())["others"] == {}
    assert made.facts["reward"] == "none"


def test_the_report_says_which_template_the_contexts_have(tmp_path, shown):
    for template, says in (("figure", False), ("chat", True)):
        made = setup(Run({**GIVEN, "template": template}, tmp_path))
        made.show()
        assert ("contexts in the model's chat template" in made.facts["settings"]) is says
        assert ("Protocol: PAPER*, contexts in the model's chat template." in shown[-1]) is says
