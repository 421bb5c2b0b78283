"""`icdpo-nb completion SHELL`: what a shell completes after `icdpo-nb`, as a script that the shell reads."""

from argparse import Action, ArgumentParser
from collections.abc import Iterator

from .job import notebook_names, open_notebook, preset_names

SHELLS = ("bash", "zsh", "fish")


def script(parser: ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`: commands, options, notebooks, presets, parameters and folders. Changes the parser."""
    import shtab

    known = {  # what an argument may be, by its name; only for the script, since the command says more of a wrong one
        "notebook": notebook_names(),
        "preset": preset_names(),
        "parameter": sorted({name for notebook in notebook_names() for name in open_notebook(notebook)[1]}),
    }
    for action in _actions(parser):
        if action.dest in known:
            action.choices = known[action.dest]
        elif action.dest in ("out", "folder", "a", "b"):
            action.complete = shtab.DIRECTORY
        elif action.dest == "file":
            action.complete = shtab.FILE
    return shtab.complete(parser, shell)


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """The options and arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _actions(command)
