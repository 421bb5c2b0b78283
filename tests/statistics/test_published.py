"""The published numbers: internal checks, and every number under its label against a transcription of its own."""

from pathlib import Path

import pandas as pd
import pytest

from icdpo_nb.common.errors import InputError
from icdpo_nb.statistics.published import (
    MODELS,
    TABLES,
    NotReportedError,
    published,
    published_gain,
    published_rewards,
    published_rpo,
    published_sources,
    published_win_gain,
    role_of,
)
from icdpo_nb.statistics.with_paper import roles_sentence, with_published


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
    """By hand from Tables 2, 3 and 4; the models in the order of the columns."""
    assert published_gain("ICDPO", "ICL") == {"LLaMA": 7.47, "LLaMA2": 5.3, "Mistral": 5.08}
    assert list(published_gain("ICDPO", "ICL")) == list(MODELS)
    assert published_gain("ICDPO", "Base", "raw") == {"LLaMA": 16.57, "LLaMA2": 14.67, "Mistral": -0.58}
    assert published_gain("DPO + S", "DPO", "GPT-3.5") == {"LLaMA": 9.27, "LLaMA2": 0.58, "Mistral": 4.12}
    assert published_gain("DPO + S", "DPO", "LLaMA2-chat") == {"LLaMA": 5.09, "LLaMA2": 3.28, "Mistral": 2.58}
    assert published_gain("ICDPO + ŜR", "SFT", "GPT-3.5")["Mistral"] == -10.61
    with pytest.raises(NotReportedError, match="no total reward of 'ICL' on SyntheticGPT with demonstrations of 'LLaMA2-chat'"):
        published_gain("ICL", "Base", data="SyntheticGPT")
    with pytest.raises(InputError, match="no results on 'pocket', only on HH-RLHF and SyntheticGPT"):
        published_gain("ICL", "Base", data="pocket")


def test_retrieval_with_raw_demonstrations_loses_in_the_paper():
    """The reason why a source must be asked for: ŜR - Ŝ has the other sign with raw demonstrations (section 3.2, RQ3)."""
    pair = ("ICDPO + ŜR", "ICDPO + Ŝ")
    assert [*published_gain(*pair, "raw").values()] == [-0.72, -5.33, -4.78]
    assert [*published_gain(*pair, "LLaMA2-chat").values()] == [23.08, 5.97, 2.43]
    assert [*published_gain(*pair, "GPT-3.5").values()] == [18.33, 6.66, 4.9]


def test_gains_by_domain():
    """Table 2's domain columns, by hand; Table 4 has totals only, and so has SyntheticGPT."""
    assert [*published_gain("ICDPO + Ŝ", "ICDPO", "raw", domain="harmless").values()] == [-0.99, 2.71, 6.18]
    assert [*published_gain("ICDPO + Ŝ", "ICDPO", "raw", domain="helpful").values()] == [9.09, 8.36, 8.56]
    assert [*published_gain("ICDPO", "Base", "GPT-3.5", domain="helpful").values()] == [54.26, 84.0, 54.45]
    with pytest.raises(NotReportedError, match="no harmless reward of 'DPO' on HH-RLHF"):
        published_gain("DPO", "SFT", domain="harmless")
    with pytest.raises(NotReportedError, match="no helpful reward of 'ICDPO' on SyntheticGPT"):
        published_gain("ICDPO", "Base", "raw", "SyntheticGPT", "helpful")
    with pytest.raises(NotReportedError, match="no instructions reward"):
        published_gain("ICDPO", "Base", "raw", domain="instructions")


def test_gains_over_the_borrowing_baselines():
    """With LLaMA2-chat, their teacher, and with no other source: the paper compares them there only (section 3.2)."""
    assert [*published_gain("ICDPO", "RM-BoN").values()] == [56.6, 85.09, 68.29]
    assert [*published_gain("ICDPO", "RM-Aug").values()] == [53.22, 86.88, 65.49]
    assert [*published_gain("ICDPO", "RM-Aug", data="SyntheticGPT").values()] == [145.45, 177.55, 29.19]
    for source in ("raw", "GPT-3.5", None):
        with pytest.raises(NotReportedError, match="of 'RM-BoN' on HH-RLHF with" if source else "with such demonstrations"):
            published_gain("ICDPO", "RM-BoN", source)


