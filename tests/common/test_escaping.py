"""What a reader gets to see of a text, and what nobody does."""

import html

import pytest

from icdpo_nb.common.escaping import escaped, label, scrubbed, signs, visible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain, with ü, 漢字, עברית and 👩‍🔬\n\tlines", "plain, with ü, 漢字, עברית and 👩‍🔬\n\tlines"),
        ("\u202egnp.exe\u202c \u2066a\u2069 \u200f", "⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+2066⟩a⟨U+2069⟩ ⟨U+200F⟩"),
        ("\x1b[31mred\x07\x7f\x00", "␛[31mred␇⟨U+007F⟩␀"),
        ("\x85 \u2028 \ufeff \U000e0041", "⟨U+0085⟩ ⟨U+2028⟩ ⟨U+FEFF⟩ ⟨U+E0041⟩"),
        ("half \ud800", "half ⟨U+D800⟩"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
    ],
)
def test_hidden_characters_show(text, seen):
    assert visible(text) == seen
    assert visible(seen) == seen
    assert html.unescape(escaped(text)) == seen


def test_long_texts_lose_their_middle_and_say_so():
    text = "a" * 60_000 + "b" * 40_000
    assert visible(text, 10) == "aaaaa […99,990 characters left out…] bbbbb"
    assert visible(text) == text
    assert len(escaped(text)) < 2100
    assert visible("a" * 10, 10) == "a" * 10


def test_negative_numbers_have_a_minus_sign():
    text = "-0.11 [-0.37, 0.14], LLaMA2-7B, 2026-11-28, teacher-a"
    assert signs(text) == "−0.11 [−0.37, 0.14], LLaMA2-7B, 2026-11-28, teacher-a"


def test_labels_are_short_and_on_one_line():
    assert label("two\n  lines \u202e") == "two lines ⟨U+202E⟩"
    assert label("a" * 50, 10) == "a" * 9 + "…"


def test_keys_and_tokens_are_named_instead(monkeypatch):
    value = 'sk-"longer" <than> this'
    for name, held in {"OPENAI_API_KEY": value, "hf_token": "sk-", "MY_SECRET": value + "s", "HARMLESS": "ordinary"}.items():
        monkeypatch.setenv(name, held)
    said = f"{value}; {value}s; sk-; ordinary; {html.escape(value)}; " + value.replace('"', '\\"')
    assert scrubbed(said) == ("[OPENAI_API_KEY]; [MY_SECRET]; sk-; ordinary; [OPENAI_API_KEY]; [OPENAI_API_KEY]")
