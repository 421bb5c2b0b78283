"""Strict notebook parameters: read from the cell tagged `parameters`, checked by name, type and range before anything runs.

papermill only warns about an unknown name and runs on with the default, and it never looks at types.
"""

import ast
import math
import reprlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ..common.errors import InputError, hint
from ..protocol import RECOMMENDED, Protocol, named_protocol

KINDS = {"str": str, "int": int, "float": float, "bool": bool, "list": list}
COMMON = {  # what a parameter means in every notebook that has it; `setup.Setup` reads them
    "lm": (str, "language model: a packaged name, a local folder or a hub id"),
    "lms": (list, "base models: packaged names, local folders or hub ids"),
    "preferences": (str, "preference set: sandbox, pocket, hh-rlhf, a file or folder, or a hub id"),
    "data_dir": (str, "subfolder of the preference set; for HH-RLHF, harmless-base or helpful-base"),
    "domains": (list, "domains of the prompts; all if none given"),
    "max_prompt_tokens": (int, "longest prompt kept from the data, in tokens (Appendix A); 0 for no limit"),
    "max_response_tokens": (int, "longest response kept from the data, in tokens (Appendix A); 0 for no limit"),
    "reward": (
        str,
        "reward: sandbox (true, but only for its own texts), pocket (weak), sandbox-reward, or a classifier (folder or hub id)",
    ),
    "n_demos": (int, "demonstrations in the context (m)"),
    "max_new_tokens": (int, "maximum response length in tokens"),
    "temperature": (float, "sampling temperature; not given in the paper"),
    "leaks": (str, "demonstrations whose prompt is also a test prompt: keep or drop"),
    "roles": (
        list,
        "pairs of a source and its counterpart in the paper (raw, LLaMA2-chat, GPT-3.5 or none), joined by an equals sign; "
        "if none given, raw, teacher-a and teacher-b in this order",
    ),
    "template": (
        str,
        "contexts in the template of the paper's Figures 6 and 7 (figure), or in the model's own chat template (chat)",
    ),
    "protocol": (str, "PAPER, REFERENCE or RECOMMENDED; see icdpo_nb/protocol.py"),
    "workers": (int, "copies of every model that compute side by side, over Ray; see docs/cluster.md"),
    "store": (bool, "reuse what earlier runs computed; see icdpo-nb store"),
}
SETTINGS = {f.name for f in fields(Protocol)} - {"name"}


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
    form = f"parameters cell: write `name: {' | '.join(KINDS)} = literal  # help`, not "
    try:
        nodes = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(form + repr(error.text)) from None
    for node in nodes:
        line = lines[node.lineno - 1]
        kind = node.annotation.id if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name) else None
        try:
            value = ast.literal_eval(node.value) if kind in KINDS and node.value else None
        except ValueError:
            value = None
        if value is None:
            raise InputError(form + repr(line))
        default = check_value(node.target.id, value, KINDS[kind])
        note = line.partition("  # ")[2].strip()
        found[node.target.id] = Parameter(node.target.id, KINDS[kind], default, note)
        _check_common(found[node.target.id])
    return found


def _check_common(own: Parameter) -> None:
    """Raises `InputError` for a parameter of another type than its name has in every notebook (`COMMON`)."""
    kind, meaning = COMMON.get(own.name, (own.kind, ""))
    if own.kind is not kind:
        raise InputError(f"parameters cell: {own.name} is {kind.__name__} in every notebook ({meaning})")


def check_parameters(given: Mapping[str, object], declared: Mapping[str, Parameter], where: str) -> dict[str, object]:
    """The given parameters with their values checked, texts from a command line read as the declared type.

    Raises `InputError` for an unknown name (with the nearest known one), a value of another type or out of range, and an empty
    list, unless that is the default or the help says what "none given" means.
    """
    checked = {}
    for name, value in given.items():
        if name not in declared:
            raise InputError(f"{where} has no parameter {name!r}; {hint(name, declared, 'it takes')}")
        kind = declared[name].kind
        checked[name] = check_value(name, _read(name, value, kind) if isinstance(value, str) else value, kind)
        if checked[name] == [] != declared[name].default and "none given" not in declared[name].help:
            raise InputError(f"parameter {name} is empty; name at least one, for example {declared[name].default[0]}")
    named_protocol(checked.get("protocol", "RECOMMENDED"))
    RECOMMENDED.but(**{name: value for name, value in checked.items() if name in SETTINGS})  # complains of what is out of range
    return checked


