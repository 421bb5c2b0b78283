"""Another store behind a socket: what it has need not be computed here, and what it has given away to others is awaited.

A run on another machine has a store of its own, since SQLite must not lie on a network file system. Where $ICDPO_UPSTREAM
names a socket, that store asks the one behind it for missing results, claims items there before it computes them, and adds
results there before it keeps them itself. So runs on several machines compute nothing twice, and what a killed one
had done is not lost. The socket is a file of this machine; whoever answers there passes requests on.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Thread

from ..common.errors import InputError, first_line
from .journal import Rows

UPSTREAM = "ICDPO_UPSTREAM"


class Upstream:
    """The store behind a socket. Raises `InputError` if nobody answers."""

    def __init__(self, address: str):
        self.address = address
        try:
            self.connection: Connection = Client(address, family="AF_UNIX")
        except OSError as error:
            raise self._silent(error) from None

    def read(self, space: str, keys: Sequence[str]) -> Rows:
        """What it has of these results, with their costs."""
        return {table: [tuple(row) for row in rows] for table, rows in self._ask("read", space, keys).items()}

    def claim(self, space: str, keys: Sequence[str]) -> list[str]:
        """Those of the keys that this store may compute: nobody else does, and there is no result."""
        return self._ask("claim", space, keys) if keys else []

    def add(self, rows: Rows) -> None:
        """Add results."""
        self._ask("add", rows)

    def release(self, space: str, keys: Sequence[str]) -> None:
        """Leave claimed items to others."""
        self._ask("release", space, keys)

    def _ask(self, what: str, *about: object) -> object:
        try:
            self.connection.send_bytes(json.dumps([what, *about]).encode())
            answer = json.loads(self.connection.recv_bytes())
        except (OSError, EOFError) as error:
            raise self._silent(error) from None
        if "error" in answer:
            raise InputError(answer["error"])
        return answer["value"]

    def _silent(self, error: Exception) -> InputError:
        why = first_line(error)
        return InputError(
            f"the store behind {self.address} does not answer ({why}); its sweep may have ended, so begin it again"
        )


def upstream() -> Upstream | None:
    """The store that $ICDPO_UPSTREAM names, if any."""
    address = os.environ.get(UPSTREAM)
    return Upstream(address) if address else None


@contextmanager
def answering(address: Path, answer: Callable[..., object]) -> Iterator[None]:
    """Answer what is asked at a socket with `answer(what, *about)`, in threads, during the block.

    Only processes that may enter the socket's folder can ask.
    """
    listener = Listener(str(address), family="AF_UNIX")
    Thread(target=_accept, args=(listener, answer), daemon=True).start()
    try:
        yield
    finally:
        listener.close()


def _accept(listener: Listener, answer: Callable[..., object]) -> None:
    with suppress(OSError):  # it was closed
        while True:
            Thread(target=_converse, args=(listener.accept(), answer), daemon=True).start()


def _converse(connection: Connection, answer: Callable[..., object]) -> None:
    with connection, suppress(EOFError, OSError):
        while True:
            asked = json.loads(connection.recv_bytes())
            try:
                reply = {"value": answer(*asked)}
            except Exception as error:  # whatever it is, the asking process must not wait for ever
                reply = {"error": f"the store of the sweep cannot be used ({first_line(error)})"}
            connection.send_bytes(json.dumps(reply).encode())
