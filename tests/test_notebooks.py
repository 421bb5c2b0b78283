"""Every notebook: its anatomy, and a run at smoke size through our own runner."""

import ast
import html
import json
import re

import nbformat
import papermill
import pytest
from conftest import save_tiny_lm

from icdpo_nb.cli import main
from icdpo_nb.report import NOTEBOOKS, notebook_names, open_notebook, preset_parameters, run_notebook

SMOKE = {  # parameters that make a notebook small; the model is a tiny random one
    "00_start_here": {"n_prompts": 2, "max_new_tokens": 8},
    "10_sandbox_validation": {"n_prompts": 3, "n_seeds": 2, "max_new_tokens": 6},
    "01_method": {
        "n_prompts": 3,
        "preferences": "pocket",
        "reward": "pocket",
        "demonstrations": ["teacher-a", "raw"],
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
}


LM = {"00_start_here": "lm", "01_method": "lms", "10_sandbox_validation": "lms"}  # the parameter that names the language model


def tiny_lm_folder(factory) -> str:
    """Its tokens are characters, so it needs a long window."""
    return str(save_tiny_lm(factory.mktemp("lm"), positions=16384))


def cells(name: str):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


def test_every_notebook_has_a_smoke_run():
    assert sorted(SMOKE) == notebook_names()


@pytest.mark.parametrize("name", SMOKE)
def test_anatomy(name):
    node = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    prose = [c.source for c in node.cells if c.cell_type == "markdown"]
    code = [c for c in node.cells if c.cell_type == "code"]
    assert re.match(r"# .*\?\n", prose[0]), "the title is a question"
    assert "arxiv.org/abs/2402.09320" in prose[0]
    assert "minute" in prose[0], "the expected time"
    assert code[0].metadata.get("tags") == ["parameters"]
    assert "nb.start(globals())" in code[1].source
    assert [p.split("\n")[0] for p in prose if p.startswith("## ")][-2:] == ["## Answer", "## Limits"]
    assert "run.finish(answer=" in code[-1].source
    assert "assert " in code[-1].source
    assert not any(c.outputs or c.execution_count for c in code), "committed without outputs"
    assert node.metadata.kernelspec.name == "python3"
    assert not re.search(r"\d\.\d\d", " ".join(prose[1:]).replace("0.50 is chance", "")), "prose holds no result"
    assert max(len(c.source.splitlines()) for c in code) <= 16
    assert sum(len(re.findall(r"^ *def ", c.source, re.M)) for c in code) <= 1


@pytest.mark.parametrize("name", SMOKE)
def test_papermill_sees_every_parameter(name):
    _, declared = open_notebook(name)
    seen = papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))
    assert list(seen) == list(declared)
    assert {k: ast.literal_eval(v["default"]) for k, v in seen.items()} == {k: p.default for k, p in declared.items()}
    assert all(p.help for p in declared.values())


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Every notebook run once at smoke size; name -> folder of the run."""
    model = tiny_lm_folder(tmp_path_factory)
    out = tmp_path_factory.mktemp("reports")
    return {name: run_notebook(name, {**small, LM[name]: model}, out) for name, small in SMOKE.items()}


@pytest.mark.parametrize("name", SMOKE)
def test_report_reads_cleanly(smoke, name):
    page = (smoke[name] / "report.html").read_text()
    assert 'class="stderr"' not in page, "no warnings, no progress bars"
    assert "<script" not in page
    assert "Traceback (most" not in page
    answer = json.loads((smoke[name] / "headline.json").read_text())["answer"]
    assert answer.split("'")[0][:40] in page
    assert page.count("<img") >= 1
    assert "nan" not in re.sub(r"<[^>]+>", " ", page).lower().split()


@pytest.mark.parametrize("name", SMOKE)
def test_run_says_what_it_rests_on(smoke, name):
    record = json.loads((smoke[name] / "run.json").read_text())
    assert record["status"] == "done"
    assert all(len(m["fingerprint"]) == 64 for m in record["uses"]["models"].values())
    assert all(len(d["sha256"]) >= 12 for d in record["uses"]["data"].values())
    assert record["work"][0]["tokens"] > 0
    assert record["work"][0]["× fewer"] > 1


@pytest.mark.parametrize("name", SMOKE)
def test_candidates_are_kept(smoke, name):
    if name == "10_sandbox_validation":  # it keeps contrasts instead: one row a prompt and seed
        tables, wanted = list(smoke[name].glob("contrasts*.jsonl")), {"prompt_id", "seed", "2 S > ICL"}
    else:
        tables = list(smoke[name].glob("candidates*.jsonl"))
        wanted = {"prompt_id", "candidate_id", "response", "logp_base", "logp_icl", "S", "S_hat"}
    assert tables
    rows = [json.loads(line) for line in tables[0].read_text().splitlines()]
    assert wanted <= set(rows[0])


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (["preferences", "no-such-file.jsonl"], "no such file or folder"),
        (["lms", "no-such-model"], "no such folder, and not one of smollm2"),
        (["preferences", "hh-rlhf"], "use preferences='pocket', which needs none"),
        (["n_demos", "500"], "500 demonstrations are asked for, but the support set has 60"),
        (["domains", "helpful,nonsense"], "there are no test prompts of nonsense; the domains are harmless, helpful"),
        (["reward", "no-such-model"], "no such folder"),
        (["n_prompts", "0"], "n_prompts is 0, but must be at least 1"),
        (["protocol", "paper"], "must be one of PAPER, REFERENCE, RECOMMENDED"),
        (["demonstrations", "teacher-c"], "no column 'teacher_c'"),
        (["n_prompt", "5"], "did you mean 'n_prompts'?"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, tmp_path_factory, capsys, parameters, says):
    given = {**SMOKE["01_method"], "lms": tiny_lm_folder(tmp_path_factory), parameters[0]: parameters[1]}
    written = {name: ",".join(v) if isinstance(v, list) else str(v) for name, v in given.items()}
    options = [word for pair in written.items() for word in ("-p", *pair)]
    capsys.readouterr()  # the making of the model speaks too
    assert main(["report", "01_method", *options, "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


HOSTILE = [
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=document.title='pwned'> <svg/onload=alert(1)>",
    "[click me](javascript:alert(1)) ![x](http://example.org/x.png)",
    "$\\require{html}\\href{javascript:alert(1)}{x}$ and **bold** and `code` and # heading",
    "\u202egnp.exe \u2066hidden\u2069 \x1b[31mred\x07",
    "</pre></div></body><iframe src='https://example.org'></iframe>",
    "w" * 300,
    "{{ 7 * 7 }} {% raw %} ${7*7} %(x)s",
]


@pytest.mark.parametrize("name", ["00_start_here", "01_method"])
def test_hostile_texts_come_out_as_text(tmp_path, tmp_path_factory, name):
    """A preference set of hostile prompts and responses goes through a notebook and stands in its report as plain text."""
    rows = [
        {"prompt": f"Human: {text} {i}", "chosen": f"{text} yes", "rejected": f"{text} no", "split": split}
        for split in ("train", "test")
        for i, text in enumerate(HOSTILE)
    ]
    path = tmp_path / "hostile.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    own = {"n_prompts": 8, "preferences": str(path), "demonstrations": ["raw"] if name == "01_method" else "raw"}
    extra = {"domains": []} if name == "01_method" else {}
    given = {**SMOKE[name], LM[name]: tiny_lm_folder(tmp_path_factory), **own, **extra}
    page = (run_notebook(name, given, tmp_path / "reports") / "report.html").read_text()
    tags = re.findall(r"<[^>]*>", page)
    assert "document.title=" in page, "the texts are there"
    assert not [t for t in tags if re.match(r"<\s*(script|iframe|object|embed|form|base)\b", t, re.I)]
    assert not [t for t in tags if re.search(r"\son\w+\s*=|javascript:|example\.org", t, re.I)]
    assert "<strong>bold" not in page
    if name == "00_start_here":  # it shows every prompt
        assert all(text.split("\n")[0][:20] in html.unescape(page) for text in HOSTILE), "nothing was rendered or filled in"
    assert "Content-Security-Policy" in page


def test_presets_fit_their_notebook():
    """Every preset names parameters that 01_method has, with values of their types."""
    for path in (NOTEBOOKS / "presets").glob("*.yaml"):
        assert preset_parameters(path.stem, "01_method")
