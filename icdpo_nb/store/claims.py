"""Claims: which process computes which item of a stage, so that several that share a store compute nothing twice.

A claim names its process in words that every other can check: one whose process is gone holds nobody up. Of a process on
another host nobody can see whether it lives, so its claim ends with its lease.
"""

import json
import math
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence

import psutil

LEASE_SECONDS = 1800.0  # seconds after which the work of a process that cannot be asked counts as given up
TABLE = """
CREATE TABLE IF NOT EXISTS claims (space TEXT, key TEXT, owner TEXT, until REAL, PRIMARY KEY (space, key)) WITHOUT ROWID;
"""


def claim(
    db: sqlite3.Connection, space: str, keys: Sequence[str], done: Callable[[Sequence[str]], Collection[str]]
) -> list[str]:
    """Those of the keys that nobody computes or has computed by now; they are ours. `done(keys)`: which have a result."""
    me, now = owner(), time.time()
    db.execute("BEGIN IMMEDIATE")
    taken = db.execute("SELECT key, owner, until FROM claims WHERE space = ?", (space,)).fetchall()
    busy = {key for key, other, until in taken if other != me and alive(other, until)}
    mine = [key for key in keys if key not in busy]
    by_now = done(mine)  # by a process whose claim ended after we had looked
    mine = [key for key in mine if key not in by_now]
    rows = [(space, key, me, now + LEASE_SECONDS) for key in mine]
    db.executemany("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", rows)
    db.execute("COMMIT")
    return mine


def release(db: sqlite3.Connection, space: str, keys: Sequence[str]) -> None:
    """Give up the claims on these keys."""
    db.executemany("DELETE FROM claims WHERE space = ? AND key = ?", [(space, key) for key in keys])


def owner() -> str:
    """This process, in words that another can check: host, number, and when it began."""
    return json.dumps([socket.gethostname(), os.getpid(), psutil.Process().create_time()])


def alive(process: str, until: float = math.inf) -> bool:
    """Whether a process, as `owner` names it, lives; of one on another host, whether the time `until` has not come yet."""
    try:
        host, pid, began = json.loads(process)
        if host != socket.gethostname():
            return time.time() < float(until)
        return abs(psutil.Process(pid).create_time() - began) < 1
    except (psutil.Error, ValueError, TypeError):  # gone, or the claim itself is damaged
        return False
