"""The front page: what runs say of the claims, in sentences and in a table, and a page that is whole, valid and harmless."""

import json
import math
import re

import pytest
import yaml
from browser import chromium, faults

from icdpo_nb.analyses import likelihood
from icdpo_nb.cli import main
from icdpo_nb.reports import evidence, front, job
from icdpo_nb.reports.evidence import MIXED, Record, claim_verdict, tests_of
from icdpo_nb.reports.registry import parts_of, read_claims
from icdpo_nb.statistics.findings import AGREES, CONTRADICTS, NOT, OPEN, SAME, SIGNS, SMALL, VERDICTS

tests_of.__test__ = False  # pytest would take it for a test
CLAIMS = read_claims()
HOSTILE = (
    "</style><script>document.title='pwned'</script><img src=http://planted.example/x onerror=alert(1)>\" ' {{ 7 * 7 }} \u202e"
)
NAMED = {claim.claim: claim for claim in CLAIMS}
S_CLAIM = next(c for c in CLAIMS if c.names == "ICDPO > ICL")


def setting(claim: str, verdict: str = AGREES, source: str = "teacher-a", lm: str = "sandbox-small", **more) -> dict:
    """One comparison as a notebook leaves it in its headline."""
    found = {"claim": claim, "lm": lm, "source": source, "domain": "total", "mean": -0.5, "low": -0.75, "high": -0.25, "n": 40}
    return found | {"verdict": verdict, "finding": "lower", "decide": None, "here": "-0.50 [-0.75, -0.25]"} | more


def leave(out, folder: str, claims=(), finished: str = "2026-11-01 10:00:00", **more) -> None:
    """Write the record of a run that left these claims."""
    record = {"run": folder, "notebook": folder.split("-")[0], "title": "A question?", "status": "done", "finished": finished}
    record |= {"seconds": 61, "parameters": {"lms": ["sandbox-small"], "preferences": "sandbox", "domains": ["harmless"]}}
    record |= {"headline": {"answer": "Yes.", "claims": claims}} | more
    (out / folder).mkdir(parents=True, exist_ok=True)
    (out / folder / "run.json").write_text(json.dumps(record))
    (out / folder / "report.html").write_text("a report")


def page_of(out) -> str:
    return front.write_front_page(out).read_text()


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]))


# ---------------------------------------------------------------- verdicts and sentences


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([AGREES], AGREES),
        ([AGREES, AGREES, OPEN], AGREES),
        ([AGREES, OPEN], OPEN),
        ([AGREES] * 8 + [CONTRADICTS], MIXED),
        ([SMALL, SMALL, CONTRADICTS], SMALL),
        ([SAME, NOT, NOT], SAME),
        ([NOT, NOT], NOT),
    ],
)
def test_the_verdict_of_a_claim(verdicts, together):
    assert claim_verdict(verdicts) == together
    assert claim_verdict(verdicts[::-1]) == together


def test_verdicts_are_those_of_the_reports():
    assert set(front.MEANINGS) == {*VERDICTS, MIXED} == set(front.COUNTED)
    assert set(front.CLASSES) == set(front.marks()) == {*front.COUNTED, *front.UNTESTED}
    assert all(front.marks()[v] == SIGNS[v] for v in VERDICTS)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({}, "None of the 0 claims has been tested here."),
        ({front.NOT_RUN: 1}, "The one claim has not been tested here. 1 has not been run here."),
        ({front.NOT_RUN: 3, front.NO_TEST: 1}, "None of the 4 claims has been tested here. "
         "3 have not been run here and 1 has no test in this workbook."),
        ({AGREES: 1, front.NOT_RUN: 2}, "Of 3 claims, 1 was tested here. Our results agree with it. "
         "Of the others, 2 have not been run here."),
        ({AGREES: 2, CONTRADICTS: 1}, "All 3 claims were tested here. Our results agree with 2 of them and contradict 1."),
        ({AGREES: 2}, "All 2 claims were tested here. Our results agree with both."),
        ({CONTRADICTS: 3}, "All 3 claims were tested here. Our results contradict all 3."),
        ({OPEN: 1, MIXED: 1, SMALL: 2, front.SHOWN: 1}, "Of 5 claims, 4 were tested here. Our results agree with none of "
         "them, are mixed for 1, differ too little to matter for 2 and cannot decide 1. "
         "Of the others, 1 is shown in a report without a verdict."),
        ({AGREES: 1}, "The one claim was tested here. Our results agree with it."),
        ({NOT: 1}, "The one claim was tested here. Our results cannot be compared with it."),
    ],
)  # fmt: skip
def test_the_sentence(counts, says):
    assert front.tally_sentence(counts) == says


