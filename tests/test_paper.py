"""The published numbers: internal checks, and against the paper's text where a copy lies beside the project."""

import re
from pathlib import Path

import pytest

from icdpo_nb.paper import MODELS, NotReportedError, published, published_gain, published_rewards, published_sources
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
    with pytest.raises(NotReportedError, match="no total of 'ICL' on SyntheticGPT"):
        published_gain("ICL", "Base", data="SyntheticGPT")
    with pytest.raises(InputError, match="no results on 'pocket', but on HH-RLHF and SyntheticGPT"):
        published_gain("ICL", "Base", data="pocket")


def test_gains_over_the_borrowing_baselines():
    assert published_gain("ICDPO", "RM-BoN") == [56.6, 85.09, 68.29]
    assert published_gain("ICDPO", "RM-Aug") == [53.22, 86.88, 65.49]
    assert published_gain("ICDPO", "RM-Aug", data="SyntheticGPT") == [145.45, 177.55, 29.19]


def test_tables_as_printed():
    main = published_rewards("SyntheticGPT")
    assert list(main) == ["source", "method", *MODELS]
    assert main.iloc[0].tolist() == ["raw", "Base", -121.85, -101.01, 34.75]
    assert main["method"].tolist()[5:8] == ["SFT", "RM-Aug", "RM-BoN"]
    assert len(main) == 11
    assert len(published_rewards("HH-RLHF")) == 15
    assert published_sources("HH-RLHF").iloc[0].tolist() == ["raw", 24.23, -47.62, -11.7]
    assert published_sources("SyntheticGPT").iloc[1].tolist() == ["LLaMA2-chat", 120.31]


def test_every_row_stands_in_the_paper():
    text = Path(__file__).parents[2] / "shared" / "papers" / "icdpo.txt"
    if not text.exists():
        pytest.skip("no copy of the paper beside the project")
    rows = [re.findall(r"-?\d+\.\d\d", line) for line in text.read_text().splitlines() if line.count("\t") >= 3]
    printed = {tuple(map(float, row)) for row in rows if row}
    for _, part in published().groupby(["table", "data", "source", "method"]):
        values = [part.query("model == @m")["value"].tolist() for m in (*MODELS, "-")]
        assert tuple(v for model in values for v in model) in printed