def check_value(name: str, value: object, kind: type | str) -> object:
    """`value` if it is of `kind` (an int passes for a float) and within the range of its kind. Raises `InputError`.

    Numbers are finite, whole numbers not negative, and a count n_… of anything but demonstrations, or of workers, is at least
    1. A list holds different texts.
    """
    kind = KINDS.get(kind, kind) if isinstance(kind, str) else kind
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        hint = "; YAML reads no, off, yes and on so, put it in quotes if it is a text" if isinstance(value, bool) else ""
        raise InputError(f"parameter {name} must be {kind.__name__}, but {reprlib.repr(value)} is {type(value).__name__}{hint}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"parameter {name} is {value}, but must be a finite number")
    low = 1 if name.startswith("n_") and name != "n_demos" or name == "workers" else 0
    if kind is int and value < low:
        raise InputError(f"parameter {name} is {value}, but must be at least {low}")
    for text in [value] if kind is str else value if kind is list else []:
        if not isinstance(text, str) or not text.isprintable() or kind is list and not text.strip():
            raise InputError(f"parameter {name} holds {reprlib.repr(text)}, but must hold text without control characters")
    if kind is list and len(set(value)) < len(value):
        raise InputError(f"parameter {name} names {next(v for v in value if value.count(v) > 1)!r} twice; name it once")
    return value


def read_preset(path: Path, declared: Mapping[str, Parameter], where: str, elsewhere: Container[str] = ()) -> dict[str, object]:
    """The parameters in a YAML file, checked as `check_parameters` does. Raises `InputError` with file and line.

    `elsewhere`: the parameters of other notebooks that the preset is for, too; those that `declared` lacks are passed over.
    """
    found: dict[str, object] = {}
    for entry in read_yaml(path, "one parameter a line, `name: value`"):
        try:
            if entry.name in declared or entry.name not in elsewhere:
                found |= check_parameters({entry.name: entry.value}, declared, where)
        except InputError as error:
            raise InputError(f"{path}, line {entry.line}: {error}") from None
    return found


@dataclass(frozen=True)
class Entry:
    """An entry of a mapping in a YAML file. `inner`: those of its value, if that is a mapping, too."""

    name: str
    value: object
    line: int
    inner: tuple["Entry", ...] = ()


def read_yaml(path: Path, form: str) -> tuple[Entry, ...]:
    """The entries of a YAML file that holds a mapping. Raises `InputError` with file and line.

    `form`: what should be written there, for the message.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8-sig"))
        root = loader.get_single_node() or yaml.MappingNode("tag:yaml.org,2002:map", [])
        entries = _entries(loader, root, path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line, why = f", line {mark.line + 1}" if mark else "", getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{path}{line}: not valid YAML ({why[:80]}); write {form}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: not a mapping of names to values; write {form}")
    return entries


def _entries(loader, node, path: Path) -> tuple[Entry, ...]:
    """The entries of a node of YAML, none if it is no mapping. Raises `InputError` for a name that stands twice."""
    import yaml

    found: dict[str, Entry] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = str(key.value), key.start_mark.line + 1
        if name in found:
            raise InputError(f"{path}, line {line}: {name} stands twice; keep one of them")
        found[name] = Entry(name, loader.construct_document(value), line, _entries(loader, value, path))
    return tuple(found.values())


def _read(name: str, text: str, kind: type) -> object:
    """A text from a command line as a value of `kind`."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"parameter {name} must be true or false, not {reprlib.repr(text)}")
        return text.lower() == "true"
    if kind is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"parameter {name} must be {kind.__name__}, not {reprlib.repr(text)}") from None
