"""What differs between two runs: parameters, code, models and data, headline numbers, and the responses that were chosen."""

import json
from pathlib import Path

import pandas as pd

from ..algorithm import select
from ..common.errors import InputError
from ..common.escaping import label

PARTS = {  # of a run's record, and what they are called
    "parameters": "parameters",
    "origins": "code, versions and files",
    "uses": "models and data",
    "headline": "headline numbers",
}


def read_run(folder: Path | str) -> dict:
    """The record of a finished run. Raises `InputError` if there is none."""
    path = Path(folder) / "run.json"
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: no record of a run there ({error}); give the folder of a run, for example reports/01_method"
        ) from None
    if record.get("status") != "done":
        raise InputError(f"{path}: that run did not finish")
    return record


def flat(value: object, name: str = "") -> dict[str, object]:
    """Nested dicts and lists as one dict: {"a": {"b": [1]}} gives {"a.b.0": 1}."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in pairs for k, v in flat(inner, f"{name}.{key}" if name else str(key)).items()}
    return {name: value}


def differences(a: dict, b: dict, part: str) -> pd.DataFrame:
    """The entries of a part of two records that are not the same: columns what, A, B, and B - A for numbers."""
    left, right = flat(a.get(part, {})), flat(b.get(part, {}))
    rows = []
    for key in dict.fromkeys([*left, *right]):
        x, y = left.get(key), right.get(key)
        if x != y:
            numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (x, y))
            rows.append({"what": key, "A": x, "B": y, "B - A": y - x if numbers else None})
    return pd.DataFrame(rows, columns=["what", "A", "B", "B - A"])


def flips(a: Path | str, b: Path | str, score: str = "S") -> pd.DataFrame:
    """Prompts for which `score` chose another text in two runs' candidates tables: columns candidates, prompt_id, A, B.

    The column candidates says which rows of the table these are: the language model, source, retriever, policy and seed.
    """
    texts = []
    for folder in (a, b):
        path = Path(folder) / "candidates.jsonl"
        if not path.exists():
            return pd.DataFrame(columns=["candidates", "prompt_id", "A", "B"])
        table = pd.read_json(path, lines=True, convert_dates=False, dtype={"response": str, "prompt_id": str})
        by = [column for column in ("lm", "source", "retriever", "policy", "seed") if column in table]
        parts = table.groupby(by, sort=False, dropna=False)
        scored = {key: part for key, part in parts if part[score].notna().any()}  # without demonstrations nothing chooses
        chosen = [
            select(part.fillna({score: float("-inf")}), score).assign(candidates=", ".join(str(k) for k in key if k == k))
            for key, part in scored.items()
        ]
        texts.append(pd.concat(chosen).set_index(["candidates", "prompt_id"])["response"])
    both = texts[0].to_frame("A").join(texts[1].rename("B"), how="inner")
    return both[both["A"] != both["B"]].reset_index()


def report_differences(a: Path | str, b: Path | str) -> str:
    """All of it as a text for a terminal."""
    records = read_run(a), read_run(b)
    said = [f"A: {a}", f"B: {b}"]
    for part, title in PARTS.items():
        found = differences(*records, part)
        said += ["", f"{title}: {len(found) or 'no'} differences"]
        said += [
            f"  {_line(r.what)}: {_line(r.A)} -> {_line(r.B)}{'' if pd.isna(delta) else f' ({delta:+.4g})'}"
            for r, delta in zip(found.itertuples(), found["B - A"], strict=True)
        ]
    changed = flips(a, b)
    said += ["", f"prompts whose chosen response changed (score S): {len(changed)}"]
    for row in changed.head(20).itertuples():
        said += [f"  {_line(row.candidates)} {_line(row.prompt_id)}", f"    A: {_line(row.A)}", f"    B: {_line(row.B)}"]
    return "\n".join(said)


def _line(value: object) -> str:
    """A value on one line, hidden characters visible."""
    return label(str(value), 100)
