"""A page arranged for a reader: order of sections, numbers and links of exhibits, contents, and what has no heading."""

from bs4 import BeautifulSoup

from icdpo_nb.reports.page import arranged

NOTEBOOK = """
<section data-kind=""><h1 id="q">Why?<a class="anchor-link" href="#q">¶</a></h1><p>About this.</p></section>
<details class="code"><summary>Code</summary></details>
<div class="output"><p class="provenance">versions</p></div>
<section data-kind="method"><h2 id="m">Method<a class="anchor-link" href="#m">¶</a></h2><p>How.</p></section>
<section data-kind=""><h2 id="r">Results</h2><p>Text.</p></section>
<div class="output"><figure><img alt="a is 1" src="data:,"></figure><p class="caption">A figure.</p>
<table><caption>First.</caption><tbody><tr><td>1</td></tr></tbody></table><table><tbody><tr><td>2</td></tr></tbody></table></div>
<div class="output"><table><caption>Second.</caption><tbody><tr><td>3</td></tr></tbody></table></div>
<section data-kind="answer"><h2 id="a">Answer</h2></section>
<div class="output"><div class="card"><p class="answer">Because.</p><table><caption>Card.</caption></table></div></div>
<section data-kind="limits"><h2 id="l">Limits</h2><p>Few.</p></section>
"""


def page(text: str = NOTEBOOK) -> BeautifulSoup:
    return BeautifulSoup(arranged(text), "html.parser")


def test_the_answer_stands_first_and_the_provenance_last():
    found = page()
    assert [h.get_text().removesuffix("¶") for h in found.find_all(["h1", "h2"])] == [
        "Why?",
        "Answer",
        "Results",
        "Method",
        "Limits",
    ]
    text = found.get_text()
    assert text.index("Because.") < text.index("About this.") < text.index("Text.") < text.index("versions")
    folded = found.find("details", class_="provenance")
    assert "versions" in folded.get_text()
    assert folded.get("open") is None


def test_contents_link_to_every_section_in_the_order_of_the_page():
    links = page().nav.find_all("a")
    assert [(a.get_text(), a["href"]) for a in links] == [
        ("Answer", "#a"), ("Results", "#r"), ("Method", "#m"), ("Limits", "#l"),
    ]  # fmt: skip


def test_exhibits_with_a_caption_have_a_number_and_a_link():
    found = page()
    captions = [c.get_text() for c in found.find_all("figcaption")]
    assert captions == ["Figure 1. A figure.", "Table 1. First.", "Table 2. Second."]
    for name in ("figure-1", "table-1", "table-2"):
        frame = found.find(id=name)
        assert frame.find("a", class_="permalink")["href"] == f"#{name}"
        assert frame.find(class_="scroll")["aria-label"].lower().replace(" ", "-") == name
    assert len(found.find_all("figure", class_="exhibit")) == 4, "one without a caption has a place to scroll as well"
    assert found.find("img")["alt"] == "a is 1"
    assert found.find(class_="card").find("caption").get_text() == "Card.", "the card is left as it is"


def test_what_scrolls_within_itself_can_be_reached():
    """The table of the answer, and texts that may be higher than their box; each by its name."""
    card = '<div class="card"><div class="scroll"><table></table></div></div>'
    words = ("a", "a " * 400, "a\n" * 20)
    texts = "".join(f'<div class="text-title">T{k}</div><div class="text">{text}</div>' for k, text in enumerate(words))
    found = page(f'<section data-kind="answer"><h2>A</h2></section><div class="output">{card}{texts}</div>')
    assert [node["aria-label"] for node in found.find_all(tabindex="0")] == ["claims and verdicts", "T1", "T2"]
    assert found.find(class_="text").get("tabindex") is None, "a short one is no stop on the way"


def test_a_notebook_without_answer_or_headings():
    cell = '<section data-kind="unheard-of"><h1>Why?</h1><p>About.</p><h2 id="x">X</h2><p>y</p></section>'
    found = page(f'{cell}<div class="output">z</div>')
    assert [node.name for node in found.find(class_="article").find_all(recursive=False)][:2] == ["h1", "div"]
    assert "z" in found.find("section", class_="results").get_text()
    assert page("<p>alone</p>").get_text().count("alone") == 1
