"""Every notebook: its anatomy, and a run at smoke size on hostile texts, through our own runner, store and a real browser."""

import ast
import base64
import html
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from browser import chromium, cut_in_print, faults
from bs4 import BeautifulSoup
from endpoint import longest, serving
from hostile import HOSTILE, OUTSIDE, save_hostile_lm, save_hostile_set
from nbclient import NotebookClient

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.common.escaping import visible
from icdpo_nb.engine.engine import Engine
from icdpo_nb.models.lm import CausalLM
from icdpo_nb.reports.job import NOTEBOOKS, notebook_names, open_notebook
from icdpo_nb.reports.parameters import COMMON, check_parameters
from icdpo_nb.reports.report import run_notebook
from icdpo_nb.reports.run import RUN_DIR
from icdpo_nb.store.store import store_folder

LM, SET = "hostile model", "hostile set"  # stand for the folder and the file of `hostile.py`, which every notebook runs on
SMOKE = {  # parameters that make a notebook small
    "00_start_here": {"lm": LM, "preferences": SET, "n_prompts": 8, "max_new_tokens": 8},
    "01_method": {
        "lms": [LM],
        "preferences": SET,
        "n_prompts": 3,
        "domains": [],
        "reward": "sandbox",
        "demonstrations": ["teacher-a", "raw"],
        "teacher": LM,
        "block_tokens": 3,
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "02_retrieval_ablation": {
        "lms": [LM],
        "preferences": SET,
        "n_prompts": 3,
        "domains": [],
        "reward": "sandbox",
        "demonstrations": ["teacher-a"],
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
        "windows": ["2", "30"],
    },
    "03_demo_source_nll": {
        "lms": [LM],
        "preferences": SET,
        "n_prompts": 9,
        "n_shown": 18,
        "domains": [],
        "demonstrations": ["raw", "teacher-a"],
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "04_consistency_mrr": {
        "lms": [LM],
        "teacher": LM,
        "preferences": SET,
        "n_prompts": 3,
        "domains": [],
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "05_win_rate": {
        "lms": [LM],
        "preferences": SET,
        "n_prompts": 3,
        "domains": [],
        "demonstrations": ["teacher-a"],
        "max_new_tokens": 7,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "06_fine_tuning": {
        "lm": LM,
        "preferences": SET,
        "n_prompts": 2,
        "domains": [],
        "methods": ["SFT", "DPO", "RPO-Paired"],
        "n_seeds": 2,
        "sft_pairs": 4,
        "n_pairs": 4,
        "batch": 2,
        "rank": 2,
        "n_most": 4,
        "along_pairs": 4,
        "n_points": 2,
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "07_demonstrations_and_candidates": {
        "lms": [LM],
        "preferences": SET,
        "n_prompts": 2,
        "domains": [],
        "demonstrations": "raw",
        "reward": "sandbox",
        "n_demos": 1,
        "n_demos_compared": ["0", "2"],
        "windows": ["5"],
        "weights": ["0.5"],
        "n_largest": 8,
        "n_removed": 2,
        "n_demos_removed": 4,
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "08_relative_preference": {
        "lm": LM,
        "preferences": SET,
        "n_prompts": 2,
        "domains": [],
        "reward": "sandbox",
        "tables": ["1", "8"],
        "also": ["RPO-Unpaired, uniform weights"],
        "n_seeds": 2,
        "sft_pairs": 4,
        "n_pairs": 4,
        "batch": 8,
        "scale_tables": ["1"],
        "scale_pairs": 4,
        "rank": 2,
        "n_shown": 3,
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "09_your_own_data": {
        "lms": [LM],
        "preferences": SET,
        "n_pairs": 9,
        "n_prompts": 4,
        "domains": [],
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
    "10_sandbox_validation": {"lms": [LM], "n_prompts": 3, "n_seeds": 2, "max_new_tokens": 8},
    "11_protocol_and_parts": {
        "lms": [LM],
        "preferences": SET,
        "n_prompts": 3,
        "domains": [],
        "reward": "sandbox",
        "demonstrations": ["teacher-a"],
        "max_new_tokens": 8,
        "max_prompt_tokens": 0,
        "max_response_tokens": 0,
    },
}


SHORT = ("01_method", "03_demo_source_nll")  # run by `make test`
RUNS = [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in SMOKE]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The parameters of each notebook's smoke run."""
    folder = tmp_path_factory.mktemp("hostile")
    names = {LM: save_hostile_lm(folder), SET: save_hostile_set(folder)}

    def filled(value):
        if isinstance(value, list):
            return [filled(v) for v in value]
        return names.get(value, value) if isinstance(value, str) else value

    return {name: {k: filled(v) for k, v in small.items()} for name, small in SMOKE.items()}


class Runs(dict):
    """Name of a notebook -> folder of its run on the hostile record, which is made when it is first asked for."""

    def __init__(self, given, out: Path):
        super().__init__()
        self.given, self.out = given, out

    def __missing__(self, name: str) -> Path:
        self[name] = run_notebook(name, self.given[name], self.out)
        return self[name]


@pytest.fixture(scope="module")
def smoke(given, tmp_path_factory) -> Runs:
    return Runs(given, tmp_path_factory.mktemp("reports"))


def run_cells(name: str, parameters: dict) -> None:
    """A notebook's code in this process: faster than a kernel of its own, and its errors arrive here."""
    namespace = {"__name__": "__main__"}
    first, *rest = (c.source for c in cells(name) if c.cell_type == "code")
    exec(first, namespace)
    namespace.update(check_parameters(parameters, open_notebook(name)[1], name))
    with plt.rc_context():
        for source in rest:
            exec(source, namespace)
    plt.close("all")


def cells(name: str):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


def test_every_notebook_runs_on_the_hostile_record():
    """A notebook is not added without: an entry in SMOKE, whose model, and preferences where it takes any, are hostile."""
    assert sorted(SMOKE) == notebook_names()
    for name, small in SMOKE.items():
        declared = open_notebook(name)[1]
        assert LM in small.values() or [LM] in small.values(), name
        assert small.get("preferences") == (SET if "preferences" in declared else None), name
        assert declared["store"].default is True, f"{name}: what it samples and scores is kept"


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
    assert max(len(c.source.splitlines()) for c in code[1:]) <= 16, "cells short enough to read; parameters stand one a line"
    assert sum(len(re.findall(r"^ *def ", c.source, re.M)) for c in code) <= 1


@pytest.mark.parametrize("name", SMOKE)
def test_papermill_sees_every_parameter(name):
    _, declared = open_notebook(name)
    seen = papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))
    assert list(seen) == list(declared)
    assert {k: ast.literal_eval(v["default"]) for k, v in seen.items()} == {k: p.default for k, p in declared.items()}
    assert all(p.help for p in declared.values())
    for name, (_, meaning) in COMMON.items():
        assert name not in declared or declared[name].help.startswith(meaning), "a common parameter means the same everywhere"


@pytest.mark.parametrize("name", RUNS)
def test_report_reads_cleanly(smoke, name):
    page = (smoke[name] / "report.html").read_text()
    assert 'class="stderr"' not in page, "no warnings, no progress bars"
    assert "<script" not in page
    assert "Traceback (most" not in page
    answer = json.loads((smoke[name] / "headline.json").read_text())["answer"]
    assert visible(answer)[:40] in html.unescape(page)
    assert re.search(r"<(img|svg)\b", page), "something to look at"
    assert "nan" not in re.sub(r"<[^>]+>", " ", page).lower().split()


@pytest.mark.parametrize("name", RUNS)
def test_run_says_what_it_rests_on(smoke, name):
    record = json.loads((smoke[name] / "run.json").read_text())
    assert record["status"] == "done"
    assert all(len(m["fingerprint"]) == 64 for m in record["uses"]["models"].values())
    assert all(len(d["sha256"]) >= 12 for d in record["uses"]["data"].values())
    assert record["work"][0]["tokens"] > 0
    assert record["work"][0]["× fewer"] > 1


@pytest.mark.parametrize("name", RUNS)
def test_candidates_are_kept(smoke, name):
    if name == "10_sandbox_validation":  # it keeps contrasts instead: one row a prompt and seed
        tables, wanted = list(smoke[name].glob("contrasts*.jsonl")), {"prompt_id", "seed", "2 S > ICL"}
    elif name == "08_relative_preference":  # its policies are scored by nothing
        tables, wanted = (
            list(smoke[name].glob("answers.jsonl")),
            {"method", "seed", "prompt_id", "candidate_id", "response", "win"},
        )
    elif name == "03_demo_source_nll":  # it samples nothing
        tables, wanted = list(smoke[name].glob("nll.jsonl")), {"lm", "source", "method", "prompt_id", "nll", "n_tokens"}
    else:
        tables = list(smoke[name].glob("candidates*.jsonl"))
        wanted = {"prompt_id", "candidate_id", "response", "logp_base", "logp_icl", "S", "S_hat"}
    assert tables
    rows = [json.loads(line) for line in tables[0].read_text().strip().split("\n")]
    assert wanted <= set(rows[0])


def lines(folder: Path) -> dict[str, bytes]:
    """The files of a run that must be the same whenever it is run again; the others hold times."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".jsonl" or p.name == "headline.json"}


@pytest.mark.parametrize("name", RUNS)
def test_run_again_it_finds_all_it_sampled_and_scored(smoke, given, name, tmp_path, monkeypatch):
    asked = []
    for method in ("sample", "logprobs"):
        original = getattr(Engine, method)

        def noted(self, contexts, *rest, original=original, **options):
            asked.extend(contexts)
            return original(self, contexts, *rest, **options)

        monkeypatch.setattr(Engine, method, noted)
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    run_cells(name, given[name])
    assert not asked, "load models by setup.lm(…)"
    first, again = lines(smoke[name]), lines(tmp_path)
    assert first.keys() == again.keys()
    assert [n for n in first if first[n] != again[n]] in ([], ["work.jsonl"])


@pytest.mark.slow
def test_an_endpoint_judges_in_a_report(smoke, given, tmp_path, monkeypatch):
    """It says the hostile texts and gives the key away; a second run pays nothing and says the same."""
    pytest.importorskip("openai")
    monkeypatch.setenv("ICDPO_JUDGE_KEY", "sk-planted-0123456789")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as endpoint:
        endpoint.answer = lambda item, n: f"{HOSTILE[len(item['A']) % 9]} sk-planted-0123456789 {longest(item, n)}"
        parameters = {**given["05_win_rate"], "judge": "endpoint", "judge_url": endpoint.url, "judge_model": "m"}
        with pytest.raises(InputError, match=r"calls to m at 127.0.0.1.* are still to be paid for.* max_calls is 0: raise it"):
            run_cells("05_win_rate", parameters)
        assert not endpoint.asked
        parameters["max_calls"] = 200
        run = run_notebook("05_win_rate", parameters, tmp_path / "first")
        paid = len(endpoint.asked)
        (tmp_path / "second").mkdir()
        monkeypatch.setenv(RUN_DIR, str(tmp_path / "second"))
        run_cells("05_win_rate", parameters)
        assert 0 < paid == len(endpoint.asked)
    assert (run / "verdicts.jsonl").read_bytes() == (tmp_path / "second" / "verdicts.jsonl").read_bytes()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    files += [path for path in store_folder().rglob("*") if path.is_file()]
    assert not [path for path in files if b"sk-planted" in path.read_bytes()]
    page = (run / "report.html").read_text()
    assert "[ICDPO_JUDGE_KEY] The longer one. [[" in page
    assert f"{paid:,} of {paid:,} calls to m at 127.0.0.1" in page
    assert not re.findall(r"<\s*(script|iframe|meta http|img src=http)", page.partition("</head>")[2])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(smoke, given, tmp_path, monkeypatch):
    """Found in the store, or sampled and scored anew: a report differs in what is measured, and in its footer, alone.

    The first run may have found what notebooks before it computed; its cost when computed is said in either case.
    """
    folders = [smoke["01_method"]]
    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "store"))
    folders.append(run_notebook("01_method", given["01_method"], tmp_path / "anew"))
    first, anew = (lines(folder) for folder in folders)
    pages = [(folder / "report.html").read_text() for folder in folders]
    cut = re.compile(r'<(table|p|dl) class="measured">.*?</\1>|<footer>.*?</footer>', re.S)
    assert [len(cut.findall(page)) for page in pages] == [4, 4]

    def bare(page: str) -> str:
        return re.sub(r"\(git [^)]*\)", "", cut.sub("", page))  # somebody may edit the tree meanwhile

    assert first.keys() == anew.keys()
    assert [n for n in first if first[n] != anew[n]] == ["work.jsonl"]
    assert bare(pages[0]) == bare(pages[1])
    record = json.loads((folders[1] / "run.json").read_text())
    assert record["tokens"] == record["added tokens"] > 0
    assert "All of them were processed in this run." in pages[1]
    cost = re.compile(r"The models processed [\d,]+ tokens to compute these results \([\d,]+ s; ")
    assert all(cost.search(page) for page in pages)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (["preferences", "no-such-file.jsonl"], "no such file or folder"),
        (["lms", "no-such-model"], "no such folder, and not one of smollm2"),
        (["preferences", "hh-rlhf"], "use preferences='pocket', which needs none"),
        (["n_demos", "500"], "500 demonstrations are requested, but the support set has 60"),
        (["domains", "helpful,nonsense"], "there are no test prompts of nonsense; the domains are harmless, helpful"),
        (["reward", "no-such-model"], "no such folder"),
        (["n_prompts", "0"], "n_prompts is 0, but must be at least 1"),
        (["protocol", "paper"], "must be one of PAPER, REFERENCE, RECOMMENDED"),
        (["demonstrations", "teacher-c"], "no column 'teacher_c'"),
        (["teacher", "no-such-model"], "no such folder"),
        (["paper_data", "hh-rlhf"], "the paper reports no results on 'hh-rlhf', only on HH-RLHF and SyntheticGPT"),
        (["block_tokens", "0"], "block_tokens is 0, but must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(given, parameters, says):
    """What the command line makes of such an error is tested in test_report.py."""
    with pytest.raises(InputError, match=re.escape(says)) as error:
        run_cells("01_method", {**given["01_method"], "preferences": "pocket", parameters[0]: parameters[1]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SMOKE)
def test_unknown_parameters_are_refused(name, tmp_path, capsys):
    assert main(["report", name, "-p", "n_prompt", "5", "-o", str(tmp_path / "out")]) == 2
    assert "did you mean 'n_prompts'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", RUNS)
def test_hostile_texts_come_out_as_text(smoke, name):
    page = (smoke[name] / "report.html").read_text()
    shown = html.unescape(re.sub(r"<[^>]*>", "", page))
    for text in HOSTILE:
        assert visible(text)[:200] in shown, "it was not shown, or was rendered or filled in"
    assert "characters left out" in shown, "a long text is cut"
    if name == "01_method":
        assert f"among the demonstrations, of 6: teacher-a 2 ({HOSTILE[1][:60]} 0 12, " in shown, "an id"
    assert visible(page) == page, "no hidden character"
    spoken = re.compile(r"""\b(alt|aria-label)=("[^"]*"|'[^']*')""")  # text alternatives are text
    body = re.findall(r"<[^>]*>", spoken.sub("", page.partition("</head>")[2]))
    body = [tag for tag in body if not re.fullmatch(r'</svg>|<svg\s+class="(intervals|running)"[^>]*>', tag)]
    assert not [
        t for t in body if re.match(r"<\s*/?(script|iframe|object|embed|form|base|meta|link|style|svg|strong>bold)\b", t, re.I)
    ]
    assert not [t for t in body if re.search(rf"\son\w+\s*=|javascript:|{OUTSIDE}", t, re.I)]
    for figure in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page):
        ElementTree.fromstring(base64.b64decode(figure))  # a hidden character in a label would break it


@pytest.mark.parametrize("names", [SHORT, pytest.param([n for n in SMOKE if n not in SHORT], marks=pytest.mark.slow)])
def test_every_page_in_a_browser(smoke, names):
    """At each width, in light and dark: nothing runs or is fetched, all can be read and reached, and print cuts no table."""
    with chromium() as (opened, asked):
        folders = [smoke[name] for name in names]
        for path in [*(folder / "report.html" for folder in folders), folders[0].parent / "index.html"]:
            page = opened(path)
            assert faults(page) == [], path
            assert cut_in_print(page) == [], path
            assert re.search("<title>.*?</title>", path.read_text()).group() in page.content()
            assert "pwned" in page.content(), "as text"
            page.close()
        assert asked == []


@pytest.mark.parametrize("name", RUNS)
def test_a_page_is_valid_and_its_links_lead_somewhere(smoke, name):
    """HTML5 without a parse error; the answer first; every exhibit with a number, and every link to a place that is there."""
    html5lib = pytest.importorskip("bleach._vendor.html5lib")
    text = (smoke[name] / "report.html").read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    page = BeautifulSoup(text, "html.parser")
    ids = {tag["id"] for tag in page.find_all(id=True)}
    links = [a["href"] for a in page.find_all("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    beside = [link for link in links if not link.startswith(("#", "https://", "../"))]
    assert "notebook.ipynb" in beside
    assert all((smoke[name] / unquote(link)).exists() for link in beside)
    sections = page.find(class_="article").find_all(["section", "details"], recursive=False)
    assert "answer" in sections[0]["class"]
    assert "provenance" in sections[-1]["class"]
    captions = [c.get_text() for c in page.find_all("figcaption")]
    assert any(c.startswith("Figure 1. ") for c in captions)
    assert all(re.match(r"(Figure|Table) \d+\. \S", c) for c in captions)
    assert all(img["alt"] for img in page.find_all("img")), "a text alternative for every figure"
    assert len(text) < 1_500_000


def outputs_in_lab(name: str, parameters: dict, folder: Path, monkeypatch) -> str:
    """What a notebook displays when it is run as JupyterLab runs it: in its own folder, without our runner."""
    monkeypatch.delenv(RUN_DIR, raising=False)
    node, declared = open_notebook(name)
    cell = next(i for i, c in enumerate(node.cells) if "parameters" in c.metadata.get("tags", []))
    given = check_parameters(parameters, declared, name)
    node.cells.insert(cell + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in given.items())))
    done = NotebookClient(node, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    shown = [o.get("data", {}).get("text/html", "") for c in done.cells if c.cell_type == "code" for o in c.outputs]
    return html.unescape(" ".join(shown))


@pytest.mark.slow
def test_in_jupyterlab_03_finds_the_run_beside_it(smoke, given, tmp_path, monkeypatch):
    """`make lab` starts in notebooks/, and every notebook's current folder is that one."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "reports").mkdir()
    parameters = given["03_demo_source_nll"]
    shutil.copytree(smoke["01_method"], tmp_path / "reports" / "01_method")
    shown = outputs_in_lab("03_demo_source_nll", parameters, tmp_path / "notebooks", monkeypatch)
    assert "Rewards: 01_method, next to this report or as set in method_run." in shown
    assert not [p for p in tmp_path.rglob("*") if "01_method" not in str(p) and p.is_file()], "a run by hand leaves nothing"


@pytest.mark.slow
def test_00_runs_in_jupyterlab(given, tmp_path, monkeypatch):
    assert "headline numbers (JSON)" in outputs_in_lab("00_start_here", given["00_start_here"], tmp_path, monkeypatch)


CHATTING = [name for name in notebook_names() if "template" in open_notebook(name)[1]]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHATTING)
def test_in_a_chat_template(name, given, tmp_path, monkeypatch):
    """Contexts through the model's chat template, of hostile dialogues, with every analysis of the notebook."""
    plain = Path(given["03_demo_source_nll"]["lms"][0])
    folder = shutil.copytree(plain, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}({{ m.role }}) {{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}(assistant) {% endif %}"
    )
    own = {k: [str(folder)] if v == [str(plain)] else str(folder) if v == str(plain) else v for k, v in given[name].items()}
    assert str(folder) in str(own)
    contexts = []
    monkeypatch.setattr(CausalLM, "encode_context", lambda lm, text, real=CausalLM.encode_context: (
        contexts.append(text), real(lm, text))[1])  # fmt: skip
    monkeypatch.setenv(RUN_DIR, str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    run_cells(name, {**own, "template": "chat", "store": False})
    assert json.loads((tmp_path / "run" / "headline.json").read_text())["answer"]
    assert contexts
    assert all(text.endswith("(assistant) ") for text in contexts)


@pytest.mark.slow
def test_without_a_teacher(given, tmp_path, monkeypatch):
    """RM-Aug and RM-BoN are left out, and nothing else changes."""
    for teacher in (LM, "none"):
        monkeypatch.setenv(RUN_DIR, str(tmp_path / teacher))
        (tmp_path / teacher).mkdir()
        run_cells("01_method", {**given["01_method"], "teacher": given["01_method"]["teacher"] if teacher == LM else teacher})
    rows = {t: [json.loads(x) for x in (tmp_path / t / "means.jsonl").read_text().strip().split("\n")] for t in (LM, "none")}
    assert {row["method"] for row in rows[LM]} - {row["method"] for row in rows["none"]} == {"RM-Aug", "RM-BoN"}
    assert [row for row in rows[LM] if not row["method"].startswith("RM-")] == rows["none"]


@pytest.mark.slow
def test_your_own_data_with_a_reward(given, tmp_path, monkeypatch):
    """Without a reward nothing is called better; with one the methods are compared. The rest is the same."""
    pages = {}
    for reward in ("none", "sandbox"):
        monkeypatch.setenv(RUN_DIR, str(tmp_path / reward))
        (tmp_path / reward).mkdir()
        run_cells("09_your_own_data", {**given["09_your_own_data"], "reward": reward})
        pages[reward] = json.loads((tmp_path / reward / "headline.json").read_text())
    assert pages["none"]["claims"] == []
    assert [c["claim"] for c in pages["sandbox"]["claims"]] == ["ICL > Base", "ICDPO > ICL", "ICDPO + Ŝ > ICDPO"]
    assert "By the reward:" in pages["sandbox"]["answer"]
    assert "reward" not in pages["none"]["answer"]
    assert (tmp_path / "none" / "preference_set.jsonl").read_text() == (
        tmp_path / "sandbox" / "preference_set.jsonl"
    ).read_text()