def test_how_far_the_results_reach():
    small = Record("a", {"parameters": {"lms": ["sandbox-large"], "preferences": "sandbox"}})
    large = Record("b", {"parameters": {"lms": ["my/llama-7b"], "preferences": "hh-rlhf"}})
    assert front.scope_sentence([]) == front.scope_sentence([large]) == ""
    assert front.scope_sentence([small]).startswith("All results rest on the sandbox, a small artificial world")
    assert front.scope_sentence([small, small, large]).startswith("Most results")
    assert front.scope_sentence([small, large]).startswith("Some results")


def test_texts():
    assert front.kept("a <b>, c") == '<span class="keep">a &lt;b&gt;,</span> <span class="keep">c</span>'


# ---------------------------------------------------------------- claims and runs


def test_a_claim_is_found_in_a_run(tmp_path):
    """With our source beside the paper's in the same role, the settings counted, and the smallest and largest estimate."""
    claims = [setting("ICDPO > ICL", AGREES, lm="sandbox-small"), setting("ICDPO > ICL", OPEN, lm="sandbox-large", mean=0.125)]
    claims += [setting("ICDPO > ICL", CONTRADICTS, "mine"), setting("ICDPO > BM25", CONTRADICTS, lm="sandbox-large")]
    leave(tmp_path, "02_retrieval_ablation", claims)
    page = page_of(tmp_path)
    bodies = re.findall("<tbody id=.*?</tbody>", page, re.S)
    part = text_of("<body>" + next(body for body in bodies if S_CLAIM.claim in body))
    assert "LLaMA2-chat LLaMA +7.5, LLaMA2 +5.3, Mistral +5.1" in part
    assert "teacher-a ✓ agrees in 1 of 2 ? cannot tell in 1 of 2 −0.50 to +0.12 points of reward" in part
    assert "sandbox-small , teacher-a : −0.50 [−0.75, −0.25] ✓ agrees" in part
    assert "not in this run" in part, "there are no demonstrations of GPT-3.5"
    assert "mine" not in part
    assert "together: ? cannot tell" in part
    assert 'href="02_retrieval_ablation/report.html#Is-the-difference-real%3F"' in page
    assert "Of 39 claims, 1 was tested here. Our results cannot decide it." in text_of(page)


def test_a_role_can_be_given_to_another_source(tmp_path):
    given = {"lms": ["x"], "preferences": "mine.jsonl", "roles": ["mine=GPT-3.5"]}
    leave(tmp_path, "02_retrieval_ablation", [setting("ICDPO > ICL", AGREES, "mine")], parameters=given)
    (test,) = tests_of(S_CLAIM, evidence.read_records(tmp_path)[0])
    assert test.record.role("mine") == "GPT-3.5"
    assert front.claim_view(S_CLAIM, [test.record])["rows"][1][2]["sources"] == ["mine"]


def test_the_run_with_default_parameters_comes_first(tmp_path):
    """Then the newest; other notebooks that test the claim come last; a preset's claim is not met by other data."""
    for day, folder in enumerate(
        ("02_retrieval_ablation", "02_retrieval_ablation-a", "02_retrieval_ablation-b", "01_method"), 1
    ):
        leave(tmp_path, folder, [setting("ICDPO > ICL")], f"2026-11-0{day} 10:00:00")
    other = {"lms": ["x"], "paper_data": "SyntheticGPT"}
    leave(tmp_path, "01_method-c", [setting("ICDPO > ICL"), setting("ICDPO > RM-BoN")], parameters=other)
    done, _ = evidence.read_records(tmp_path)
    order = ["02_retrieval_ablation", "02_retrieval_ablation-b", "02_retrieval_ablation-a", "01_method"]
    assert [test.record.folder for test in tests_of(S_CLAIM, done)] == order
    single = NAMED["On single instructions ICDPO is better than RM-BoN."]
    assert [test.record.folder for test in tests_of(single, done)] == ["01_method-c"]
    assert "3 other runs" in page_of(tmp_path)


