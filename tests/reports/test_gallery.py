"""A published gallery: what it copies and what it leaves behind; and the gallery that comes with the project."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup

from icdpo_nb.cli import main
from icdpo_nb.reports.gallery import LARGEST
from icdpo_nb.reports.job import notebook_names

COMMITTED = Path(__file__).parents[2] / "docs" / "gallery"


def leave(out: Path, name: str, status: str = "done", **files: int) -> None:
    """A run with a report and files of the given sizes, whose names have `_` for `.`."""
    record = {"run": name, "notebook": name, "title": "A question?", "status": status, "finished": "2026-11-01 10:00:00"}
    record |= {"seconds": 61, "parameters": {}, "headline": {"answer": "Yes."}, "exception": "no memory"}
    (out / name).mkdir(parents=True)
    (out / name / "run.json").write_text(json.dumps(record))
    links = "".join(f'<a href="{file.replace("_", ".")}">x</a>, ' for file in files)
    head = '<!DOCTYPE html><title>A</title><h2 id="How-reliable-is-the-reward?">Kept.</h2>'
    page = f'{head}<p class="files">Beside this report: {links}</p><p>Kept, too.</p>'
    (out / name / "report.html").write_text(page)
    for file, size in files.items():
        (out / name / file.replace("_", ".")).write_bytes(b"x" * size)


def broken_links(folder: Path) -> list[str]:
    """The links of the pages below a folder that lead to nothing in it."""
    broken = []
    for page in folder.rglob("*.html"):
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        for link in (a["href"] for a in soup.find_all("a", href=True)):
            path, _, anchor = link.partition("#")
            there = (page.parent / unquote(path)).resolve() if path else page
            if link.startswith("https://"):
                continue
            if not there.is_file() or not there.is_relative_to(folder.resolve()):
                broken.append(f"{page.relative_to(folder)}: {link}")
            elif anchor and there.suffix == ".html":
                target = soup if there == page else BeautifulSoup(there.read_text(encoding="utf-8"), "html.parser")
                if not target.find(id=[anchor, unquote(anchor)]):  # browsers look for the name as it stands, then decoded
                    broken.append(f"{page.relative_to(folder)}: {link}")
    return broken


def test_what_is_published(tmp_path, capsys):
    out, to = tmp_path / "reports", tmp_path / "docs" / "gallery"
    leave(out, "01_method", candidates_jsonl=LARGEST + 1, gains_csv=LARGEST, notebook_ipynb=10)
    leave(out, "02_other.failed", "failed")
    assert main(["gallery", str(out), "--publish", str(to)]) == 0
    assert capsys.readouterr().out.strip() == str(to / "index.html")
    files = {p.relative_to(to).as_posix() for p in to.rglob("*") if p.is_file()}
    here = {"report.html", "run.json", "gains.csv", "notebook.ipynb"}
    assert files == {"index.html", *(f"01_method/{name}" for name in here)}, "neither large files nor failed runs"
    page = (to / "01_method" / "report.html").read_text()
    assert "Kept." in page
    assert "Kept, too." in page
    assert "Too large for this gallery: candidates.jsonl (0.2 MB). The command above makes it again." in page
    assert broken_links(to) == []
    leave(out, "03_more", a_csv=1)
    assert main(["gallery", str(out), "--publish", str(to)]) == 0, "it replaces the older one"
    assert (to / "03_more" / "a.csv").exists()
    assert [p.name for p in to.parent.iterdir()] == ["gallery"], "nothing is left beside it"


@pytest.mark.parametrize("where", ["no reports", "other files", "itself"])
def test_nothing_else_is_replaced(tmp_path, capsys, where):
    out, to = tmp_path / "reports", tmp_path / "site"
    if where != "no reports":
        leave(out, "01_method")
    out.mkdir(exist_ok=True)
    to.mkdir()
    (to / "index.html").write_text("mine")
    (to / "photo.png").write_text("mine")
    target = {"no reports": tmp_path / "new", "other files": to, "itself": out}[where]
    assert main(["gallery", str(out), "--publish", str(target)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {p.name for p in to.iterdir()} == {"index.html", "photo.png"}
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="this copy of the project comes without its gallery")
def test_the_gallery_of_the_project_is_whole():
    runs = [json.loads(path.read_text()) for path in COMMITTED.glob("*/run.json")]
    assert {run["notebook"] for run in runs} == set(notebook_names())
    assert all(run["status"] == "done" for run in runs)
    assert any("smollm2" in json.dumps(run["parameters"]) for run in runs if run["notebook"] == "01_method")
    assert broken_links(COMMITTED) == []
    pages = list(COMMITTED.rglob("*.html"))
    assert all(page.stat().st_size < 1_500_000 for page in pages)
    assert sum(p.stat().st_size for p in COMMITTED.rglob("*") if p.is_file()) <= 12_000_000
    assert not [page for page in pages if "<script" in page.read_text(encoding="utf-8")]
