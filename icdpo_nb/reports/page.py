"""A report's page: its sections in the order of a reader's questions, its exhibits numbered and linked, its contents listed.

A notebook runs in the order of its computation. The tag of a markdown cell with a heading says which of the reader's questions
its section answers (`ORDER`); the page puts the answer first and the provenance last.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bs4 import BeautifulSoup, Tag

ORDER = ("answer", "results", "evidence", "examples", "method", "data", "cost", "limits", "provenance")
LONG = 600, 15  # characters and lines: a text with more may need to scroll within itself
BEFORE_HEADINGS = "provenance"  # what stands before the first heading: settings, versions, data


@dataclass
class Section:
    """A heading and what follows it, to the next heading."""

    kind: str
    heading: Tag | None = None
    nodes: list[Tag] = field(default_factory=list)


def arranged(main: str) -> str:
    """The inside of a page's `main` element, rearranged; `main` is what the template made of the notebook's cells."""
    soup = BeautifulSoup(main, "html.parser")
    title, lead, sections = _sections(soup)
    sections.sort(key=lambda s: ORDER.index(s.kind))  # stable: sections of one kind keep their order
    article = soup.new_tag("div", attrs={"class": "article"})
    article.append(title)
    for section in sections:
        article.append(_element(soup, section))
        if section.kind == "answer":
            article.extend(lead)
    if not any(s.kind == "answer" for s in sections):
        title.insert_after(*lead)
    _number(soup, article)
    _reachable(article)
    whole = soup.new_tag("div", attrs={"class": "page"})
    whole.extend([article, _contents(soup, sections)])
    return str(whole)


def _sections(soup: BeautifulSoup) -> tuple[Tag, list[Tag], list[Section]]:
    """The title, the paragraphs below it, and the sections in the notebook's order."""
    title, lead, sections = soup.new_tag("h1"), [], [Section(BEFORE_HEADINGS)]
    for node in _top_level(soup):
        if node.name == "h1":
            title = node
        elif node.name == "h2":
            sections.append(Section(node["data-kind"], node))
        elif sections[-1].heading is None and node.name == "div" and "prose" in node.get("class", []):
            lead.append(node)
        else:
            sections[-1].nodes.append(node)
    return title, lead, sections


def _top_level(soup: BeautifulSoup) -> Iterator[Tag]:
    """The elements of the page; headings of a markdown cell stand alone, and its other parts in a `div.prose` each."""
    for node in [child for child in soup.children if isinstance(child, Tag)]:
        if node.name != "section":
            yield node
            continue
        kind, prose = node.get("data-kind") or "results", None
        for child in [child for child in node.children if isinstance(child, Tag)]:
            if child.name in ("h1", "h2"):
                prose = None
                yield _marked(child, kind)
            else:
                if prose is None:
                    prose = soup.new_tag("div", attrs={"class": "prose"})
                    yield prose
                prose.append(child)


def _marked(heading: Tag, kind: str) -> Tag:
    heading["data-kind"] = kind if kind in ORDER else "results"
    return heading


def _element(soup: BeautifulSoup, section: Section) -> Tag:
    """A section as an element; what a run rests on is folded."""
    folded = section.kind == BEFORE_HEADINGS and section.heading is None
    element = soup.new_tag("details" if folded else "section", attrs={"class": section.kind})
    if folded:
        summary = soup.new_tag("summary")
        summary.string = "Settings, data and versions of this run"
        element.append(summary)
    if section.heading is not None:
        del section.heading["data-kind"]
        element.append(section.heading)
    if section.kind == "answer":  # the reader's first screen has no code
        section.nodes.sort(key=lambda node: node.name == "details")
    element.extend(section.nodes)
    return element


def _number(soup: BeautifulSoup, article: Tag) -> None:
    """Give every table, figure and microscope a place to scroll, and those with a caption a number and a link."""
    counts = {"Table": 0, "Figure": 0}
    for exhibit in article.select("table, img, div.microscope"):
        if exhibit.find_parent(class_=["card", "microscope"]):
            continue
        caption = _caption_of(exhibit)
        outer = exhibit.parent if exhibit.name == "img" and exhibit.parent.name == "figure" else exhibit
        frame = soup.new_tag("figure", attrs={"class": "exhibit"})
        outer.insert_before(frame)
        scroll = soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0", "role": "group"})
        scroll.append(exhibit.extract())
        frame.append(scroll)
        if outer is not exhibit:
            outer.decompose()
        if caption is None:
            scroll["aria-label"] = "table" if exhibit.name == "table" else "figure"
            continue
        kind = "Table" if exhibit.name == "table" else "Figure"
        counts[kind] += 1
        name = f"{kind} {counts[kind]}"
        frame["id"] = name.lower().replace(" ", "-")
        scroll["aria-label"] = name
        link = soup.new_tag("a", href=f"#{frame['id']}", attrs={"class": "permalink"})
        link.string = f"{name}."
        text = soup.new_tag("figcaption", attrs={"class": " ".join(caption.get("class", []))} if caption.get("class") else {})
        text.append(link)
        text.append(" ")
        text.extend(list(caption.contents))
        caption.decompose()
        frame.append(text)


def _reachable(article: Tag) -> None:
    """Let the keyboard reach what scrolls within itself, with a name: tables of the answer and of words, and long texts."""
    for scroll in article.select(".card .scroll"):
        scroll.attrs |= {"tabindex": "0", "role": "group", "aria-label": "claims and verdicts"}
    for scroll in article.select(".microscope .scroll"):
        scroll.attrs |= {"tabindex": "0", "role": "group", "aria-label": "words and what they add"}
    for text in article.select("div.text"):
        words = text.get_text()
        if len(words) > LONG[0] or words.count("\n") > LONG[1]:
            title = text.find_previous_sibling(class_="text-title")
            text.attrs |= {"tabindex": "0", "role": "group", "aria-label": title.get_text() if title else "text"}


def _caption_of(exhibit: Tag) -> Tag | None:
    """The caption within a table or microscope, or the paragraph that follows a figure as its caption."""
    if exhibit.name == "table":
        return exhibit.find("caption")
    if exhibit.name == "div":
        return exhibit.find("p", class_="caption")
    following = exhibit.find_next(lambda t: t.name in ("img", "table") or "caption" in t.get("class", []))
    return following if following is not None and following.name == "p" else None


def _contents(soup: BeautifulSoup, sections: list[Section]) -> Tag:
    """The table of contents: a link to every heading."""
    nav = soup.new_tag("nav", attrs={"aria-label": "Contents"})
    for section in sections:
        if section.heading is not None:
            link = soup.new_tag("a", href=f"#{section.heading.get('id', '')}")
            link.string = section.heading.get_text().removesuffix("¶").strip()
            nav.append(link)
    return nav
