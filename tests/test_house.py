"""The house rules that a machine can check: reading order, sizes, docstrings, packaging."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import icdpo_nb

ROOT = Path(__file__).parents[1]
MODULES = list(icdpo_nb.READING_ORDER)


def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / "icdpo_nb" / f"{module}.py").read_text(encoding="utf-8"))


def test_reading_order_names_every_module():
    assert sorted(MODULES) == sorted(p.stem for p in (ROOT / "icdpo_nb").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_above(module):
    above = set(MODULES[: MODULES.index(module)])
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [a.name for a in node.names]
            assert {n.split(".")[0] for n in names} <= above | {"sandbox"}, f"{module} imports {names}"  # a world of its own


@pytest.mark.parametrize("module", MODULES)
def test_public_things_are_documented_and_functions_fit_a_screen(module):
    assert ast.get_docstring(tree(module))
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{module}.{node.name}"
    for node in tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


def test_public_names_exist_and_no_module_hides_one():
    """Whatever imports a module puts it on the package under its name, before the public name of the same spelling."""
    assert not set(icdpo_nb.__all__) & set(MODULES)
    for name in icdpo_nb.__all__:
        assert getattr(icdpo_nb, name)


def test_import_is_light():
    code = "import sys, icdpo_nb; print([m for m in ('torch', 'transformers', 'pandas', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_environments_do_not_drift():
    """conda users get Python and pip, and then exactly what pip users get."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    plain, pip = [d for d in conda if isinstance(d, str)], next(d["pip"] for d in conda if isinstance(d, dict))
    assert [re.split("[=<>]", d)[0] for d in plain] == ["python", "pip"]
    assert pip[0] == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.*)\]", pip[1]).group(1)
    assert len(pip) == 2
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert f"'.[{extras}]'" in (ROOT / "Makefile").read_text()
    floor = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    assert tuple(map(int, plain[0].removeprefix("python=").split("."))) >= floor


def test_every_dependency_has_a_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}
    for dependency in wanted:
        assert re.sub(r"[-_.]+", "-", re.split(r"[=<>~ \[]", dependency)[0]).lower() in pinned, dependency
    assert pinned["torch"] == "2.13.0"
    nine = {
        "jupyterlab",
        "papermill",
        "torch",
        "transformers",
        "rank-bm25",
        "sentence-transformers",
        "seaborn",
        "scipy",
        "datasets",
    }
    assert nine <= {re.split(r"[=<>~ \[]", d)[0] for d in project["dependencies"]}


def test_readme_promises_what_is_there():
    readme = (ROOT / "README.md").read_text()
    from icdpo_nb.report import notebook_names

    assert re.findall(r"^\| `(\d\d_\w+)`", readme, re.M) == notebook_names()
    for target in re.findall(r"^make (\w+)", readme, re.M):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    positions = [readme.index(f"`{m}`", readme.index("## Reading the code")) for m in MODULES if m not in ("sources",)]
    assert positions == sorted(positions), "the README's reading order"
