"""Escaping of untrusted texts for display: hidden characters, overlong texts, markup, and secrets."""

import html
import json
import os
import re
import unicodedata

CELL_CHARACTERS = 2_000  # limit for a text in a table or sentence of a report; the saved tables hold the full text
TEXT_CHARACTERS = 5 * CELL_CHARACTERS  # limit for a text shown separately, such as a context
SHOWN_AS_IS = "\n\t\u200c\u200d\u00ad"  # line breaks, and the joiners and soft hyphens that some scripts and emoji need
SECRET = re.compile("key|token|secret|passw", re.IGNORECASE)  # matches names of environment variables with secrets
SHORTEST_SECRET = 8  # characters; shorter values ("false" in TOKENIZERS_PARALLELISM) also occur in ordinary text


def visible(text: str, limit: int | None = None) -> str:
    r"""Make hidden characters visible: "\x1b" becomes "␛", a right-to-left override "⟨U+202E⟩".

    Such characters could recolour a terminal, reorder or hide the text around them, or break a figure. In a text longer
    than `limit`, the middle is replaced by a note with the number of omitted characters.
    """
    if limit and len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} […{len(text) - 2 * half:,} characters left out…] {text[-half:]}"
    return "".join(c if c.isprintable() or c in SHOWN_AS_IS else _sign(c) for c in text.replace("\r\n", "\n"))


def _sign(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode control pictures
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, surrogate, separators
    return f"⟨U+{code:04X}⟩" if hidden else character


def escaped(text: str, limit: int | None = CELL_CHARACTERS) -> str:
    """Escape a text for HTML, with hidden characters made visible."""
    return html.escape(visible(text, limit))


def signs(text: str) -> str:
    """A text whose negative numbers have a minus sign in place of a hyphen."""
    return re.sub(r"(?<![\w.)\]-])-(?=\d)", "−", text)


def label(text: str, limit: int = 40) -> str:
    """A text on one line for a figure, with hidden characters made visible, truncated to `limit`."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def scrubbed(text: str) -> str:
    """Replace the values of environment variables whose names suggest a secret by `[NAME]`."""
    for name, value in sorted(os.environ.items(), key=lambda item: -len(item[1])):
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            for form in sorted(_forms(value), key=len, reverse=True):
                text = text.replace(form, f"[{name}]")
    return text


def _forms(value: str) -> set[str]:
    """The forms in which a value can occur in a notebook: plain, as a Python repr, as HTML, and each of these in JSON."""
    forms = {value, repr(value)[1:-1]}
    forms |= {html.escape(text) for text in forms}
    return forms | {json.dumps(text, ensure_ascii=False)[1:-1] for text in forms}
