"""The documentation says what is there: commands, notebooks, presets, parameters, files, links and tables.

`make check-docs` runs the commands; here they are only read.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import ELSEWHERE, FEWER, ROOT, blocks, documents, quick, script

from icdpo_nb.cli import _parser
from icdpo_nb.common.errors import InputError
from icdpo_nb.protocol import PAPER, RECOMMENDED, REFERENCE, Protocol
from icdpo_nb.reports.job import notebook_names, read_job
from icdpo_nb.sandbox.reward import RULES
from icdpo_nb.sweeps.plan import read_sweep

TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in documents()}
BLOCKS = [block for file, text in TEXTS.items() for block in blocks(text, file)]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def check(command: str) -> None:
    """Raises for a command that the project does not have, or does not have so."""
    name, *words = shlex.split(command)
    if name == "make":
        targets = [w for w in words if "=" not in w]
        assert targets, command
        assert set(targets) <= TARGETS, f"{command}: the Makefile has no such target"
    elif name.removeprefix(".venv/bin/") == "icdpo-nb":
        args = _parser().parse_args(words)
        for notebook in getattr(args, "notebook", ()):
            read_job(notebook, dict(args.parameter), args.preset)
        if getattr(args, "file", "FILE.yaml") != "FILE.yaml":  # which stands for any
            read_sweep(ROOT / args.file)
    elif name == "python" and words[:1] == ["-m"]:
        assert importlib.util.find_spec(words[1]), f"{command}: no such module"
    else:
        assert re.match(r"export \w+=", command), f"{command}: not a command of this project"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "shell"], ids=lambda b: f"{b.file}:{b.line}")
def test_commands_are_those_of_the_project(block):
    assert block.commands
    for command in block.commands:
        check(command)
        check(quick(command))


@pytest.mark.parametrize(
    "wrong",
    [
        "make everything", "icdpo-nb reprot 01_method", "icdpo-nb report 01_methods", "icdpo-nb report 01_method -p n_prompt 4",
        "icdpo-nb report 01_method --preset none", "icdpo-nb report 01_method -p n_prompts four", "python -m icdpo_nb.nothing",
        "icdpo-nb sweep docs/examples/none.yaml", "rm -rf reports",
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(wrong):
    with pytest.raises((AssertionError, InputError)):
        check(wrong)


def test_commands_within_sentences():
    for file, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        for command in re.findall(r"`((?:\.venv/bin/)?(?:make|icdpo-nb)(?: [^`]*)?)`", prose):
            if command not in ("make", "icdpo-nb"):
                check(command), file


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "python"], ids=lambda b: f"{b.file}:{b.line}")
def test_python_compiles_and_names_what_is_public(block):
    import icdpo_nb

    compile(block.text, f"{block.file}:{block.line}", "exec")
    for name in re.findall(r"\bnb\.(\w+)", block.text):
        assert name in icdpo_nb.__all__, name


@pytest.mark.parametrize("file", TEXTS)
def test_links_and_pictures_lead_to_files(file):
    for text, target in re.findall(r"(!?\[[^\]]*\])\(([^)\s]+)\)", TEXTS[file]):
        if not re.match(r"https?://|#", target):
            path = ((ROOT / file).parent / target.partition("#")[0]).resolve()
            assert path.is_relative_to(ROOT), f"{target}: outside the project"
            assert path.exists(), f"{file}: {target}"
        if text.startswith("!"):
            assert len(text) > 20, f"{file}: {target} has no text alternative"


def test_every_page_is_linked_from_the_readme():
    pages = {file for file in TEXTS if file.startswith("docs/")}
    assert pages == set(re.findall(r"\((docs/[\w-]+\.md)", TEXTS["README.md"]))


# ---------------------------------------------------------------- tables


def rows(file: str, first: str) -> list[list[str]]:
    """The cells of a table's rows, without the two of its head, found by the first cell of the head."""
    table = re.search(rf"^\| {first} \|.*?\n(?=\n|\Z)", TEXTS[file], re.M | re.S)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def test_the_table_of_the_protocol():
    written = {name.strip("`"): values for name, *values, _ in rows("docs/protocol.md", "setting")}
    expected = {}
    for name in [f.name for f in fields(Protocol) if f.name != "name"]:
        values = [str(getattr(p, name)) for p in (PAPER, REFERENCE, RECOMMENDED)]
        expected[name] = [f"**{v}**" if values.count(v) == 1 else v for v in values]
    assert written == expected
    assert list(written) == list(expected), "in the order of the code"


def test_the_table_of_the_true_reward():
    expected = [[f"`{name}`", str(points).replace("-", "−"), str(cap), what] for name, (points, cap, what) in RULES.items()]
    assert rows("docs/sandbox.md", "rule") == expected


def test_the_judges_parameters():
    declared = read_job("05_win_rate").defaults
    named = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows("docs/endpoint-judges.md", "parameter")))
    assert sorted(named) == sorted(p for p in declared if re.match("judge_|max_calls|price_", p))


# ---------------------------------------------------------------- the script that runs them

PAGE = """Text.

```
export A=1
icdpo-nb report 01_method \\
    -p n_prompts 9  # a comment
make test   # five minutes
```

<!-- not run: needs a network -->
```
make report
```

```python
print(1)  # kept
```

```text
not a command
```
"""


def test_blocks_of_a_page():
    found = blocks(PAGE, "page.md")
    assert [(b.kind, b.line, b.not_run) for b in found] == [
        ("shell", 4, ""), ("shell", 12, "needs a network"), ("python", 16, ""), ("shown", 20, ""),
    ]  # fmt: skip
    assert found[0].commands == ["export A=1", "icdpo-nb report 01_method      -p n_prompts 9", "make test"]
    assert found[2].commands == found[3].commands == []


def test_what_is_run():
    first, _, third, _ = blocks(PAGE, "page.md")
    assert "make test" in ELSEWHERE
    assert script(first, small=False) == "set -eux\nexport A=1\nicdpo-nb report 01_method      -p n_prompts 9\n"
    assert script(third, small=False) == ".venv/bin/python - <<'PYTHON'\nprint(1)  # kept\nPYTHON\n"


def test_quick_adds_what_is_not_given():
    assert quick("icdpo-nb report 01_method -p n_prompts 9") == "icdpo-nb report 01_method -p n_prompts 9"
    assert quick("icdpo-nb report 05_win_rate") == "icdpo-nb report 05_win_rate -p n_prompts 2"
    assert quick("make report") == "make report OPTIONS='-p n_prompts 2'"
    assert quick("icdpo-nb store list") == "icdpo-nb store list"
    for name in notebook_names():
        check(quick(f"icdpo-nb report {name}"))
    assert set(FEWER) <= set(notebook_names())


@pytest.mark.parametrize("bad", ["```bash\nls\n```\n", "```\nls\n", "```python x\n1\n```\n"])
def test_a_block_that_would_be_overlooked_is_an_error(bad):
    with pytest.raises(ValueError, match="page.md"):
        blocks(bad, "page.md")


@pytest.mark.slow
def test_the_reference_builds_without_a_warning(tmp_path):
    """Two rooms; `make docs` builds all."""
    pytest.importorskip("pdoc")
    command = [sys.executable, ROOT / "docs" / "api.py", tmp_path, "icdpo_nb.protocol", "icdpo_nb.common"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "icdpo_nb" / "protocol.html").read_text()
    assert 'id="Protocol.but"' in page
