"""`icdpo-nb teach`: the responses of a model to a set's prompts, as demonstrations that every notebook reads."""

import argparse
import sys
from functools import partial

from ..protocol import RECOMMENDED


def add_teach(commands) -> argparse.ArgumentParser:
    """Add the command to the commands of `icdpo-nb`, and return its parser."""
    teach = commands.add_parser("teach", help="write a model's responses to a set's prompts, as demonstrations")
    teach.add_argument(
        "--lm", required=True, help="a packaged model, a folder, a hub id, or a server: http://host:8000/v1#model"
    )
    teach.add_argument("--preferences", required=True, help="preference set, as in the notebooks")
    teach.add_argument("--data-dir", help="sub-folder of the set")
    teach.add_argument("--name", required=True, help="of the source of demonstrations, for example teacher-x")
    teach.add_argument(
        "--out", required=True, metavar="FILE.jsonl", help="the rows with the column; FILE.teacher.json tells of it"
    )
    teach.add_argument("--splits", default="support,test", help="splits whose prompts are answered (default: support,test)")
    teach.add_argument("--limit", type=int, default=0, help="prompts of each split and domain (default: all)")
    teach.add_argument("--template", choices=("chat", "figure"), default="chat", help="chat template, or dialogue text")
    defaults = RECOMMENDED
    teach.add_argument(
        "--max-new-tokens", type=int, default=defaults.max_new_tokens, help="longest response (default: %(default)s)"
    )
    teach.add_argument("--temperature", type=float, default=defaults.temperature, help="default: %(default)s")
    teach.add_argument("--top-p", type=float, default=defaults.top_p, help="default: %(default)s")
    teach.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    teach.add_argument("--licence", default="", help="of the responses, where the model's files do not state one")
    return teach


def run_teach(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from tqdm.auto import tqdm

    from ..analyses.teaching import teach
    from ..common.errors import InputError

    if args.limit < 0:
        raise InputError(f"--limit is {args.limit}, but must be at least 1, or 0 for all")
    settings = {name: getattr(args, name) for name in ("template", "max_new_tokens", "temperature", "top_p")}
    progress = partial(tqdm, desc="answering", file=sys.stderr, disable=None)  # none where stderr is no terminal
    print(
        teach(
            args.lm, args.preferences, args.name, args.out, RECOMMENDED.but(n_candidates=1, **settings),
            data_dir=args.data_dir, splits=args.splits.split(","), limit=args.limit, licence=args.licence, seed=args.seed,
            progress=progress,
        )
    )  # fmt: skip
    return 0
