"""The choice of a backend, by the file or by --on, and the command that makes it."""

from types import SimpleNamespace

import pytest
from sweeping import begun, saved, small_notebooks

from icdpo_nb.cli import main
from icdpo_nb.common.errors import InputError
from icdpo_nb.sweeps.backends import open_backend
from icdpo_nb.sweeps.local import Local
from icdpo_nb.sweeps.slurm import Slurm


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_notebooks(tmp_path, monkeypatch)


def test_the_file_names_it_and_the_command_line_overrides_it(monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr("icdpo_nb.sweeps.slurm.shutil", SimpleNamespace(which=lambda name: name))
    on = {"backend": "slurm", "partition": "gpu", "minutes": 30}
    assert isinstance(open_backend({}), Local)
    assert open_backend(on).given == {"partition": "gpu", "minutes": 30}
    assert open_backend(on, "slurm", 4).jobs == 4
    local = open_backend(on, "local", 2)
    assert isinstance(local, Local)
    assert local.slots == 2
    assert isinstance(open_backend({"backend": "local"}, "slurm"), Slurm)
    with pytest.raises(InputError, match="there is no backend 'slrum'; did you mean 'slurm'"):
        open_backend(on, "slrum")
    with pytest.raises(InputError, match="there is no backend 'moon'; there are local, slurm"):
        open_backend({"backend": "moon"})
    with pytest.raises(InputError, match="the backend local has no option 'partition'"):
        open_backend({"partition": "gpu"})


def test_a_dry_run_lists_what_would_run(small, tmp_path, capsys):
    path = saved(tmp_path, "notebooks: 05_small\ngrid: {size: [3, 4]}\n")
    assert main(["sweep", str(path), "-o", str(small), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"2 runs, 0 of them done, into {small}"
    assert said[1].split(maxsplit=3) == ["to", "run", "05_small", "icdpo-nb report 05_small"]
    assert said[2].endswith("icdpo-nb report 05_small -p size 4")
    assert not small.exists()


def test_what_is_wrong_is_one_sentence_and_nothing_runs(small, tmp_path, capsys):
    path = saved(tmp_path, "notebooks: 05_small\ngrid:\n  sise: [3]\n")
    assert main(["sweep", str(path), "-o", str(small)]) == 2
    said = f"icdpo-nb: {path}, line 3: no notebook here has a parameter 'sise'; did you mean 'size'?\n"
    assert capsys.readouterr().err == said
    path = saved(tmp_path, "notebooks: 05_small\non: {backend: local, partition: x}\n")
    assert main(["sweep", str(path), "-o", str(small)]) == 2
    assert not small.exists()


def test_one_run_from_the_file_to_the_combined_report(small, tmp_path, capsys):
    """In a process of its own; the second call leaves it as it is."""
    path = saved(tmp_path, "notebooks: 05_small\ngrid: {size: 4}\n")
    assert main(["sweep", str(path), "-o", str(small)]) == 0
    assert begun(tmp_path) == [["x", "4", "0"]]
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("size is 4")
    assert said[1] == str(small / "grid" / "report.html")
    assert sorted(p.name for p in small.iterdir() if p.name.startswith(".")) == []
    assert main(["sweep", str(path), "-o", str(small)]) == 0
    assert len(begun(tmp_path)) == 1
    assert "as it was" in capsys.readouterr().out
