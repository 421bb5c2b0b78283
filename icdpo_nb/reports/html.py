"""A report as one offline HTML file, and the record of a run."""

import json
from pathlib import Path

from ..common.escaping import visible

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
