"""Text that one can look at: hidden characters made visible, long texts cut, markup escaped, keys and tokens taken out."""

import html
import json
import os
import re
import unicodedata

CELL_CHARACTERS = 2_000  # of a text that a table or a sentence of a report shows; the run's own tables hold all of it
TEXT_CHARACTERS = 5 * CELL_CHARACTERS  # of a text shown by itself: contexts are long
SHOWN_AS_IS = "\n\t\u200c\u200d\u00ad"  # line breaks, and the joiners and soft hyphens that some scripts and emoji need
SECRET = re.compile("key|token|secret|passw", re.IGNORECASE)  # names of environment variables that hold one
SHORTEST_SECRET = 8  # characters; shorter values, as "false" in TOKENIZERS_PARALLELISM, would be found in ordinary text


def visible(text: str, limit: int | None = None) -> str:
    r"""A text whose hidden characters show: "\x1b" becomes "␛", a right-to-left override "⟨U+202E⟩"; cut to `limit`.

    Such characters could recolour a terminal, reorder or hide what stands around them, or break a figure. Where a text is cut,
    its middle is left out and the number of characters stands in its place.
    """
    if limit and len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} […{len(text) - 2 * half:,} characters left out…] {text[-half:]}"
    return "".join(c if c.isprintable() or c in SHOWN_AS_IS else _sign(c) for c in text.replace("\r\n", "\n"))


def _sign(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of the control characters
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats, half pairs, separators
    return f"⟨U+{code:04X}⟩" if hidden else character


def escaped(text: str, limit: int | None = CELL_CHARACTERS) -> str:
    """A visible text for a page of HTML, where it is text and nothing else."""
    return html.escape(visible(text, limit))


def label(text: str, limit: int = 40) -> str:
    """A visible text on one line, for a figure."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def scrubbed(text: str) -> str:
    """The text without the values of environment variables that are named like a key or token; their names stand instead."""
    for name, value in sorted(os.environ.items(), key=lambda item: -len(item[1])):
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            for form in sorted(_forms(value), key=len, reverse=True):
                text = text.replace(form, f"[{name}]")
    return text


def _forms(value: str) -> set[str]:
    """How a value can be spelt in a notebook: as it is, as Python shows it, as HTML, and each of these in JSON."""
    spelt = {value, repr(value)[1:-1]}
    spelt |= {html.escape(text) for text in spelt}
    return spelt | {json.dumps(text, ensure_ascii=False)[1:-1] for text in spelt}
