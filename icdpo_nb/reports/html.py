"""A report as one offline HTML file, and the record of a run."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..common.escaping import visible
from .page import arranged

HERE = Path(__file__).parent
TAGS = ["p", "div", "span", "br", "pre", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td"]
TAGS += ["dl", "dt", "dd", "svg", "line", "polyline", "rect", "circle", "text"]
ATTRIBUTES = {  # those of a plot hold numbers, or its text alternative
    "*": ["class"],
    "th": ["class", "colspan", "scope"],
    "span": ["class", "title"],  # a token's numbers
    "svg": ["class", "viewBox", "width", "height", "role", "aria-label"],
    "line": ["class", "x1", "x2", "y1", "y2"],
    "polyline": ["class", "points"],
    "rect": ["class", "x", "y", "width", "height"],
    "circle": ["class", "cx", "cy", "r"],
    "text": ["x", "y"],
}


def to_html(notebook: Path, title: str, footer: str, about: Mapping[str, object] | None = None) -> str:
    """One HTML file without scripts or outside addresses, arranged for a reader (see `page`); code is folded.

    Of the HTML that cells display only plain markup stays markup (`TAGS` with `ATTRIBUTES`); all else becomes text. `about`:
    what the template shows of the run: its name, the command that makes it again, and the files that lie beside the report.
    """
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors.sanitize import SanitizeHTML

    from .microscope import STYLE  # what a cell displays brings it along for JupyterLab; the page has it once

    exporter = HTMLExporter(template_name="template", extra_template_basedirs=[str(HERE)])
    plain = SanitizeHTML(tags=TAGS, attributes=ATTRIBUTES)
    exporter.register_filter("plain_markup", lambda text: plain.sanitize_html_tags(text.replace(STYLE, "")))
    exporter.register_filter("visible", visible)
    report = {"title": title, "footer": footer, "css": _css(), **(about or {})}
    body, _ = exporter.from_filename(str(notebook), resources={"report": report})
    before, _, rest = body.partition("<main>")
    inside, _, after = rest.rpartition("</main>")
    return f"{before}<main>{arranged(inside)}</main>{after}"


def _css() -> str:
    return "".join(
        (HERE / "template" / name).read_text(encoding="utf-8") for name in ("base.css", "style.css", "microscope.css")
    )


def read_record(path: Path) -> dict:
    """The JSON that lies at a path; empty if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_done(record: dict) -> bool:
    """Whether this is the record of a finished run; one that cannot be read is none."""
    return record.get("status") == "done" and {"run", "finished", "headline"} <= record.keys()