def test_roles():
    assert {source: role_of(source) for source in ("raw", "teacher-a", "teacher-b", "mine")} == {
        "raw": "raw",
        "teacher-a": "LLaMA2-chat",
        "teacher-b": "GPT-3.5",
        "mine": None,
    }
    assert role_of("mine", ["mine=GPT-3.5"]) == "GPT-3.5"
    assert role_of("a=b", ["a=b=raw"]) == "raw", "a source is a file's name, which may hold anything"
    assert role_of("teacher-a", ["teacher-a=none", "mine=raw"]) is None
    assert role_of("raw", ["mine=raw"]) == "raw"
    with pytest.raises(NotReportedError, match="no total reward of 'ICDPO' on HH-RLHF with such demonstrations"):
        published_gain("ICDPO", "Base", role_of("mine"))


@pytest.mark.parametrize("wrong", ["mine", "mine=", "=raw", "mine=teacher-a", "mine=llama2-chat", ""])
def test_wrong_roles(wrong):
    with pytest.raises(InputError, match="write source=role, where role is one of raw, LLaMA2-chat, GPT-3.5 or none"):
        role_of("raw", [wrong])
    with pytest.raises(InputError, match="names 'mine' twice"):
        role_of("raw", ["mine=raw", "mine=GPT-3.5"])


def test_tables_as_printed():
    main = published_rewards("SyntheticGPT")
    assert list(main) == ["source", "method", *MODELS]
    assert main.iloc[0].tolist() == ["raw", "Base", -121.85, -101.01, 34.75]
    assert main["method"].tolist()[5:8] == ["SFT", "RM-Aug", "RM-BoN"]
    assert len(main) == 11
    assert len(published_rewards("HH-RLHF")) == 15
    whole = published_rewards("HH-RLHF", 3, None)
    assert list(whole)[:5] == ["source", "method", "LLaMA harmless", "LLaMA helpful", "LLaMA total"]
    assert whole.iloc[-1].tolist()[2:] == [50.85, -33.44, 8.7, 88.62, 2.16, 45.38, 72.72, 15.32, 45.51], "Table 3's last row"
    assert whole.shape == (10, 11)
    assert published_rewards("HH-RLHF", 2, "helpful").iloc[0].tolist() == ["raw", "Base", -77.53, -67.67, -33.22]
    assert list(published_rewards("HH-RLHF", 4, None)) == ["source", "method", *MODELS], "Table 4 has totals only"
    with pytest.raises(NotReportedError, match="Table 5 reports no helpful rewards on SyntheticGPT"):
        published_rewards("SyntheticGPT", domain="helpful")
    assert published_sources("HH-RLHF").iloc[0].tolist() == ["raw", 24.23, -47.62, -11.7]
    assert published_sources("SyntheticGPT").iloc[1].tolist() == ["LLaMA2-chat", 120.31]


# ------------------------------------ beside ours


def means_of(**rewards: float) -> pd.DataFrame:
    """As `method_means` gives them: raw, teacher-b and mine; the same means for each."""
    rows = [
        {"lm": "m", "source": source, "method": method, "domain": domain, "mean": v, "low": v - 1, "high": v + 1, "n": 9}
        for source in ("raw", "teacher-b", "mine")
        for method, v in rewards.items()
        for domain in ("harmless", "small talk", "total")
    ]
    return pd.DataFrame(rows)


