"""A headless Chromium whose whole network is a proxy in this process, which notes what is asked for and answers nothing."""

import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN = re.compile(r"(^|\.)(google|googleapis|gstatic|gvt1|googleusercontent)\.com$")  # what Chromium itself calls at its start
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-default-apps",
    "--disable-sync", "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=3000",
    "--dump-dom", "--proxy-bypass-list=<-loopback>",  # not even this machine is reached past the proxy
]  # fmt: skip


@contextmanager
def recording_proxy():
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


def open_page(path: Path) -> tuple[str, list[str]]:
    """Open a file; the document as it is when all its scripts have run, and the hosts that were asked for."""
    with recording_proxy() as (port, asked), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *OPTIONS, f"--proxy-server=http://127.0.0.1:{port}", f"--user-data-dir={profile}", path.as_uri()]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True)
    return done.stdout.decode("utf-8", "replace"), asked


def overflowing(page: Path, widths: tuple[int, ...] = (390, 1280, 1920)) -> dict[int, tuple[int, int]]:
    """The widths at which a page, with everything unfolded, is wider than its window: there (page, window), in pixels."""
    inner = page.read_text().replace("<details", "<details open").replace("&", "&amp;").replace('"', "&quot;")
    frames = "".join(f'<iframe style="width: {w}px; height: 800px; border: 0" srcdoc="{inner}"></iframe>' for w in widths)
    measure = """addEventListener('load', () => { document.title = [...document.querySelectorAll('iframe')].map(f =>
        f.contentDocument.documentElement.scrollWidth + '/' + f.contentDocument.documentElement.clientWidth).join(' ') })"""
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder) / "frames.html"
        outer.write_text(f"<!DOCTYPE html><title></title><body>{frames}<script>{measure}</script>")
        sizes = re.search("<title>(.*?)</title>", open_page(outer)[0])[1].split()
    found = {w: tuple(map(int, size.split("/"))) for w, size in zip(widths, sizes, strict=True)}
    return {w: (whole, window) for w, (whole, window) in found.items() if whole != window}
