"""RPO's tables: printed rows as experiments, their training from several seeds, and what they are compared by."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FEW_PAIRS, SMALL_RECIPE, Lengths, training_in

from icdpo_nb.analyses.relative_preference import (
    MAIN,
    RPO_TABLES,
    Case,
    answer,
    best_of_paper,
    case_answers,
    read_case,
    rpo_rows,
    train_cases,
    with_paper,
)
from icdpo_nb.common.errors import InputError
from icdpo_nb.models.lm import load_lm
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.statistics.findings import AGREES, HIGHER, NOT, OPEN, SAME
from icdpo_nb.statistics.published import published_rpo
from icdpo_nb.templates import base_context
from icdpo_nb.training.finetune import training_record
from icdpo_nb.training.recipes import Recipe, paper_recipe

DEFAULT = Case(Recipe("RPO-Paired", batch=8))
ALL = [1, 2, 3, 4, 6, 7, 8]


def test_the_papers_recipe_has_the_papers_matrices():
    """64 pairs on eight GPUs are matrices of 8: the batch of 8 in Table 3, of which 6 does not fill a step."""
    rows, cases = rpo_rows([1, 3], Case(paper_recipe("RPO-Paired")))
    assert list(rows.loc[rows["table"] == 3, "policy"]) == ["RPO-Paired, batch 2", "RPO-Paired, batch 4", "", "RPO-Paired"]
    assert {case.recipe.optimizer for case in cases.values()} == {"rmsprop"}
    assert cases["RPO-Paired"].recipe.matrix == 8


@pytest.mark.parametrize(("method", "setting", "recipe", "other"), [
    ("RPO", "", {}, {}),
    ("DPO", "β = 0.5", {"method": "DPO", "beta": 0.5}, {}),
    ("RPO", "uniform weights", {"weighting": "uniform"}, {}),
    ("RPO", "diagonal weights, α = 0.7", {"weighting": "diagonal", "alpha": 0.7}, {}),
    ("RPO-Unpaired", "τ = 0.75, all-MiniLM-L6-v2", {"method": "RPO-Unpaired", "tau": 0.75}, {}),
    ("RPO", "τ = 0.25, sentence-t5-large", {"tau": 0.25}, {"encoder": "sentence-t5-large"}),
    ("RPO", "batch 4", {"matrix": 4}, {}),
    ("RPO", "weights from prompts and responses", {"encoded": "prompt+response"}, {}),
    ("KTO", "temperature 0.3", {"method": "KTO"}, {"temperature": 0.3}),
])  # fmt: skip
def test_a_printed_row_is_read_as_an_experiment(method, setting, recipe, other):
    assert read_case(method, setting, DEFAULT) == Case(Recipe(**{"method": "RPO-Paired", "batch": 8} | recipe), **other)


@pytest.mark.parametrize("setting", ["gamma = 1", "τ = x", "weights from responses", "batch 2.5", "uniform weights; α = 1"])
def test_settings_that_are_not_read(setting):
    with pytest.raises(InputError, match="is unknown; write it as in the paper"):
        read_case("RPO", setting, DEFAULT)


def test_bad_rows():
    with pytest.raises(InputError, match="no win rates in table 5"):
        rpo_rows([1, 5], DEFAULT)
    with pytest.raises(InputError, match="method is 'ORPO'"):
        rpo_rows([1], DEFAULT, also=["ORPO, batch 2"])
    with pytest.raises(InputError, match="matrix is 9"):
        rpo_rows([1], DEFAULT, also=["RPO, batch 9"])


def test_every_printed_row_is_an_experiment_or_published_only():
    """Rows that mean the same are one experiment, whatever table they stand in."""
    rows, cases = rpo_rows(ALL, DEFAULT, also=["RPO-Unpaired, uniform weights"])
    assert set(rows["table"]) == set(RPO_TABLES)
    lacking = rows[rows["policy"] == ""]
    assert list(lacking.loc[lacking["table"] != 2, "method"]) == ["RPO", "PPO"]
    assert list(lacking.loc[lacking["table"] == 3, "setting"]) == ["batch 6"], "it does not divide a step of 8 pairs"
    assert "RPO-Paired, batch 6" in rpo_rows([3], Case(Recipe("RPO-Paired", batch=24)))[1]
    assert not lacking["setting"].str.contains("MiniLM").any()
    assert set(rows["policy"]) - {""} == set(cases)
    assert len({case.effective for case in cases.values()}) == len(cases), "names and experiments are one to one"
    for row in rows[rows["policy"] != ""].itertuples():
        assert cases[row.policy].effective == read_case(row.method, row.setting, DEFAULT).effective
    same = rows[rows["policy"] == "RPO-Paired"]
    assert list(same["table"]) == [1, 2, 3, 4, 6, 7, 8]
    assert rows.set_index("policy").loc["DPO, β = 0.8", "paper"] == (58.59,)
    assert "RPO-Unpaired, uniform weights" in cases
    more, _ = rpo_rows([2], DEFAULT, ["all-MiniLM-L6-v2", "sentence-t5-large"])
    assert (more["policy"] == "").sum() == 3


def test_alpha_counts_where_the_weights_are_diagonal():
    """A part of a setting is named if it makes another experiment."""
    _, cases = rpo_rows([4], DEFAULT, also=["RPO, diagonal weights, α = 0.8", "RPO, diagonal weights, α = 0.5", "RPO, α = 0.5"])
    assert {"RPO-Paired, diagonal weights", "RPO-Paired, diagonal weights, α = 0.5", "RPO-Paired"} <= set(cases)
    assert len(cases) == len({"SFT", "IPO", "DPO", "KTO", "RPO-Unpaired", "RPO-Paired"}) + 2


def test_what_is_compared_follows_from_the_paper():
    said = best_of_paper(rpo_rows([1, 4, 7], DEFAULT)[0])
    of_models = {"LLaMA2-7B": 5.08, "LLaMA2-13B": 9.38, "Mistral-7B": 6.26}  # Table 4's; Tables 1 and 7 have Mistral alone
    assert said["RPO-Paired", "DPO"].gains == of_models
    assert said["RPO-Paired", "SFT"].text == "LLaMA2-7B +22.9, LLaMA2-13B +24.6, Mistral-7B +30.3"
    assert said["RPO-Paired, β = 0.5", "KTO, β = 0.5"].gains == {"Mistral-7B": 3.13}
    assert ("RPO-Paired, β = 0.5", "DPO, β = 0.8") not in said
    assert all(a != b for a, b in said)


def test_beside_the_paper():
    """Every column that the paper prints stands there by its name: base models, and what it prints of other data."""
    rows, _ = rpo_rows([4, 6, 8], DEFAULT, also=["RPO, batch 2"])
    wins = pd.DataFrame([("DPO", 60.0, 55.0, 65.0, 9), ("RPO-Paired, batch 2", 1.0, 0.5, 2.0, 9)],
                        columns=["method", "mean", "low", "high", "n"])  # fmt: skip
    table = with_paper(rows, 4, wins, wins, larger=wins.assign(mean=7.0)).set_index("method").drop(columns="setting")
    assert dict(table.loc["DPO"]) == {
        "win rate here, %": "60.0 [55.0, 65.0]",
        "reward here": "60.00 [55.00, 65.00]",
        "with larger scores, %": "7.0 [55.0, 65.0]",
        "paper, LLaMA2-7B, Anthropic-HH, %": "63.67",
        "paper, LLaMA2-13B, Anthropic-HH, %": "63.28",
        "paper, Mistral-7B, Anthropic-HH, %": "72.26",
        "paper, Mistral-7B, OpenAI Summarization, %": "48.83",
        "paper, Mistral-7B, AlpacaEval2.0, %": "30.84",
    }
    assert list(table.loc["PPO"])[:3] == ["published only", "–", "–"]
    assert list(with_paper(rows, 6, wins, wins)["paper, Mistral-7B, AlpacaEval2.0, %"]) == ["38.88", "35.47"]
    assert list(with_paper(rows, 8, wins, wins)["paper, Mistral-7B, %"])[:3] == ["72.26", "70.70", "72.65"]
    assert list(with_paper(rows, 0, wins, wins).iloc[0]) == ["RPO", "batch 2", "1.0 [0.5, 2.0]", "1.00 [0.50, 2.00]"]


@pytest.mark.parametrize("table", ALL)
def test_no_published_win_rate_is_left_out(table):
    """As many numbers stand in the reader's table as the paper prints in its own."""
    rows, _ = rpo_rows([table], DEFAULT)
    none = pd.DataFrame(columns=["method", "mean", "low", "high", "n"])
    found = with_paper(rows, table, none, none).filter(like="paper, ").to_numpy().ravel()
    shown = sorted(float(text) for text in found if isinstance(text, str))
    assert shown == sorted(published_rpo().query("table == @table")["value"])


