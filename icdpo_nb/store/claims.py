"""Claims on items, so that processes that share a store never compute the same item at the same time.

A claim identifies its process, so that other processes can check whether it is alive. A dead process blocks nobody.
Processes on other hosts cannot be checked; their claims expire when the lease ends.
"""

import json
import math
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence

import psutil

from .database import transaction

LEASE_SECONDS = 1800.0  # lifetime of a claim of a process on another host
TABLE = """
CREATE TABLE IF NOT EXISTS claims (space TEXT, key TEXT, owner TEXT, until REAL, PRIMARY KEY (space, key)) WITHOUT ROWID;
"""


def claim(
    db: sqlite3.Connection, space: str, keys: Sequence[str], done: Callable[[Sequence[str]], Collection[str]]
) -> list[str]:
    """Claim the keys that no live process has claimed and that have no result, and return them.

    `done(keys)` returns the keys that have a result.
    """
    process, now = owner(), time.time()
    with transaction(db):
        existing = db.execute("SELECT key, owner, until FROM claims WHERE space = ?", (space,)).fetchall()
        busy = {key for key, other, until in existing if other != process and alive(other, until)}
        free = [key for key in keys if key not in busy]
        finished = done(free)  # another process may have released its claim since the caller looked
        claimed = [key for key in free if key not in finished]
        rows = [(space, key, process, now + LEASE_SECONDS) for key in claimed]
        db.executemany("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", rows)
    return claimed


def release(db: sqlite3.Connection, space: str, keys: Sequence[str]) -> None:
    """Release the claims on the given keys."""
    with transaction(db):  # one write to the disk for all of them
        db.executemany("DELETE FROM claims WHERE space = ? AND key = ?", [(space, key) for key in keys])


def owner() -> str:
    """An identifier of this process that other processes can check: host, process id and creation time."""
    return json.dumps([socket.gethostname(), os.getpid(), psutil.Process().create_time()])


def alive(process: str, until: float = math.inf) -> bool:
    """Whether a process, identified as by `owner`, is alive. One on another host counts as alive before `until`."""
    try:
        host, pid, created = json.loads(process)
        if host != socket.gethostname():
            return time.time() < float(until)
        return abs(psutil.Process(pid).create_time() - created) < 1
    except (psutil.Error, ValueError, TypeError):  # the process has ended, or the claim is damaged
        return False
