"""`icdpo-nb`: run notebooks as reports, and write teachers' demonstrations.

Exit codes: 0 done, 2 bad input, 3 the notebook broke, 4 its kernel died, 5 it took too long, 130 interrupted.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from .common.errors import InputError
from .common.escaping import scrubbed, visible
from .reports.compare import report_differences
from .reports.completion import SHELLS, script
from .reports.expectation import needs_rehearsal
from .reports.front import write_front_page
from .reports.gallery import publish
from .reports.job import Job, load_job, notebook_names, open_notebook, read_job
from .reports.making import make, make_several
from .reports.progress import STATE_FILE, Watcher, display_on_terminal, to_file
from .reports.run import provenance, reports_folder, writing
from .reports.runner import RunError
from .reports.teach import add_teach, run_teach
from .store.command import add_store, run_store

WELCOME = """What would you like to do?

  icdpo-nb report 00_start_here    see how ICDPO chooses a response (1 minute, no network)
  icdpo-nb report 01_method        compare ICDPO with its baselines (6 minutes on two CPU cores)
  icdpo-nb list                    list the notebooks and their parameters
  icdpo-nb doctor                  check what this machine can run, and what is missing
  icdpo-nb --help                  list all commands"""


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code; every complaint is one sentence on stderr."""
    sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema would compile its grammars, a second, to check what none has
    try:
        args = _parser().parse_args(argv)
        return args.command(args)
    except InputError as error:
        return _complain(str(error), 2)
    except RunError as error:
        return _complain(f"{error.how}: {error}", error.code)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # whoever reads has read enough, as in `icdpo-nb list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(sentence: str, code: int) -> int:
    print(f"icdpo-nb: {visible(scrubbed(' '.join(sentence.split())))}", file=sys.stderr)
    return code