def test_claims_of_two_parts_and_of_two_teachers_are_read(tmp_path):
    name = next(c for c in CLAIMS if c.claim == "Paired RPO is better than DPO.").names
    parts = {
        "the workbook's settings": [setting(name, SAME, "")],
        "larger scores": [setting(name, OPEN, "", seeds=3, decide=9)],
    }
    leave(tmp_path, "08_relative_preference", parts, parameters={"lm": "sandbox-medium"})
    nearer = setting(likelihood.NEARER, source="teacher-b − teacher-a", mean=0.14)
    better = setting(likelihood.BETTER, OPEN, source="teacher-a − teacher-b", mean=2.55)
    leave(tmp_path, "03_demo_source_nll", [nearer, better])
    (nll, rpo), _ = evidence.read_records(tmp_path)
    assert [(s.part, s.verdict, s.decide) for s in rpo.settings] == [
        ("the workbook's settings", SAME, 0),
        ("larger scores", OPEN, 9),
    ]
    found = [(s.name, s.verdict, s.mean) for s in nll.settings]
    assert found == [(likelihood.NEARER, AGREES, 0.14), (likelihood.BETTER, OPEN, 2.55)]
    named = {c.names for c in CLAIMS if tests_of(c, [nll])}
    assert named == {likelihood.NEARER, likelihood.BETTER}
    assert "about 9 training seeds would decide it" in text_of(page_of(tmp_path))


def test_what_is_not_run_says_how(tmp_path):
    page = text_of(page_of(tmp_path))
    assert "None of the 39 claims has been tested here." in page
    commands = {claim.command for claim in CLAIMS if claim.command}
    assert "icdpo-nb report 01_method --preset instructions" in commands
    for command in commands:
        assert command in page
        name, *preset = command.removeprefix("icdpo-nb report ").split(" --preset ")
        if preset:
            assert yaml.safe_load((job.NOTEBOOKS / "presets" / f"{preset[0]}.yaml").read_text())
        assert job.read_job(name, {}, *preset).notebook == name
    assert "No notebook has been run here." in page
    assert "No maintained PPO trainer" in page


def test_a_failed_run_stands_with_its_reason(tmp_path):
    leave(tmp_path, "01_method", finished="2026-11-02 10:00:00")
    leave(tmp_path, "06_fine_tuning.failed", status="failed", exception="dead kernel: it ran out of memory")
    (tmp_path / "06_fine_tuning.failed" / "report.html").unlink()
    page = page_of(tmp_path)
    assert "dead kernel: it ran out of memory" in page
    assert "! failed" in text_of(page)
    assert "06_fine_tuning.failed/report.html" not in page
    assert "1 report, the newest of 2026-11-02" in text_of(page)


def test_runs_can_be_filtered_without_scripts(tmp_path):
    leave(tmp_path, "01_method", parameters={"lms": ["a", "b"], "preferences": "pocket"})
    page = page_of(tmp_path)
    assert 'name="notebook"' not in page, "there is nothing to choose"
    assert page.count('name="model"') == 3
    assert ".runs:has(#only-model-1:checked) tbody tr:not(.model-1) { display: none; }" in page
    assert '<tr class="model-0 model-1">' in page


def test_runs_can_be_filtered_by_preset(tmp_path):
    """A record from before presets were kept counts as one without."""
    leave(tmp_path, "01_method-a", preset="smollm2")
    leave(tmp_path, "01_method-b", preset=None)
    leave(tmp_path, "01_method-c")
    page = page_of(tmp_path)
    chosen = re.findall(r'<input type="radio" name="preset"[^>]*><span>([^<]*)', page)
    assert chosen == ["all", "none", "smollm2"]
    assert page.count('<tr class="preset-0">') == 2
    assert page.count('<tr class="preset-1">') == 1
    assert page.count("preset <span") == 1


