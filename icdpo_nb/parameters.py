"""Strict notebook parameters: read from the cell tagged `parameters`, checked by name and type before anything runs.

papermill only warns about an unknown name and runs on with the default, and it never looks at types.
"""

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from .protocol import InputError

KINDS = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `n_prompts: int = 8  # test prompts per domain`."""

    name: str
    kind: type
    default: object
    help: str


def declared_parameters(source: str) -> dict[str, Parameter]:
    """The parameters of a parameters cell, in order. Raises `InputError` for a line of another form."""
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        line = lines[node.lineno - 1]
        kind = node.annotation.id if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name) else None
        if kind not in KINDS or node.value is None:
            raise InputError(f"parameters cell: write `name: {' | '.join(KINDS)} = literal  # help`, not {line!r}")
        default = check_value(node.target.id, ast.literal_eval(node.value), KINDS[kind])
        note = line.partition("  # ")[2].strip()
        found[node.target.id] = Parameter(node.target.id, KINDS[kind], default, note)
    return found


def check_parameters(given: Mapping[str, object], declared: Mapping[str, Parameter], where: str) -> dict[str, object]:
    """The given parameters with their values checked, texts from a command line read as the declared type.

    Raises `InputError` for an unknown name (with the nearest known one) or a value of another type.
    """
    checked = {}
    for name, value in given.items():
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(declared)}"
            raise InputError(f"{where} has no parameter {name!r}; {hint}")
        kind = declared[name].kind
        checked[name] = check_value(name, _read(name, value, kind) if isinstance(value, str) else value, kind)
    return checked


def check_value(name: str, value: object, kind: type | str) -> object:
    """`value` if it is of `kind` (an int passes for a float). Raises `InputError`."""
    kind = KINDS.get(kind, kind) if isinstance(kind, str) else kind
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"parameter {name} must be {kind.__name__}, but {value!r} is {type(value).__name__}")
    return value


def _read(name: str, text: str, kind: type) -> object:
    """A text from a command line as a value of `kind`."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"parameter {name} must be true or false, not {text!r}")
        return text.lower() == "true"
    if kind is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"parameter {name} must be {kind.__name__}, not {text!r}") from None
