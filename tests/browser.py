"""Pages in a headless Chromium: what is wrong with one at every width, in light and dark, and whom it asks for something.

The browser's whole network is a proxy in this process, which notes what is asked for and answers nothing.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN = re.compile(r"(^|\.)(google|googleapis|gstatic|gvt1|googleusercontent)\.com$")  # what Chromium itself calls at its start
WIDTHS, A4 = (390, 1280, 1920), 688  # pixels of windows; and of an A4 page at 96 dpi within margins of 14 mm
LAYOUT = {"rules": {"color-contrast": {"enabled": False}}}  # axe's rules that do not depend on the colour scheme
COLOURS = {"runOnly": ["color-contrast"]}

UNFOLD = "document.querySelectorAll('details').forEach(d => d.open = true)"
SIZES = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
# marks an element with text for each combination of letters and grounds: to look at all takes seconds a page, and finds no more
ONE_OF_EACH_STYLE = """() => {
    const seen = new Set()
    for (const element of document.body.querySelectorAll('*')) {
        if (![...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue
        const { color, fontSize, fontWeight } = getComputedStyle(element)
        const style = [color, fontSize, fontWeight]
        for (let e = element; e; e = e.parentElement) {
            const { backgroundColor, backgroundImage, opacity } = getComputedStyle(e)
            style.push(backgroundColor, backgroundImage, opacity)
        }
        const key = style.filter((s, i) => i < 3 || !/^(rgba\\(0, 0, 0, 0\\)|none|1)$/.test(s)).join()
        element.toggleAttribute('data-style', !seen.has(key))
        seen.add(key)
    }
}"""
LOST = """async () => {
    const lost = []
    for (const link of document.querySelectorAll('nav a[href^="#"]')) {
        link.click()
        await new Promise(shown => requestAnimationFrame(() => requestAnimationFrame(shown)))
        const name = link.hash.slice(1)  // a browser looks for the name as it stands first, then decoded
        const found = document.getElementById(name) ?? document.getElementById(decodeURIComponent(name))
        const seen = found?.getBoundingClientRect()
        if (!(seen?.bottom > 0 && seen.top < innerHeight)) lost.push(link.hash)
    }
    return lost
}"""
CUT = """width => [...document.querySelectorAll('table')].flatMap(table => {
    const cells = [...table.querySelectorAll('th, td')].filter(cell => cell.getClientRects().length)
    const right = Math.max(0, ...cells.map(cell => cell.getBoundingClientRect().right))
    const clipped = cells.filter(cell => {
        for (let e = cell; e !== document.body; e = e.parentElement) {
            const larger = e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight
            if (larger && getComputedStyle(e).overflow !== 'visible') return true
        }
    })
    const name = table.closest('[id]')?.id
    return [...(right > width + 1 ? [`${name} ends at ${Math.round(right)} of ${width} px`] : []),
            ...(clipped.length ? [`${name}: ${clipped.length} cells are clipped`] : [])]
})"""


@contextmanager
def recording_proxy() -> Iterator[tuple[int, list[str]]]:
    """A proxy's port and the list of hosts that it was asked for, without Chromium's own."""
    asked = []

    class Note(StreamRequestHandler):
        def handle(self):
            words = self.rfile.readline().decode("latin-1").split()
            target = words[1] if len(words) > 1 else ""  # http://host/path, or host:port for an encrypted connection
            host = re.sub(r"^\w+://|[:/].*$", "", re.sub(r"^\w+://", "", target))
            if not OWN.search(host):
                asked.append(host)
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Note) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


@contextmanager
def browser(past_the_proxy: str) -> Iterator[tuple]:
    """A browser's window (Playwright's context), and the hosts that were asked for; skips the test where there is none.

    Close it before anything else runs an event loop: Playwright's own runs in this thread meanwhile.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with recording_proxy() as (port, asked), playwright.sync_playwright() as started:
        proxy = {"server": f"http://127.0.0.1:{port}", "bypass": past_the_proxy}
        opened = started.chromium.launch(executable_path=CHROMIUM, proxy=proxy, args=["--disable-quic"])
        yield opened.new_context(reduced_motion="reduce", color_scheme="light"), asked
        opened.close()


@contextmanager
def chromium() -> Iterator[tuple[Callable, list[str]]]:
    """A function that opens a file, and the hosts that were asked for; skips the test where there is no browser."""
    with browser("<-loopback>") as (context, asked):  # not even this machine is reached past the proxy

        def opened(path: Path):
            page = context.new_page()
            page.said = []
            page.on("console", lambda message: page.said.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: page.said.append(f"console: {error}"))
            page.on("request", lambda request: page.said.append(f"asks for {request.url}") if _outside(request, path) else None)
            page.goto(path.as_uri())
            return page

        yield opened, asked


def _outside(request, path: Path) -> bool:
    return request.url.partition("#")[0] != path.as_uri() and not request.url.startswith("data:")


def faults(page) -> list[str]:
    """What is wrong with an open page, unfolded at every width in light and dark; in words, empty for a good page.

    It is wider than its window, a link of its contents leads nowhere, axe-core (deque.com/axe) finds a serious or critical
    violation of its rules, the console says something, or anything but the page itself is asked for.
    """
    page.set_viewport_size({"width": 1280, "height": 800})
    found = [f"the contents do not lead to {target}" for target in page.evaluate(LOST)]
    page.evaluate(UNFOLD)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            whole, window = page.evaluate(SIZES)
            found += [f"{scheme}: {whole} of {window} px wide"] if whole != window else []
        if width == min(WIDTHS):
            found += _violations(page, LAYOUT)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate(ONE_OF_EACH_STYLE)
        found += [f"{scheme}: {fault}" for fault in _violations(page, COLOURS, "[data-style]")]
    return found + page.said


def _violations(page, options: dict, where: str | None = None) -> list[str]:
    """What axe-core finds serious or critical: the rule, and the first elements that break it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, where, {"resultTypes": ["violations"], **options}).response["violations"]
    serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {' '.join(node['html'][:150] for node in rule['nodes'][:3])}" for rule in serious]


def cut_in_print(page) -> list[str]:
    """The tables of an open page that an A4 page would cut, at the right edge or within a box that scrolls on a screen."""
    page.set_viewport_size({"width": A4, "height": 1000})
    page.emulate_media(media="print")
    found = page.evaluate(CUT, A4)
    page.emulate_media(media="screen")
    return found