def test_the_command_makes_the_page_of_any_folder(tmp_path, capsys):
    assert main(["gallery", str(tmp_path / "none")]) == 2
    assert main(["gallery", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("none: no such folder; give a folder of reports, for example reports")
    assert said[1].endswith("no run there; make a report first, for example icdpo-nb report 01_method")
    leave(tmp_path / "from elsewhere", "02_retrieval_ablation", [setting("ICDPO > ICL")])
    assert main(["gallery", str(tmp_path / "from elsewhere")]) == 0
    index = tmp_path / "from elsewhere" / "index.html"
    assert capsys.readouterr().out.strip() == str(index)
    assert "Our results agree with it." in index.read_text()


# ---------------------------------------------------------------- the page


def leave_everything(out) -> None:
    """A hostile run, values of every wrong kind, and a run for every claim."""
    claim = setting("ICDPO > ICL", AGREES, HOSTILE, HOSTILE, here=HOSTILE) | {"seeds": HOSTILE, "decide": -1}
    texts = {
        "lms": [HOSTILE, "w" * 3000],
        "preferences": HOSTILE,
        "domains": [HOSTILE],
        HOSTILE: HOSTILE,
        "roles": [f"{HOSTILE}=raw"],
    }
    for source in (HOSTILE, "teacher-a"):
        folder = f"{HOSTILE.replace('/', '')}{source[:5].strip('</')}"
        bad = {"notebook": "02_retrieval_ablation", "title": HOSTILE * 30, "finished": HOSTILE, "seconds": HOSTILE}
        leave(out, folder, [claim | {"source": source}], parameters=texts, **bad)
    leave(out, "x.failed", status="failed", exception=HOSTILE, title=HOSTILE)
    for i, wrong in enumerate((None, 3, "text", [], [1, None], {"a": 3}, [{"claim": 3, "verdict": []}], [{"verdict": AGREES}])):
        leave(out, f"01_method-{i}", wrong, parameters=wrong, seconds=wrong)
        leave(out, f"03_demo_source_nll-{i}", headline=wrong, title=None, finished=None)
    for notebook in {claim.notebook for claim in CLAIMS if claim.names}:
        mine = [c for c in CLAIMS if c.notebook == notebook]
        names = [(name, source) for c in mine for name in parts_of(c.names) for source in ("teacher-a", "teacher-b", "raw")]
        leave(out, notebook, [setting(n, v, s) for n, s in names for v in VERDICTS])


def test_the_page_is_valid_html_and_hostile_records_are_text(tmp_path):
    html5lib = pytest.importorskip("bleach._vendor.html5lib")
    leave_everything(tmp_path)
    page = page_of(tmp_path)
    html5lib.HTMLParser(strict=True).parse(page)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "⟨U+202E⟩" in page
    assert page.count("</style>") == 1
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'" in page
    assert page.count("<h1") == 1
    assert re.findall(r'href="(?!#|[\w.%~()-]+/report\.html)[^"]*"', page) == []


@pytest.mark.slow
def test_in_a_browser(tmp_path):
    """The page of hostile records has no fault at any width; and a reader chooses among runs."""
    leave_everything(tmp_path / "everything")
    leave(tmp_path / "few", "01_method", parameters={"lms": ["a", "b"], "preferences": "pocket"})
    leave(tmp_path / "few", "04_consistency_mrr", parameters={"lms": ["b"], "preferences": "pocket"})
    with chromium() as (opened, asked):
        page = opened(front.write_front_page(tmp_path / "everything"))
        assert faults(page) == []
        assert page.title() == "What two papers claim, and what we find"
        page = opened(front.write_front_page(tmp_path / "few"))
        rows = page.locator(".runs tbody tr").filter(visible=True)
        for choice, left in (("04_consistency_mrr", 1), ("a", 0), ("b", 1), ("01_method", 1), ("all", None)):
            page.locator(".filters").get_by_label(choice, exact=True).first.check()
            assert left is None or rows.count() == left, choice
        assert rows.count() == 2, "all notebooks, and b"
        page.locator(".filters").get_by_label("a", exact=True).focus()
        page.keyboard.press("Space")
        assert rows.count() == 1, "by keyboard"
        assert not asked


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return math.fsum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(scheme):
    blocks = re.findall(r":root \{(.*?)\}", (front.TEMPLATES / "base.css").read_text(), re.S)
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[scheme]))
    for ground in ("paper", "tint"):
        for name in ("ink", "soft", "link", "agrees", "contradicts", "mixed", "small", "open"):
            high, low = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)
