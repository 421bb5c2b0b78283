"""A gallery to publish: the finished reports of a folder and their front page, without the files that are large."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ..common.errors import InputError
from ..common.escaping import escaped
from ..common.files import write_whole
from .front import write_front_page
from .html import is_done, read_record
from .run import writing

LARGEST = 200_000  # bytes of a file beside a report that is still copied
KEPT = ("report.html", "run.json", "headline.json")  # whatever their size: the front page is made from them
FILES = re.compile(r'<p class="files">.*?</p>', re.S)  # what a report says of the files beside it


def publish(folder: Path | str, target: Path | str, largest: int = LARGEST) -> Path:
    """Copy the finished reports below `folder` to `target`, which they replace, and write their front page.

    Of the files beside a report those of more than `largest` bytes stay behind; the copied report says so. Returns the front
    page. Raises `InputError` if there is no finished report, or if `target` holds anything but a gallery.
    """
    folder, target = Path(folder), Path(target)
    runs = [path.parent for path in sorted(folder.glob("*/run.json")) if is_done(read_record(path))]
    if not runs:
        raise InputError(f"{folder}: no finished report there; make one first, for example icdpo-nb report 01_method")
    if target.exists() and not all(p.name == "index.html" or (p / "run.json").is_file() for p in target.iterdir()):
        raise InputError(f"{target} holds other files than a gallery's; give an empty folder, or one to create")
    if folder.resolve() == target.resolve():
        raise InputError(f"{target} is the folder of the reports; give another one for the gallery")
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as hidden:
            new = Path(hidden) / "new"
            for run in runs:
                _copy(run, new / run.name, largest)
            write_front_page(new)
            if target.exists():
                target.rename(Path(hidden) / "older")
            new.rename(target)
    return target / "index.html"


def _copy(run: Path, to: Path, largest: int) -> None:
    """Copy one report with the small files beside it."""
    to.mkdir(parents=True)
    files = sorted(p for p in run.iterdir() if p.is_file())
    small = [p for p in files if p.name in KEPT or p.stat().st_size <= largest]
    for path in small:
        if path.name != "report.html":
            shutil.copyfile(path, to / path.name)
    page = (run / "report.html").read_text(encoding="utf-8")
    kept = [p.name for p in small if p.name != "report.html"]
    left = {p.name: p.stat().st_size for p in files if p not in small}
    write_whole(to / "report.html", FILES.sub(lambda _: _files(kept, left), page))


def _files(kept: Sequence[str], left: dict[str, int]) -> str:
    """What the copied report says of the files beside it, and of those that stayed behind."""
    links = ", ".join(f'<a href="{quote(name)}">{escaped(name)}</a>' for name in kept)
    said = f'<p class="files">Beside this report: {links}.'
    if left:
        names = ", ".join(f"{escaped(name)} ({size / 1e6:.1f} MB)" for name, size in left.items())
        said += f" Too large for this gallery: {names}. The command above makes {'it' if len(left) == 1 else 'them'} again."
    return f'{said} <a href="../index.html">All reports</a>.</p>'
