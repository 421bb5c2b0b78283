"""A real JupyterLab on this machine, with settings and files of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def jupyterlab(folder: Path, **environment: str) -> Iterator[str]:
    """The address of a JupyterLab that serves `folder`, with its token."""
    own = folder.parent / "jupyter"
    places = {f"JUPYTER_{kind}_DIR": str(own / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(own / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", f"--ServerApp.root_dir={folder}"]
    quiet = ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate"]
    said = open(folder.parent / "jupyterlab.log", "w+", encoding="utf-8")  # noqa: SIM115
    server = subprocess.Popen([*command, *quiet], env={**os.environ, **places, **environment}, stdout=said, stderr=said)
    try:
        yield _address(own / "runtime", server, said)
    finally:
        server.terminate()
        server.wait(30)
        said.close()


def _address(runtime: Path, server: subprocess.Popen, said) -> str:
    for _ in range(600):
        found = [json.loads(path.read_text()) for path in runtime.glob("jpserver-*.json")]
        if found:
            return f"{found[0]['url']}lab/tree/{{}}?reset&token={found[0]['token']}"
        if server.poll() is not None:
            break
        time.sleep(0.1)
    said.seek(0)
    raise RuntimeError(f"JupyterLab did not start: {said.read()[-2000:]}")