def test_the_answer_has_the_main_claim_and_counts_the_others():
    columns = ["source", "claim", "mean", "finding", "verdict"]
    rows = [("one recipe", MAIN, 5.14, HIGHER, AGREES), ("one recipe", "C > D", -1, OPEN, OPEN)]
    rows += [("another", MAIN, 0.1, SAME, SAME), ("a third", "C > D", 1, OPEN, NOT)]
    reported = "that the paper reports for the same role"
    assert answer(pd.DataFrame(rows, columns=columns)) == [
        f"With one recipe: RPO-Paired beats DPO, by 5.1 percentage points. Of 2 comparisons {reported}, 1 agrees and 1 cannot "
        "be decided.",
        "With another: RPO-Paired changes nothing against DPO. The paper reports one of these comparisons: it changed nothing.",
        "With a third: The paper reports none of these comparisons for the same role.",
    ]


@pytest.fixture(scope="module")
def trained(tuned_base, tmp_path_factory):
    """SFT, DPO and RPO with a matrix of two, from two seeds; DPO also at another temperature."""
    with training_in(tmp_path_factory.mktemp("cache")):
        lm = load_lm(tuned_base)
        default = Case(Recipe("RPO-Paired", **SMALL_RECIPE))
        names = {"SFT": ("SFT", ""), "DPO": ("DPO", ""), "warm": ("DPO", "temperature 0.7"), "RPO, batch 2": ("RPO", "batch 2")}
        cases = {name: read_case(*row, default) for name, row in names.items()}
        return cases, train_cases({3: lm, 4: lm}, FEW_PAIRS, cases, {default.encoder: Lengths()})


