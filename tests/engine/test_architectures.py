"""Every causal architecture of transformers on one of the two paths, against its own forward pass: docs/models.md holds."""

import pytest
from architectures import NAMES, PAGE, PARTS, documented, found, page

# one of each kind: what the packed engine serves beside Llama, what the general path does, and what neither does
KINDS = [
    "llama", "gemma3", "gemma3n_text", "gpt_oss", "deepseek_v3", "cohere", "granite", "bloom", "llama4_text", "mamba",
    "qwen3_next", "deepseek_v32", "roberta", "moshi", "openai-gpt", "xlnet",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_runs_as_documented(name):
    assert found(name) == documented()[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in KINDS and n not in PARTS])
def test_every_architecture_runs_as_documented(name):
    assert found(name) == documented()[name]


def test_the_page_names_every_architecture_once():
    assert PAGE.read_text(encoding="utf-8") == page(documented())
    assert sorted(documented()) == sorted(NAMES)
    assert {name: why for name, (where, why) in documented().items() if where == "not built"} == PARTS, "all others were held"