class _Version(argparse.Action):
    """Prints the versions that a report names, in one line: what to send with a question."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        print(provenance())
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="icdpo-nb", description=__doc__)
    parser.add_argument("--version", action=_Version, nargs=0, help="this version, and those of what results depend on")
    parser.set_defaults(command=_welcome)
    commands = parser.add_subparsers(metavar="command")
    _add_what_runs(commands)
    _add_what_manages(commands)
    return parser


def _add_what_runs(commands) -> None:
    """The commands that run notebooks, or say what that would cost."""
    report = commands.add_parser("report", help="run notebooks and render them as HTML")
    report.add_argument("notebook", nargs="+", help="for example 01_method; several run in this order")
    _add_parameters(report)
    report.add_argument("-o", "--out", help="folder of the reports (default: the project's reports)")
    report.add_argument("--resume", action="store_true", help="leave a report as it is if it would come out the same")
    report.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="longest time of each notebook (default: none)")
    report.add_argument("-j", "--jobs", type=_count, default=1, help="notebooks at a time (default: 1)")
    report.add_argument(
        "--estimate",
        action=argparse.BooleanOptionalAction,
        help="say first what each will cost, from a rehearsal (default: where a long run is the first of its kind)",
    )
    report.set_defaults(command=_report)
    estimate = commands.add_parser("estimate", help="what a run will cost, before it runs")
    estimate.add_argument("notebook", nargs=1, help="for example 01_method")
    _add_parameters(estimate)
    estimate.add_argument("--hours", type=_seconds, default=0.0, help="how long it may take; says what would make it fit")
    estimate.add_argument("--price", type=_seconds, default=0.0, help="of an hour of the machine")
    estimate.add_argument(
        "--gpu", default="A100", help="for models whose weights are not here: a GPU by its name (default: A100)"
    )
    estimate.set_defaults(command=_estimate, out=None, timeout=None, resume=False)
    sweep = commands.add_parser("sweep", help="run a grid of notebooks, and report what they find together")
    sweep.add_argument("file", help="a YAML file, see docs/sweeps.md")
    sweep.add_argument("--on", metavar="BACKEND", help="where the runs go: local, slurm or ray (default: as the file says)")
    sweep.add_argument("-j", "--jobs", type=_count, help="runs at a time (default: one, or one a GPU; on slurm: no limit)")
    sweep.add_argument("-o", "--out", help="folder of the reports (default: the project's reports)")
    sweep.add_argument("--dry-run", action="store_true", help="check the file and list its runs")
    sweep.set_defaults(command=_sweep)
    run = commands.add_parser("run")  # without help: `report` calls it, for each of several
    run.add_argument("job")
    run.set_defaults(command=_run)


def _add_what_manages(commands) -> None:
    """The commands for what runs have left, and for what runs need."""
    compare = commands.add_parser("compare", help="what differs between two runs")
    compare.add_argument("a", help="folder of a run, for example reports/01_method")
    compare.add_argument("b", help="folder of another")
    compare.set_defaults(command=_compare)
    add_store(commands).set_defaults(command=_store)
    gallery = commands.add_parser("gallery", help="make the front page of a folder of reports again")
    gallery.add_argument("folder", nargs="?", help="a folder of reports (default: the project's)")
    gallery.add_argument("--publish", metavar="FOLDER", help="copy the finished reports there, without their large files")
    gallery.set_defaults(command=_gallery)
    doctor = commands.add_parser("doctor", help="what this machine can run, and what is missing")
    doctor.set_defaults(command=_doctor)
    add_teach(commands).set_defaults(command=_teach)
    completion = commands.add_parser("completion", help="print what a shell needs to complete this command")
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(command=_completion)
    listing = commands.add_parser("list", help="list the notebooks and their parameters")
    listing.set_defaults(command=_list)


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="repeatable")
    parser.add_argument("--preset", help="a file of notebooks/presets, for example smollm2; -p comes after it")


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < float("inf"):
        raise ValueError(text)
    return seconds


def _count(text: str) -> int:
    if (n := int(text)) < 1:
        raise ValueError(text)
    return n


def _report(args: argparse.Namespace) -> int:
    _unwind()
    todo = [_job(name, args) for name in args.notebook]  # all of them are checked before any runs
    foreseen = [job for job in todo if (needs_rehearsal(job) if args.estimate is None else args.estimate)]
    if foreseen:
        from .reports.forecast import say_forecasts

        say_forecasts(foreseen)
    with display_on_terminal() as display:
        if args.jobs > 1 and len(todo) > 1:
            return make_several(todo, args.jobs, Watcher(display) if display else None)
        for job in todo:
            print(make(job, display.show if display else None, display), flush=True)
    return 0


def _estimate(args: argparse.Namespace) -> int:
    from .reports.forecast import forecast

    _unwind()
    print(forecast(_job(args.notebook[0], args), args.gpu, args.hours, args.price))
    return 0


def _run(args: argparse.Namespace) -> int:
    _unwind()
    try:
        print(make(load_job(args.job), to_file(os.environ[STATE_FILE]) if STATE_FILE in os.environ else None), flush=True)
    except KeyboardInterrupt:
        return 130  # in silence: `report`, which passed the interrupt on, says it once for all
    return 0


def _unwind() -> None:
    """From here on Ctrl-C, and a scheduler's end, unwind as an exception, so that nothing half is left."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _job(name: str, args: argparse.Namespace) -> Job:
    """The job of one notebook: with the parameters of the preset, and of -p, which come after it."""
    names = [n for n, _ in args.parameter]
    if twice := [n for n in names if names.count(n) > 1]:
        raise InputError(f"parameter {twice[0]} is given twice; keep one -p {twice[0]}")
    return read_job(name, dict(args.parameter), args.preset, args.out, args.timeout, args.resume)


def _welcome(args: argparse.Namespace) -> int:
    print(WELCOME)
    return 0


def _completion(args: argparse.Namespace) -> int:
    print(script(_parser(), args.shell))
    return 0


def _teach(args: argparse.Namespace) -> int:
    _unwind()
    return run_teach(args)


def _doctor(args: argparse.Namespace) -> int:
    from .reports.doctor import examination

    print(examination())
    return 0


def _list(args: argparse.Namespace) -> int:
    for name in notebook_names():
        _, declared = open_notebook(name)
        print(name)
        for p in declared.values():
            print(f"  {p.name}: {p.kind.__name__} = {p.default!r}  {p.help}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    print(report_differences(args.a, args.b))
    return 0


def _gallery(args: argparse.Namespace) -> int:
    _unwind()
    folder = Path(args.folder) if args.folder else reports_folder()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of reports, for example reports")
    if not any(folder.glob("*/run.json")):
        raise InputError(f"{folder}: no run there; make a report first, for example icdpo-nb report 01_method")
    if args.publish:
        print(publish(folder, args.publish))
        return 0
    with writing(folder):
        print(write_front_page(folder))
    return 0


def _sweep(args: argparse.Namespace) -> int:
    _unwind()
    from .sweeps.command import sweep

    return sweep(args.file, args.on, args.jobs, args.out, args.dry_run)


def _store(args: argparse.Namespace) -> int:
    _unwind()
    return run_store(args)


if __name__ == "__main__":
    sys.exit(main())
