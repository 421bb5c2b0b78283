"""The house rules that a machine can check: reading order, sizes, docstrings, packaging."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import icdpo_nb

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "icdpo_nb"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
NAMES = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") for path in MODULES}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_of(room: str) -> list[str]:
    """The modules of a room in the order in which its docstring names them."""
    said = ast.get_docstring(tree(PACKAGE / room / "__init__.py"))
    files = {p.stem for p in (PACKAGE / room).glob("*.py")} - {"__init__"}
    return [name for name in re.findall(r"`(\w+)`", said) if name in files] if len(files) > 1 else [*files]


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(room, module) of the package that a module imports, anywhere in it; module "" for the room itself or a root file."""
    here = NAMES[path].split(".")
    base = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = [*base[: len(base) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for name in node.names:
                whole = [*start, name.name]
                found = whole if ".".join(whole) in NAMES.values() else start
                if found:
                    yield found[0], found[1] if len(found) > 1 else ""


def test_the_rooms_are_all_there_is():
    files = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert sorted(icdpo_nb.ROOMS) == sorted(files | folders)
    for room in folders:
        assert sorted(modules_of(room)) == sorted(p.stem for p in (PACKAGE / room).glob("*.py") if p.stem != "__init__"), room


def test_tests_stand_in_the_rooms_of_what_they_test():
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and any(p.glob("test_*.py"))}
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == rooms


@pytest.mark.parametrize("path", MODULES, ids=NAMES.values())
def test_imports_only_from_above(path):
    here = NAMES[path].split(".")
    above = icdpo_nb.ROOMS[: icdpo_nb.ROOMS.index(here[0])]
    order = modules_of(here[0]) if len(here) > 1 else []
    for room, module in imported(path):
        if room != here[0]:
            assert room in above, f"{NAMES[path]} imports {room}"
        elif module and len(here) > 1:
            assert order.index(module) < order.index(here[1]), f"{NAMES[path]} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES.values())
def test_public_things_are_documented_and_functions_fit_a_screen(path):
    assert ast.get_docstring(tree(path))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_public_names_exist_and_no_module_hides_one():
    """Whatever imports a room puts it on the package under its name, before the public name of the same spelling."""
    assert not set(icdpo_nb.__all__) & set(icdpo_nb.ROOMS)
    for name in icdpo_nb.__all__:
        assert getattr(icdpo_nb, name)


def test_what_is_computed_needs_no_display():
    """Estimates and analyses work in a script: nothing below the reports imports what shows them."""
    for path in MODULES:
        if not NAMES[path].startswith("reports"):
            text = path.read_text(encoding="utf-8")
            assert "import matplotlib" not in text, NAMES[path]
            assert "IPython" not in text, NAMES[path]


def test_every_room_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = ["icdpo_nb", *(f"icdpo_nb.{room}" for room in icdpo_nb.ROOMS if (PACKAGE / room).is_dir())]
    assert project["tool"]["setuptools"]["packages"] == wanted


def test_every_data_file_is_packaged():
    """What the package reads is installed with it: every file that is not code has a pattern, and every pattern a file."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["icdpo_nb"]
    found = {pattern: {p for p in PACKAGE.glob(pattern) if p.is_file()} for pattern in patterns}
    assert all(found.values())
    files = {p for p in PACKAGE.rglob("[!.]*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert files == set().union(*found.values())


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("icdpo_nb", ("torch", "transformers", "pandas", "matplotlib")),
        ("icdpo_nb.cli", ("torch", "transformers", "scipy")),
    ],
)
def test_import_is_light(module, heavy):
    """The package costs nothing, and the command line begins at once: what a notebook needs is imported in its kernel."""
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
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
    from icdpo_nb.reports.job import notebook_names

    assert re.findall(r"^\| `(\d\d_\w+)`", readme, re.M) == notebook_names()
    for target in re.findall(r"^make (\w+)", readme, re.M):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    section = readme.index("## Reading the code")
    positions = [readme.index(f"`{room}", section) for room in icdpo_nb.ROOMS]
    assert positions == sorted(positions), "the README's map"
