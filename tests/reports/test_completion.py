"""What a shell completes, asked from bash itself, which reads the script that we print."""

import shutil
import subprocess

import pytest

from icdpo_nb.cli import main
from icdpo_nb.reports.completion import SHELLS
from icdpo_nb.reports.job import notebook_names

ASK = """source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p icdpo-nb | sed 's/.*-F \\([^ ]*\\).*/\\1/')
echo "${COMPREPLY[*]}" """


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        (["re"], ["report"]),
        (["ru"], []),  # `report` calls it; it is not for users
        (["report", "01"], ["01_method"]),
        (["report", "01_method", ""], notebook_names()),
        (["report", "01_method", "--preset", "smo"], ["smollm2", "smollm2-small"]),
        (["report", "01_method", "-p", "n_cand"], ["n_candidates"]),
        (["report", "01_method", "-p", "n_candidates", "8", "-p", "max_new"], ["max_new_tokens"]),
        (["report", "-p", "n_candidates", "8", "02"], ["02_retrieval_ablation"]),
        (["store", "v"], ["verify"]),
        (["gallery", "/us"], ["/usr"]),
    ],
)
def test_bash_completes(tmp_path, capsys, line, completed):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    command = ["bash", "-c", ASK, "bash", str(tmp_path / "script"), "icdpo-nb", *line]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(answer.stdout.split()) == completed
    assert answer.stderr == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_names_notebooks_and_presets(capsys, shell):
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    for name in ("03_demo_source_nll", "summarization-judge", "max_new_tokens"):
        assert name in said


def test_an_unknown_shell_is_one_sentence(capsys):
    assert main(["completion", "powershell"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
