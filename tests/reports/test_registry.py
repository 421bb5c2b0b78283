"""The registry of claims: what it names is there, its numbers are the papers', and its names are those of the notebooks."""

import ast
import csv
import re

import pytest

from icdpo_nb.reports import front, job
from icdpo_nb.reports.registry import REGISTRY, parts_of, read_claims
from icdpo_nb.statistics.published import published_gain, published_rpo
from icdpo_nb.statistics.verdicts import by_model

CLAIMS = read_claims()
NAMED = {claim.claim: claim for claim in CLAIMS}


def test_the_registry_is_of_both_papers():
    assert 20 <= len(CLAIMS) <= 40
    assert {claim.paper for claim in CLAIMS} == set(front.PAPERS)
    places = {paper: {n for c in CLAIMS if c.paper == paper for n in re.findall(r"\d+|E$", c.place)} for paper in front.PAPERS}
    assert places["ICDPO"] >= {"1", "2", "3", "4", "5", "E"}
    assert places["RPO"] == {"1", "2", "3", "4", "6", "7", "8"}
    assert len(NAMED) == len(CLAIMS), "a claim stands twice"
    with REGISTRY.open(newline="") as file:
        assert all(None not in row and None not in row.values() for row in csv.DictReader(file))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim[:40])
def test_every_claim_names_what_is_there(claim):
    """A notebook with that heading, a preset with that value, known roles; or the reason why there is no test."""
    assert claim.claim.endswith(".")
    assert set(parts_of(claim.roles)) <= {"raw", "LLaMA2-chat", "GPT-3.5"}
    assert (claim.notebook == "") == (claim.reason != "")
    if not claim.notebook:
        return
    assert {claim.notebook, *claim.tests} <= set(job.notebook_names())
    assert claim.command.startswith(f"icdpo-nb report {claim.notebook}")
    node, declared = job.open_notebook(claim.notebook)
    prose = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    assert claim.exhibit in [h.replace(" ", "-") for h in re.findall("^## (.+)$", prose, re.M)]
    values = [
        job.read_job(notebook, {}, claim.preset or None if notebook == claim.notebook else None).values
        for notebook in claim.tests
    ]
    key, _, value = claim.where.partition("=")
    assert not key or not claim.tests or value in [of.get(key) for of in values]


@pytest.mark.parametrize("claim", [c for c in CLAIMS if "RM_test" in c.unit and c.names], ids=lambda c: c.claim[:40])
def test_the_numbers_of_icdpo_are_those_of_its_tables(claim):
    for role in parts_of(claim.roles):
        data = claim.where.partition("=")[2] or "HH-RLHF"
        (pair,) = (name.split(" > ") for name in parts_of(claim.names))
        assert claim.found_by_role[role] == by_model(published_gain(*pair, source=role, data=data)).replace(" -", " −")


def test_the_numbers_of_rpo_are_those_of_its_tables():
    found = emitted("08_relative_preference")
    for claim in (c for c in CLAIMS if c.notebook == "08_relative_preference"):
        printed = [gain for name in parts_of(claim.names) for gain in found[name]]
        assert re.findall(r"[+−][\d.]+", claim.found) == [f"{gain:+.1f}" for gain in printed], claim.claim
    values = (
        published_rpo().query("table == 4 and data == 'Anthropic-HH'").pivot(index="model", columns="method", values="value")
    )
    gains = (values["RPO-Paired"] - values["PPO"]).map("{:+.1f}".format)
    assert all(gain in NAMED["RPO is better than PPO."].found for gain in gains)


def emitted(notebook: str) -> dict[str, list[float]]:
    """The claims that a notebook emits, by name, from its own lines; with the paper's differences where it computes them."""
    from icdpo_nb import statistics
    from icdpo_nb.analyses import likelihood, relative_preference, sandbox_claims
    from icdpo_nb.training import Recipe, recipe_settings

    node, declared = job.open_notebook(notebook)
    if notebook == "10_sandbox_validation":
        return dict.fromkeys(sandbox_claims.CLAIMS, ())
    if notebook == "03_demo_source_nll":
        return dict.fromkeys((likelihood.NEARER, likelihood.BETTER), ())
    if notebook == "08_relative_preference":
        own = recipe_settings("workbook", {"batch": 8}, learning_rate=0.0, batch=0)
        rows, _ = relative_preference.rpo_rows([1, 2, 3, 4, 6, 7, 8], relative_preference.Case(Recipe("RPO-Paired", **own)))
        found = relative_preference.best_of_paper(rows)
        return {" > ".join(pair): list(said.gains.values()) for pair, said in found.items()}
    names = {name: parameter.default for name, parameter in declared.items()} | {"statistics": statistics, "teacher_lm": True}
    for cell in (c for c in node.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])):
        for line in ast.parse(cell.source).body:
            target = getattr(line, "target", None) or getattr(line, "targets", [None])[0]
            filters = isinstance(getattr(line, "value", None), ast.ListComp) and "means" in ast.unparse(line)
            if getattr(target, "id", "") in ("pairs", "tuned_pairs", "reported", "paper_says") and not filters:
                try:
                    exec(ast.unparse(line), names)
                except (NameError, KeyError):
                    continue
    pairs = [p for key in ("pairs", "tuned_pairs", "paper_says") for p in names.get(key, ()) if isinstance(p, tuple)]
    return {f"{method} > {baseline}": () for method, baseline in pairs}


def test_the_claims_names_are_those_of_the_notebooks():
    wanted = {(notebook, name) for claim in CLAIMS for notebook, names in claim.tests.items() for name in names}
    for notebook in {n for n, _ in wanted}:
        assert {name for n, name in wanted if n == notebook} <= emitted(notebook).keys(), notebook
