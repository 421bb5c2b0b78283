"""The API reference: `python docs/api.py [FOLDER [MODULE …]]` writes it to FOLDER, by default build/api (`make docs`).

Public names of `icdpo_nb` are imported on first use, and pdoc documents only what is there, so they are resolved first.
Fails on any warning of pdoc, such as a name that does not resolve or a template that does not render.
"""

import sys
import warnings
from pathlib import Path

import pdoc

import icdpo_nb
from icdpo_nb import statistics, training

ROOT = Path(__file__).parents[1]


def build(target: Path, modules: tuple[str, ...]) -> None:
    """Write the reference of `modules` and the modules below them to the folder `target`. Changes the package for pdoc."""
    for name, value in [(name, getattr(icdpo_nb, name)) for name in icdpo_nb.PUBLIC]:
        setattr(icdpo_nb, name, value)
    icdpo_nb.__all__ = [*icdpo_nb.ROOMS, *icdpo_nb.PUBLIC]  # what the first page lists, in this order
    icdpo_nb.Protocol.__repr__ = lambda protocol: protocol.name  # in signatures; its settings are a page of their own
    for room in (statistics, training):  # the names that they pass on are documented where they are defined
        vars(room).pop("__all__", None)
    pdoc.render.configure(docformat="markdown", footer_text="ICDPO workbook", search=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", r".*OasstConfig\.__init__")  # its signature is made by transformers
        pdoc.pdoc(*modules, output_directory=target)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "api"
    build(folder, tuple(sys.argv[2:]) or ("icdpo_nb",))
    print(f"open {folder / 'index.html'}")
