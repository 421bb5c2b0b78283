"""Run every command of README.md and docs/*.md, and their Python, in a fresh clone: `make check-docs`.

A fenced block without a language holds shell commands, one marked `python` Python, and one of another language is shown and
not run. A block that needs a network, money, hours or the reader's own files has a comment before it that says so,
`<!-- not run: needs a network -->`, and is named at the end with this reason. The blocks of a file run in order, in the root
of the same clone, so that a block may use what an earlier one made.

`--quick` lets the commands that make reports take two prompts (of each domain), and little training. `--venv FOLDER` uses
an existing installation instead of making one in the clone (ten minutes); the clone's code is used all the same.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"(?:<!-- not run: (?P<why>[^\n]+?) -->\n)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.M | re.S)
LANGUAGES = {"": "shell", "python": "python", "json": "shown", "text": "shown", "bibtex": "shown"}
ELSEWHERE = {  # commands that are checked in another way
    "make test": "the test suite is run by itself",
    "make lab": "a server that runs until it is stopped",
}
FEW = {"n_prompts": "2"}  # --quick: for every notebook
FEWER = {  # --quick: for some
    "06_fine_tuning": {
        "methods": "DPO", "n_seeds": "2", "sft_pairs": "16", "n_pairs": "16", "n_most": "4",
        "along_pairs": "32", "n_along": "2", "n_points": "2",
    },
    "08_relative_preference": {
        "tables": "4", "scale_tables": "", "n_seeds": "2", "sft_pairs": "16", "n_pairs": "16", "n_weighed": "8", "n_shown": "4",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a file."""

    file: str
    line: int
    kind: str  # shell, python or shown
    text: str
    not_run: str  # why it is not run; "" if it is

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block without their comments; one that ends with a backslash goes on."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.kind == "shell" else []
        return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def blocks(text: str, file: str) -> list[Block]:
    """The fenced blocks of a Markdown text. Raises `ValueError` for an unknown language and for a fence that stays open."""
    found = []
    for match in FENCE.finditer(text):
        language, line = match["language"], text[: match.start("text")].count("\n") + 1
        if language not in LANGUAGES:
            raise ValueError(f"{file}:{line}: a block of {language!r} is none of {', '.join(filter(None, LANGUAGES))}")
        found.append(Block(file, line, LANGUAGES[language], match["text"], match["why"] or ""))
    if len(re.findall("^```", text, re.M)) != 2 * len(found):
        raise ValueError(f"{file}: a fence is not closed, or has more than a language after it")
    return found


def documents(root: Path = ROOT) -> list[Path]:
    """The files that are read: README.md, CONTRIBUTING.md and docs/*.md."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def quick(command: str) -> str:
    """A command that makes reports with few prompts; any other as it is."""
    words = command.split()
    if re.fullmatch(r"make report(-all)?", command):
        return f"{command} OPTIONS='{' '.join(f'-p {k} {v}' for k, v in FEW.items())}'"
    if not words[0].endswith("icdpo-nb") or words[1:2] != ["report"]:
        return command
    small = FEW | {k: v for name, few in FEWER.items() if name in words for k, v in few.items()}
    return " ".join([command, *(f"-p {k} {v or chr(39) * 2}" for k, v in small.items() if k not in words)])


def script(block: Block, small: bool) -> str:
    """What bash runs for a block."""
    if block.kind == "python":
        return f".venv/bin/python - <<'PYTHON'\n{block.text}PYTHON\n"
    return "set -eux\n" + "\n".join(quick(c) if small else c for c in block.commands if c not in ELSEWHERE) + "\n"


def fresh_clone(folder: Path, venv: Path | None) -> tuple[Path, dict[str, str]]:
    """A clone of the committed state of this repository in `folder`, and the environment in which its commands run."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    env = os.environ | {"ICDPO_STORE": str(folder / "store"), "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}
    env.setdefault("ICDPO_CACHE", str(folder / "cache"))
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH")]))
    if venv:
        (clone / ".venv").symlink_to(venv.resolve())
        for name in ("pyproject.toml", "constraints.txt"):  # older than the installation, so that make does not install again
            os.utime(clone / name, (1, 1))
    return clone, env


def run(block: Block, clone: Path, env: dict[str, str], small: bool) -> bool:
    """Run a block; print a line about it, and the end of its output if it fails. Returns whether it ran without an error."""
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", script(block, small)], cwd=clone, env=env, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    what = "; ".join(block.commands) or block.text.splitlines()[0] + " …"
    took = f"{time.monotonic() - began:5.0f} s"
    print(f"{'FAILED' if done.returncode else 'ok':7} {took}  {block.file}:{block.line}  {what}")
    if done.returncode:
        print("\n".join(f"        {line}" for line in done.stdout.splitlines()[-25:]))
    sys.stdout.flush()
    return done.returncode == 0


def main() -> int:
    """The exit code: 1 if a block failed."""
    parser = argparse.ArgumentParser(prog="python tests/commands.py", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="only these, for example docs/data.md")
    parser.add_argument("--quick", action="store_true", help="reports with few prompts")
    parser.add_argument("--venv", type=Path, help="an existing installation (default: one is made in the clone)")
    args = parser.parse_args()
    if args.venv and not (args.venv / ".installed").exists():
        parser.error(f"{args.venv}: no installation; make one with make install VENV={args.venv}")
    found = [b for p in documents() for b in blocks(p.read_text(encoding="utf-8"), str(p.relative_to(ROOT)))]
    found = [b for b in found if b.kind != "shown" and (not args.files or b.file in args.files)]
    with tempfile.TemporaryDirectory() as folder:
        clone, env = fresh_clone(Path(folder), args.venv)
        if not args.venv:
            subprocess.run(["make", "install"], cwd=clone, env=env, check=True)
        failed = [b for b in found if not b.not_run and not run(b, clone, env, args.quick)]
    for block in (b for b in found if b.not_run):
        print(f"not run          {block.file}:{block.line}  {block.not_run}: {'; '.join(block.commands) or 'Python'}")
    for command, why in ELSEWHERE.items():
        print(f"not run          {why}: {command}")
    print(f"{len(failed)} of {sum(not b.not_run for b in found)} blocks failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
