"""The published numbers: internal checks, and against the paper's text where a copy lies beside the project."""

import re
from pathlib import Path

import pytest

from icdpo_nb.paper import MODELS, published, published_gain
from icdpo_nb.protocol import InputError


def test_totals_are_macro_means():
    keys = ["table", "source", "method", "model"]
    rows = published().query("table in (1, 2, 3) and data == 'HH-RLHF'")
    wide = rows.pivot(index=keys, columns="domain", values="value")
    assert len(wide) == 3 + 15 * 3 + 10 * 3
    gap = (wide["total"] - (wide["harmless"] + wide["helpful"]) / 2).abs()
    misprinted = gap[gap > 0.0151]
    assert list(misprinted.index) == [(3, "GPT-3.5", "ICL_uni", "Mistral")], "the one total that is not its domains' mean"


def test_icdpo_is_the_same_in_tables_2_and_3():
    both = published().query("method == 'ICDPO' and table in (2, 3) and source != 'raw'")
    assert (both.groupby(["source", "model", "domain"])["value"].nunique() == 1).all()


def test_gains():
    assert published_gain("ICDPO", "ICL") == [7.47, 5.3, 5.08]
    assert published_gain("ICDPO", "Base", "raw") == [16.57, 14.67, -0.58]
    with pytest.raises(InputError, match="no total of 'ICL' on SyntheticGPT"):
        published_gain("ICL", "Base", data="SyntheticGPT")


def test_every_row_stands_in_the_paper():
    text = Path(__file__).parents[2] / "shared" / "papers" / "icdpo.txt"
    if not text.exists():
        pytest.skip("no copy of the paper beside the project")
    rows = [re.findall(r"-?\d+\.\d\d", line) for line in text.read_text().splitlines() if line.count("\t") >= 3]
    printed = {tuple(map(float, row)) for row in rows if row}
    for _, part in published().groupby(["table", "data", "source", "method"]):
        values = [part.query("model == @m")["value"].tolist() for m in (*MODELS, "-")]
        assert tuple(v for model in values for v in model) in printed
