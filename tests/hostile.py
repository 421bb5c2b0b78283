"""The hostile record: texts that would run, load, reorder or break something if a report took them for more than text.

They are the prompts, responses, demonstrations, domains and ids of a preference file, all that a language model says, and the
names of both. Every notebook runs on them, at smoke size.
"""

import json
from pathlib import Path

from conftest import save_tiny_lm

OUTSIDE = "planted.example"  # a request to this host would come from the texts
HOSTILE = [
    "<script>document.title='pwned';fetch('http://planted.example/script')</script>",
    "<img src=http://planted.example/x.png onerror=document.title='pwned'> <svg/onload=alert(1)>",
    "[click me](javascript:alert(1)) ![x](http://planted.example/markdown.png)",
    "$\\require{html}\\href{javascript:alert(1)}{x}$ and **bold** and `code` and # heading",
    "\u202egnp.exe \u2066hidden\u2069 \x1b[31mred\x07 \x85 \u200b zero",
    "</pre></div></td></body><iframe src='http://planted.example/frame'></iframe>",
    "<meta http-equiv=refresh content='0;url=http://planted.example/refresh'><base href=http://planted.example/>",
    "<link rel=stylesheet href=http://planted.example/x.css><style>*{background:url(http://planted.example/bg)}</style>",
    "{{ 7 * 7 }} {% raw %} ${7*7} %(x)s {cell.source}",
    "caf\u00c3\u00a9 \ufffd \ufeff broken \U0001f600 \u05d0\u05d1\u05d2 \u0627\u0644\u0633\u0644\u0627\u0645",
    "w" * 100_000,
]
# of the model's folder and the file; control characters are refused in parameters
NAME = "<img src=x onerror=document.title='pwned'> $x$"


def save_hostile_lm(folder: Path) -> str:
    """A model that says nothing but the hostile texts."""
    return str(save_tiny_lm(folder / NAME, positions=16384, says=HOSTILE))


def save_hostile_set(folder: Path) -> str:
    """Preference pairs of the hostile texts: two domains, ten demonstrations and a few test prompts in each."""
    rows = []
    for d, domain in enumerate(HOSTILE[1:5:3]):
        for i in range(len(HOSTILE) + 4):
            text, other = HOSTILE[i % len(HOSTILE)], HOSTILE[(i + 3) % len(HOSTILE)]
            rows.append({
                "id": f"{text[:60]} {d} {i}",
                "domain": domain,
                "prompt": f"Human: {other} {d} {i}\n\nAssistant: {text}\n\nHuman: {text}",
                "chosen": f"{text} yes",
                "rejected": f"{other} no",
                "teacher_a": f"{other} teacher {i}",
                "split": "test" if i >= len(HOSTILE) else "train",
            })  # fmt: skip
        rows[-3]["prompt"] = rows[-5]["prompt"]  # one that stands in both splits, so that its id is shown
        rows[-4]["chosen"] = HOSTILE[-1] + " yes"
    rows += [{**rows[0], "id": "half", "chosen": "half a pair \ud800"}]
    path = folder / f"{NAME}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)
