"""The checks of pages in a browser can fail: a page without fault, and pages with one planted fault each."""

import pytest
from browser import chromium, cut_in_print, faults
from hostile import HOSTILE, OUTSIDE

GOOD = """<!DOCTYPE html><html lang="en"><head><title>safe</title><meta name="color-scheme" content="light dark">
<style>body { color: #222; background: #fff }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #111 } }</style></head><body>
<header><nav><a href="#here">Here</a></nav></header><main><h1 id="here">Safe</h1><p>Text.</p>BODY</main></body></html>"""
ROW = "<table id='t'><tbody><tr>" + "<td>number</td>" * 60 + "</tr></tbody></table>"


@pytest.fixture(scope="module")
def browser():
    """All tests of this file use it, so that its event loop is in nobody's way."""
    with chromium() as started:
        yield started


@pytest.fixture
def page_of(browser, tmp_path):
    """Opens `GOOD` with something in its body."""

    def opened(body: str):
        path = tmp_path / "page.html"
        path.write_text(GOOD.replace("BODY", body))
        return browser[0](path)

    return opened


def test_a_good_page_has_no_fault(page_of):
    assert faults(page_of("")) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("<p style='color: #aaa; background: #fff'>pale</p>", ["light: color-contrast", "dark: color-contrast"]),
        ("<style>@media (prefers-color-scheme: dark) { i { color: #333 } }</style><i>dim</i>", ["dark: color-contrast"]),
        ("<style>@media (prefers-color-scheme: light) { i { color: #ddd } }</style><i>pale</i>", ["light: color-contrast"]),
        ("<img src='data:,'>", ["image-alt"]),
        (f"<div style='height: 3em; overflow: auto'>{'<p>far</p>' * 20}</div>", ["scrollable-region-focusable"]),
        ("<details><summary>More</summary><div style='width: 1000px'>wide</div></details>", ["dark: 10", "light: 10"]),
        ("<nav aria-label='Contents'><a href='#nowhere'>Lost</a></nav>", ["the contents do not lead to #nowhere"]),
        ("<script>console.error('broken')</script>", ["console: broken"]),
        ("<script>throw Error('broken')</script>", ["console: broken"]),
        (f"<img alt='x' src='http://{OUTSIDE}/x.png'>", [f"asks for http://{OUTSIDE}/x.png", "console: Failed to load"]),
    ],
)
def test_a_planted_fault_is_found(page_of, body, says):
    found = faults(page_of(body))
    assert len(found) == len(says), found
    assert all(fault.startswith(start) for fault, start in zip(found, says, strict=True)), found


@pytest.mark.parametrize("style", ["", "width: 10em; overflow: auto"])
def test_a_table_cut_in_print_is_found(page_of, style):
    assert cut_in_print(page_of("<table id='t'><tbody><tr><td>number</td></tr></tbody></table>")) == []
    assert len(cut_in_print(page_of(f"<div style='{style}'>{ROW}</div>"))) == 1 + bool(style)


@pytest.mark.parametrize("markup", [HOSTILE[0], HOSTILE[6], HOSTILE[5] + HOSTILE[7]], ids=["script", "refresh", "frame"])
def test_the_browser_would_have_told(browser, tmp_path, markup):
    """The hostile texts as markup, which is what a report must never make of them."""
    opened, asked = browser
    asked.clear()
    path = tmp_path / "unsafe.html"
    path.write_text(f"<!DOCTYPE html><title>safe</title>{markup}")
    page = opened(path)
    page.wait_for_timeout(500)
    assert OUTSIDE in asked
    assert (page.title() == "pwned") == ("document.title" in markup)
