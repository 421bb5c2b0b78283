"""`icdpo-nb store`: what is kept, and the union of two stores."""

import argparse
import time

from ..common.errors import InputError


def add_store(commands) -> argparse.ArgumentParser:
    """Add the command to the commands of `icdpo-nb`, and return its parser."""
    store = commands.add_parser("store", help="what was sampled and scored so far, and is found again")
    store.add_argument(
        "what", choices=("list", "verify", "clean", "join"), help="list it, check every result, remove all, or join two"
    )
    store.add_argument("stores", nargs="*", help="for join: the store that grows, and the one that is added to it")
    return store


def run_store(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .joining import join, store_at
    from .store import Store

    if (args.what == "join") != (len(args.stores) == 2) or len(args.stores) not in (0, 2):
        raise InputError("join takes two stores, and nothing else takes any; write icdpo-nb store join A B")
    store = store_at(args.stores[0]) if args.stores else Store()
    if args.what == "join":
        print(join(store, args.stores[1]).sentence)
    elif args.what == "list":
        print(f"{store.path}: {sum(s['results'] for s in store.stages())} results")
        for s in store.stages():
            began = time.strftime("%Y-%m-%d %H:%M", time.localtime(s["created"]))
            said = ", ".join(f"{k} {str(v)[:12]}" for k, v in s["inputs"].items())
            print(f"  {s['stage']:8}{s['results']:7} results {s['bytes'] / 1e6:8.1f} MB  since {began}  {said}")
    elif args.what == "verify":
        n, bad = store.verify()
        print(f"{n} results, {bad} damaged and removed")
    else:
        print(f"{store.clean()} results removed")
    return 0