def test_policies_are_trained_from_every_seed(tuned_base, trained):
    cases, policies = trained
    assert set(policies) == {(name, seed) for name in cases for seed in (3, 4)}
    assert policies["SFT", 3] == policies["SFT", 4] == tuned_base, "the SFT policy is what the others begin as"
    assert policies["DPO", 3] == policies["warm", 3] != policies["DPO", 4]
    folder = Path(policies["RPO, batch 2", 4].partition("+")[2])
    assert {k: training_record(folder)["recipe"][k] for k in ("seed", "matrix", "method")} == {
        "seed": 4, "matrix": 2, "method": "RPO-Paired",
    }  # fmt: skip


def test_what_they_answer(trained):
    """Greedy where no temperature is named, and a win is a higher reward than the chosen response's."""
    cases, policies = trained
    protocol, prompts = RECOMMENDED.but(max_new_tokens=12, n_candidates=2), FEW_PAIRS[:3]
    answers, work = case_answers(prompts, policies, cases, Lengths(), protocol, store=False)
    sizes = answers.groupby(["method", "seed"]).size()
    assert sizes["warm"].tolist() == [6, 6]
    assert sizes["DPO"].tolist() == sizes["SFT"].tolist() == [3, 3]
    assert len(work) == len(set(policies.values()))
    adapters = answers.groupby(["method", "seed"])["adapter"].unique()
    assert all(len(names) == 1 for names in adapters)
    assert adapters["DPO", 3] == adapters["warm", 3], "two settings of one policy"
    assert len({names[0] for names in adapters}) == len(set(policies.values()))
    assert adapters["DPO", 4][0].endswith(Path(policies["DPO", 4].rpartition("+")[2]).name)
    assert "/" not in adapters["DPO", 4][0].partition("+")[2]
    lm = load_lm(policies["DPO", 4])
    greedy = lm.sample([base_context(p.prompt) for p in prompts], 1, protocol.but(top_k=1))
    found = answers[(answers["method"] == "DPO") & (answers["seed"] == 4)]
    assert list(found["response"]) == [ys[0].text for ys in greedy]
    chosen = {p.prompt_id: len(p.chosen) for p in prompts}
    for row in answers.itertuples():
        gap = len(row.response) - chosen[row.prompt_id]
        assert (row.reward, row.win) == (len(row.response), 50 + 50 * np.sign(gap))


@pytest.mark.slow
def test_side_by_side_is_as_one_by_one(tuned_base, tmp_path, monkeypatch):
    """Processes of their own train what this one would, each adapter once; and what is wrong in one is said here."""
    from icdpo_nb.training import finetune

    monkeypatch.setenv("TQDM_DISABLE", "1")
    lm, small = load_lm(tuned_base), Recipe("RPO-Paired", **SMALL_RECIPE)
    plans = {i: finetune.Plan(lm, FEW_PAIRS, r, Lengths()) for i, r in enumerate([Recipe("SFT", **SMALL_RECIPE), small, small])}
    losses = {}
    for at_a_time in (1, 2):
        monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / str(at_a_time)))
        monkeypatch.setattr(finetune, "_at_a_time", lambda jobs, n=at_a_time: (n, 1))
        folders = finetune.fine_tune_all(plans)
        assert folders[1] == folders[2] != folders[0]
        losses[at_a_time] = [training_record(folders[i])["losses"] for i in range(2)]
    for one, two in zip(losses[1], losses[2], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4)
    wild = SMALL_RECIPE | {"learning_rate": 1e30}
    bad = {method: finetune.Plan(lm, FEW_PAIRS, Recipe(method, **wild)) for method in ("SFT", "DPO")}
    with pytest.raises(InputError, match="the loss was no longer finite"):
        finetune.fine_tune_all(bad)
