"""The playground: what it computes, what a report shows of it, and its widgets in a real JupyterLab."""

import html
import re
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from browser import browser
from lab import jupyterlab

import icdpo_nb as nb
from icdpo_nb.common.errors import InputError
from icdpo_nb.reports.job import NOTEBOOKS
from icdpo_nb.reports.playground import Playground, as_prompt, as_typed, candidates_table
from icdpo_nb.reports.run import Run
from icdpo_nb.reports.widgets import Controls, show_playground

GIVEN = {
    "lm": "sandbox-small",
    "preferences": "sandbox",
    "demonstrations": "teacher-a",
    "n_demos": 2,
    "n_candidates": 3,
    "max_new_tokens": 24,
    "temperature": 1.0,
    "protocol": "RECOMMENDED",
    "seed": 0,
}


@pytest.fixture(scope="module")
def play() -> Playground:
    return Playground(nb.setup(Run(dict(GIVEN), None)))


@pytest.fixture
def controls(play) -> Controls:
    """The widgets without a kernel, where every change is answered at once."""
    made = Controls(play)
    made.run()
    return made


def test_a_prompt_is_typed_with_or_without_its_speaker():
    assert as_prompt(" How do I boil an egg? ") == as_prompt("Human: How do I boil an egg?") == "Human: How do I boil an egg?"
    dialogue = "Human: Hi\n\nAssistant: Hello\n\nHuman: And now?"
    assert as_prompt(dialogue) == as_typed(dialogue) == dialogue
    assert as_typed("Human: Hi") == "Hi"
    for nothing in ("", "  \n", "Human:", "Human:  "):
        with pytest.raises(InputError, match="the prompt is empty"):
            as_prompt(nothing)


@pytest.mark.parametrize(("name", "retriever"), [("S", "R"), ("S_hat", "BM25"), ("ICL", "random")])
def test_it_answers_as_icdpo_does(play, name, retriever):
    choice = replace(play.start, score=name, retriever=retriever, n_demos=1, n_candidates=2)
    made = play.selection(choice)
    protocol = nb.RECOMMENDED.but(n_demos=1, n_candidates=2, max_new_tokens=24)
    data = nb.load_preferences("sandbox", demonstrations="teacher-a")
    support = {
        "R": lambda: nb.TwoStageRetriever(data.support, nb.Embedder(), 30, play.lm("sandbox-small").tokenize),
        "BM25": lambda: nb.BM25Retriever(data.support, 30, play.lm("sandbox-small").tokenize),
        "random": lambda: nb.RandomRetriever(data.support, 0),
    }[retriever]()
    wanted = nb.icdpo(choice.prompt, support, nb.load_lm("sandbox-small"), name, protocol, 0)
    assert [y.text for y in made.responses] == [y.text for y in wanted.responses]
    assert np.allclose(made.scores, wanted.scores, atol=1e-4)
    assert made.demos == wanted.demos == play.demos(choice)
    table = candidates_table(made)
    assert np.allclose(table[{"S": "S", "S_hat": "Ŝ", "ICL": "log π*"}[name]], wanted.scores, atol=1e-4)


def test_a_report_shows_the_first_prompt_without_widgets(play, tmp_path, monkeypatch):
    pages: list[str] = []
    for module in ("tables", "microscope"):
        monkeypatch.setattr(f"icdpo_nb.reports.{module}.display", lambda page: pages.append(page.data))
    monkeypatch.setattr("icdpo_nb.reports.widgets.display", lambda box: pytest.fail("widgets in a report"))
    show_playground(Playground(nb.setup(Run(dict(GIVEN), tmp_path))))
    said, demonstrations, candidates, seen = pages
    assert as_typed(play.start.prompt) in html.unescape(said)
    assert (demonstrations.count("<tr"), candidates.count("<tr")) == (3, 4)
    assert candidates.count('class="chosen"') == 1
    assert 'class="microscope"' in seen


def test_every_knob_changes_the_answer(controls):
    assert re.fullmatch(r"S chooses response [123] of 3; [\d.]+ s\.", controls.says.value)
    assert controls.bar.value == controls.bar.max
    seen = {controls.microscope.value}
    for name, value in [
        ("prompt", "How do I boil an egg?"),
        ("score", "S_hat"),
        ("n_candidates", 5),
        ("n_demos", 1),
        ("retriever", "random"),
        ("demonstrations", "raw"),
        ("temperature", 0.5),
        ("lm", "sandbox-medium"),
    ]:
        getattr(controls, name).value = value
        assert controls.microscope.value not in seen, name
        seen.add(controls.microscope.value)
    assert "boil an egg" in controls.microscope.value
    assert controls.candidates.value.count("<tr") == 6, "a head and five candidates"
    controls.again.click()
    assert controls.microscope.value not in seen, "another seed"