def test_our_means_stand_beside_those_of_the_same_role():
    """By hand from Tables 2 and 3: the domain column, the source's own block, and nothing where the paper has nothing."""
    means = means_of(**{"Base": 1.0, "RM-BoN": 2.0, "ICL": 3.0, "ICDPO": 4.0})
    table = with_published(means, ["mine=LLaMA2-chat"])
    assert list(table) == [
        "demonstrations", "paper's source", "method", "harmless here", "harmless, paper", "small talk here",
        "small talk, paper", "total here", "total, paper",
    ]  # fmt: skip
    by = table.set_index(["demonstrations", "method"])
    assert len(by) == 2 + 3 * 2, "what needs no demonstrations stands once"
    assert by["harmless here"]["raw", "ICDPO"] == "4.00 [3.00, 5.00]"
    assert by["harmless, paper"]["raw", "ICDPO"] == "25.02 / 39.81 / 26.60"
    assert by["harmless, paper"]["teacher-b", "ICL"] == "52.73 / 88.00 / 75.46"
    assert by["total, paper"]["teacher-b", "ICDPO"] == "20.31 / 53.94 / 53.16"
    assert by["total, paper"]["mine", "ICDPO"] == "25.56 / 62.27 / 68.81"
    assert by["total, paper"]["none", "Base"] == "-36.54 / -30.72 / -11.82"
    assert by["total, paper"]["none", "RM-BoN"] == "-31.04 / -22.82 / 0.52"
    assert by["paper's source"]["none", "RM-BoN"] == "LLaMA2-chat, as the teacher"
    assert by["harmless, paper"]["raw", "ICL"] == "–", "Table 3 has no raw demonstrations"
    assert set(by["small talk, paper"]) == {"–"}
    nobody = with_published(means).set_index(["demonstrations", "method"])
    assert nobody["paper's source"]["mine", "ICDPO"] == nobody["total, paper"]["mine", "ICDPO"] == "–"


def test_an_only_domain_stands_beside_the_total():
    """SyntheticGPT has totals only (Table 5); ICDPO + Ŝ with raw demonstrations."""
    means = means_of(**{"ICDPO + Ŝ": 1.0}).query("domain == 'small talk' and source == 'raw'")
    (row,) = with_published(means, data="SyntheticGPT").to_dict("records")
    assert (row["small talk here"], row["total, paper"]) == ("1.00 [0.00, 2.00]", "29.37 / 83.34 / 78.34")
    one = means_of(ICDPO=1.0).query("domain == 'harmless' and source == 'raw'")
    assert with_published(one)["harmless, paper"].tolist() == ["25.02 / 39.81 / 26.60"], "a domain that the paper has"


def test_nothing_stands_beside_other_data():
    """Where no source has a role, the paper's Base and RM-BoN are of another task, too."""
    means = means_of(**{"Base": 1.0, "RM-BoN": 2.0, "ICDPO": 3.0}).query("source == 'raw'")
    table = with_published(means, ["raw=none"])
    assert set(table.filter(like="paper").to_numpy().ravel()) == {"–"}


def test_roles_sentence():
    said = roles_sentence(["teacher-a", "mine"])
    assert said == "Sources compared with those of the paper: teacher-a with LLaMA2-chat, mine with none."
    with pytest.raises(InputError, match="write source=role"):
        roles_sentence(["raw"], ["raw:GPT-3.5"])


# ------------------------------------ every number, by its printed label

# Transcribed from the papers by their own labels, apart from the package's tables. The heading of RPO's Table 3 is
# "RPO Win Rate (%)".
PRINTED = pd.read_csv(Path(__file__).parent / "published.csv", keep_default_na=False)
BLOCKS = {
    "HH-RLHF_raw": ("HH-RLHF", "raw"),
    "SytheticGPT_raw": ("SyntheticGPT", "raw"),
    "LLaMA2-chat": (None, "LLaMA2-chat"),
    "GPT-3.5-turbo": (None, "GPT-3.5"),
}


def printed_icdpo() -> dict[tuple, float]:
    """The rows of ICDPO's tables: (table, data, source, method, model, domain) -> value, in this workbook's names."""
    found = {}
    for row in PRINTED[PRINTED["paper"] == "ICDPO"].itertuples():
        data, source = BLOCKS[row.block]
        if row.table == 1:  # its rows are the sources
            source, method, model = {"Raw": "raw", "GPT-3.5-turbo": "GPT-3.5"}.get(row.row, row.row), "Source", "-"
        else:
            method, model = row.row.replace("+", " + "), row.model
        data = data or ("SyntheticGPT" if row.table == 5 else "HH-RLHF")
        found[row.table, data, source, method, model, row.column.lower()] = row.value
    return found


