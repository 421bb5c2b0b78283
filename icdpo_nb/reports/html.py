"""A report as one offline HTML file, and the gallery of all reports."""

import json
from pathlib import Path

from ..common.escaping import escaped, visible
from ..common.files import write_whole

HERE = Path(__file__).parent
TAGS = ["p", "div", "span", "br", "pre", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td"]


def to_html(notebook: Path, title: str, footer: str) -> str:
    """One HTML file without scripts or outside addresses; code is folded, parameters and outputs are visible.

    Of the HTML that cells display only plain markup stays markup (`TAGS`, no attribute but `class`); all else becomes text.
    """
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors.sanitize import SanitizeHTML

    exporter = HTMLExporter(template_name="template", extra_template_basedirs=[str(HERE)])
    plain = SanitizeHTML(tags=TAGS, attributes={"*": ["class"]})
    exporter.register_filter("plain_markup", plain.sanitize_html_tags)
    exporter.register_filter("visible", visible)
    report = {"title": title, "footer": footer, "css": _css()}
    body, _ = exporter.from_filename(str(notebook), resources={"report": report})
    return body


def write_gallery(out: Path | str) -> Path:
    """`index.html` below `out`: every finished run, newest first."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    out = Path(out)
    runs = [record for path in out.glob("*/run.json") if is_done(record := read_record(path))]
    runs.sort(key=lambda r: r["finished"], reverse=True)
    environment = Environment(loader=FileSystemLoader(HERE / "template"), autoescape=True)
    environment.filters["shown"] = lambda value: Markup(escaped(str(value)))
    write_whole(out / "index.html", environment.get_template("gallery.html.j2").render(runs=runs, css=_css()))
    return out / "index.html"


def _css() -> str:
    return (HERE / "template" / "style.css").read_text(encoding="utf-8")


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