def test_a_picked_prompt_is_answered_and_another_set_offers_its_own(controls):
    other = controls.pick.options[3][1]
    controls.pick.value = other
    assert controls.prompt.value == other
    controls.preferences.value = "pocket"
    offered = [text for _, text in controls.pick.options]
    assert controls.prompt.value in offered
    assert other not in offered
    controls.prompt.value = "What is a tide?"
    controls.preferences.value = "sandbox"
    assert controls.prompt.value == "What is a tide?", "what one has typed stays"


def test_a_model_brings_the_data_that_it_knows(controls):
    controls.preferences.value = "pocket"
    controls.lm.value = "sandbox-large"
    assert (controls.preferences.value, controls.temperature.value, controls.template.value) == ("sandbox", 1.0, "figure")


def test_a_model_without_a_chat_template_says_so(controls):
    controls.template.value = "chat"
    assert "the model&#x27;s tokenizer has no chat template; use template figure" in controls.says.value
    controls.template.value = "figure"
    assert "chooses response" in controls.says.value


def test_candidates_grow_in_sight(play, monkeypatch):
    monkeypatch.setattr("icdpo_nb.reports.widgets.SECONDS", 0)
    controls, seen = Controls(play), []
    controls.candidates.observe(lambda change: seen.append((change["new"], controls.bar.value)), "value")
    controls.prompt.value = "A prompt that nobody has asked before, so that nothing is stored?"
    growing = [page for page, _ in seen if " …</td>" in page]
    assert len(growing) > 10
    assert [value for page, value in seen if page in growing] == sorted(value for page, value in seen if page in growing)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"n_demos": 8, "prompt": "Why? " * 900}, "exceeds the 1024 tokens of sandbox-small"),
    ],
)
def test_bad_input_is_a_sentence_in_its_place(controls, change, says):
    for name, value in change.items():
        getattr(controls, name).value = value
    assert says in controls.says.value
    assert controls.microscope.value == "", "no answer of before"
    controls.prompt.value = "How do I boil an egg?"
    controls.n_demos.value = 1
    assert "chooses response" in controls.says.value


def test_markup_stays_text(controls):
    controls.prompt.value = "<b>bold</b><script>alert(1)</script>"
    assert "<script" not in controls.microscope.value
    assert "<b>" not in controls.microscope.value
    assert "&lt;b&gt;bold" in controls.microscope.value


@pytest.mark.slow
def test_the_widgets_work_in_jupyterlab(tmp_path):
    """Type, pick and see the answer change, in a real JupyterLab driven by a browser."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    node = nbformat.read(NOTEBOOKS / "00_start_here.ipynb", as_version=4)
    cell = next(c for c in node.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = "\n".join(
        re.sub(r"= .*?(?=  #)", f"= {GIVEN[name]!r}", line) if (name := line.partition(":")[0]) in GIVEN else line
        for line in cell.source.splitlines()
    )
    nbformat.write(node, folder / "00.ipynb")
    with jupyterlab(folder, ICDPO_STORE=str(tmp_path / "store")) as address, browser("127.0.0.1,localhost") as (context, _):
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(address.format("00.ipynb"))
        page.get_by_text("(ipykernel) | Idle").wait_for()
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        box = page.locator(".playground").first
        says = box.get_by_text(re.compile(r"S chooses response \d of 3"))
        says.wait_for()
        box.locator("textarea").fill("How do I boil an egg?")
        box.locator("textarea").blur()
        box.locator(".ms-prompt", has_text="boil an egg").wait_for()
        box.get_by_label("score").select_option("Ŝ")
        box.get_by_text(re.compile(r"Ŝ chooses response \d of 3")).wait_for()
        assert box.locator(".ms-candidate").count() == 3
        sliders = box.locator(".widget-slider")
        readout = sliders.filter(has=page.locator("label", has_text=re.compile("^n$"))).locator(".widget-readout")
        readout.click()
        readout.press("Control+a")
        readout.press_sequentially("5")
        readout.press("Enter")
        box.get_by_text(re.compile(r"Ŝ chooses response \d of 5")).wait_for()
        page.screenshot(path=tmp_path / "playground.png", full_page=True)