def test_every_number_stands_under_its_printed_label():
    """Complete both ways: what is printed is held, and nothing else is."""
    printed = printed_icdpo()
    held = {tuple(row[:-1]): row[-1] for row in published().itertuples(index=False)}
    assert len(held) == len(published()) == 287
    assert held == printed


def test_rows_and_models_stand_in_the_printed_order():
    for (table, data), part in published().query("table > 1").groupby(["table", "data"]):
        keys = [key for key in printed_icdpo() if key[:2] == (table, data)]
        ours = [tuple(row) for row in part[["table", "data", "source", "method", "model", "domain"]].itertuples(index=False)]
        assert ours == keys


@pytest.mark.parametrize(("name", "noted"), [
    ("icdpo.csv", ["3,HH-RLHF,GPT-3.5,ICL_uni,Mistral,total,45.51"]),
    ("rpo.csv", ["8,Anthropic-HH,Mistral-7B,RPO,temperature 0.3,72.48"]),
])  # fmt: skip
def test_tables_are_written_as_printed(name, noted):
    """Two digits after the point, and a note where a number does not fit the others: one a paper."""
    cells = pd.read_csv(TABLES / name, dtype=str, keep_default_na=False)
    assert cells["value"].str.fullmatch(r"-?\d+\.\d\d").all()
    assert [",".join(row[:-1]) for row in cells[cells["note"] != ""].itertuples(index=False)] == noted


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


def printed_rpo() -> dict[tuple, float]:
    """The rows of RPO's tables: (table, data, model, method, setting) -> value, in this workbook's names."""
    labels = {
        "Uniform Weighting": ("RPO", "uniform weights"),
        "Diagonal Weighting (α=0.8)": ("RPO", "diagonal weights, α = 0.8"),
        "Embedding Reweighting (Unpaired, τ=0.75)": ("RPO-Unpaired", "τ = 0.75, all-MiniLM-L6-v2"),
        "Embedding Reweighting (Paired, τ=0.5)": ("RPO-Paired", "τ = 0.5, all-MiniLM-L6-v2"),
        "RPO-Unpaired (τ=0.75)": ("RPO-Unpaired", "τ = 0.75"),
        "RPO-Paired (τ=0.5)": ("RPO-Paired", "τ = 0.5"),
        "Prompt-Only": ("RPO", "weights from prompts"),
        "Integrated Prompt-Response": ("RPO", "weights from prompts and responses"),
    }
    found = {}
    for row in PRINTED[PRINTED["paper"] == "RPO"].itertuples():
        label = ("RPO", row.row) if row.row.startswith("τ") else labels.get(row.row, (row.row, ""))
        setting = ", ".join(text.replace("=", " = ") for text in (label[1].replace(" = ", "="), row.block) if text)
        found[row.table, row.column, row.model, label[0], setting] = row.value
    return found


def test_every_win_rate_of_rpo_stands_under_its_printed_label():
    held = {tuple(row[:-1]): row[-1] for row in published_rpo().itertuples(index=False)}
    assert len(held) == len(published_rpo()) == 75
    assert held == printed_rpo()


def test_published_win_gains():
    """RPO-Paired over DPO by hand, from Table 4, in its order: 68.75 - 63.67, 72.66 - 63.28, 78.52 - 72.26."""
    gains = published_win_gain("RPO-Paired", "DPO")
    assert list(gains.items()) == [("LLaMA2-7B", 5.08), ("LLaMA2-13B", 9.38), ("Mistral-7B", 6.26)]
    assert published_win_gain("RPO-Paired", "DPO", "OpenAI Summarization") == {"Mistral-7B": 1.17}
    assert published_win_gain("RPO-Paired", "DPO", "AlpacaEval2.0") == {"Mistral-7B": 8.04}
    with pytest.raises(NotReportedError, match="no win rate of ORPO on 'Anthropic-HH'"):
        published_win_gain("ORPO", "DPO")
