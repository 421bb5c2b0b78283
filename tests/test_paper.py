"""The published numbers: internal checks, and against the paper's text where a copy lies beside the project."""

import re
from pathlib import Path

import pytest

from icdpo_nb.paper import (
    MODELS,
    NotReportedError,
    published,
    published_gain,
    published_rewards,
    published_rpo,
    published_sources,
    published_win_gain,
)
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


def paper(name: str) -> list[str]:
    """The lines of a paper's text, where a copy lies beside the project."""
    text = Path(__file__).parents[2] / "shared" / "papers" / f"{name}.txt"
    if not text.exists():
        pytest.skip("no copy of the paper beside the project")
    return text.read_text(encoding="utf-8").splitlines()


def test_every_row_stands_in_the_paper():
    rows = [re.findall(r"-?\d+\.\d\d", line) for line in paper("icdpo") if line.count("\t") >= 3]
    printed = {tuple(map(float, row)) for row in rows if row}
    for _, part in published().groupby(["table", "data", "source", "method"]):
        values = [part.query("model == @m")["value"].tolist() for m in (*MODELS, "-")]
        assert tuple(v for model in values for v in model) in printed


# ---------------------------------------------------------------- RPO


def rpo(table: int, **where) -> list[float]:
    """The win rates of a table, of the rows where the columns have these values."""
    rows = published_rpo().query("table == @table")
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows["value"].tolist()


def test_rpo_by_hand():
    assert list(published_rpo()) == ["table", "data", "model", "method", "setting", "value"]
    assert published_rpo().groupby("table").size().to_dict() == {1: 5, 2: 9, 3: 4, 4: 35, 6: 4, 7: 9, 8: 9}
    assert not published_rpo().duplicated(["table", "data", "model", "method", "setting"]).any()
    assert rpo(1, setting="diagonal weights, α = 0.8") == [69.92]
    assert rpo(1, method="RPO-Unpaired", setting="τ = 0.75, all-MiniLM-L6-v2") == [75.0]
    assert rpo(2, setting="τ = 0.5, sentence-t5-large", model="LLaMA2-7B") == [65.23]
    assert rpo(3, setting="batch 4") == [74.6]
    assert rpo(4, method="KTO") == [67.78, 71.48, 61.13, 39.45, 15.06]
    assert rpo(4, method="RPO-Paired", data="OpenAI Summarization", model="Mistral-7B", setting="τ = 0.5") == [50.0]
    assert rpo(4, data="AlpacaEval2.0") == [13.68, 15.0, 21.62, 30.84, 15.06, 31.24, 38.88]
    assert rpo(6, data="Anthropic-HH", setting="weights from prompts and responses") == [80.86]
    assert rpo(7, method="DPO", setting="β = 0.5") == [64.85]
    assert rpo(8, method="RPO", setting="temperature 0.3") == [72.48]


def test_rpo_is_the_same_in_all_tables():
    """On Anthropic-HH with Mistral-7B, batch 8, β = 0.1 and temperature 0."""
    where = {"data": "Anthropic-HH", "model": "Mistral-7B"}
    paired = rpo(1, method="RPO-Paired") + rpo(3, setting="batch 8") + rpo(6, setting="weights from prompts", **where)
    settings = ((7, "β = 0.1"), (8, "temperature 0.0"))
    paired += [value for table, setting in settings for value in rpo(table, method="RPO", setting=setting)]
    assert set(paired) == {78.52} == set(rpo(4, method="RPO-Paired", **where))
    for method in ("DPO", "KTO"):
        found = [value for table, setting in settings for value in rpo(table, method=method, setting=setting)]
        assert found == rpo(4, method=method, **where) * 2
    assert rpo(2, setting="τ = 0.5, all-MiniLM-L6-v2") == rpo(4, method="RPO-Paired", model="LLaMA2-7B")


def test_win_rates_of_rpo_are_numbers_of_comparisons():
    """Of 256 (Table 5), in halves; some are cut, not rounded, to two digits."""
    rates = published_rpo().query("data != 'AlpacaEval2.0'")
    off = (rates["value"] - (rates["value"] * 5.12).round() / 5.12).abs() > 0.01
    assert rates[off][["table", "method", "setting"]].values.tolist() == [[8, "RPO", "temperature 0.3"]]


def test_every_win_rate_of_rpo_stands_in_the_paper():
    """Each table's numbers, line by line in its order, and no other; the τ of a row has one digit before the point."""
    lines = paper("rpo")
    for table, part in published_rpo().groupby("table"):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"Table {table}: ")) + 1
        end = next(i for i in range(start, len(lines)) if not lines[i].strip() or lines[i].startswith("Table "))
        assert part["value"].tolist() == [float(x) for x in re.findall(r"\b\d\d\.\d\d\b", " ".join(lines[start:end]))]
        for method, row in part.groupby("method"):  # the names beside their numbers, where the paper prints them so
            printed = [line for line in lines[start:end] if line.startswith(f"{method} ")]
            if table in (4, 7, 8):
                assert [float(x) for x in re.findall(r"\b\d\d\.\d\d\b", printed[0])] == row["value"].tolist()


def test_published_win_gains():
    """RPO-Paired over DPO by hand, from Table 4, models in alphabetical order: 72.66 - 63.28, 68.75 - 63.67, 78.52 - 72.26."""
    assert published_win_gain("RPO-Paired", "DPO") == [9.38, 5.08, 6.26]
    with pytest.raises(NotReportedError, match="no win rate of ORPO on 'Anthropic-HH'"):
        published_win_gain("ORPO", "DPO")
