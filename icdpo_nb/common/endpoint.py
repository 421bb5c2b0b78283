"""OpenAI-compatible servers: a valid address, a key for it, and answers to many requests at a time.

A key is read from the environment only, and OPENAI_API_KEY is sent to OpenAI alone.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from functools import cache, partial
from importlib.util import find_spec
from typing import TypeVar
from urllib.parse import urlsplit

from .errors import InputError
from .escaping import scrubbed, visible

T = TypeVar("T")
OPENAI = "https://api.openai.com/v1"
ATTEMPTS = 3  # answers to one request that are read; a server that sends as many unusable ones is given up


class RefusedError(InputError):
    """A server is there, but refuses a request as it is, fails on it, or answers it unusably, however often it is asked.

    `why`: the server's part of the message.
    """

    def __init__(self, message: str, why: str):
        super().__init__(message)
        self.why = why


def host_of(url: str, name: str, variable: str) -> str:
    """The host of a server's address, with its port if there is one. Raises `InputError` for an invalid address.

    `name`: what the address is called where it was given; `variable`: the environment variable for the key.
    """
    form = "write it as https://host/v1, without user name, password or query"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"{name} is not a valid address; {form}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in url):
        raise InputError(f"{name} is {visible(url, 100)!r}, which is not a valid address; {form}")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(f"{name} of {parts.hostname} contains more than an address; {form}, and set the key in {variable}")
    return f"{parts.hostname}:{port}" if port else parts.hostname


def key_of(host: str, variable: str) -> str:
    """The key for a host, from the environment variable of this name, or OpenAI's own for its host; "" if there is none.

    OPENAI_API_KEY is sent to OpenAI only, whatever address a preset gives. Raises `InputError` for an invalid key.
    """
    openai = os.environ.get("OPENAI_API_KEY") if host == urlsplit(OPENAI).hostname else None
    key = (os.environ.get(variable) or openai or "").strip()
    if not key.isascii() or key and not key.isprintable():
        raise InputError(f"the key in {variable} contains invalid characters; copy it again")
    return key


def reason(error: Exception) -> str:
    """A short description of a client's error, without the secrets of the environment."""
    message = f"{type(error).__name__}: {getattr(error, 'message', '') or error}"
    cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
    return visible(scrubbed(" ".join(message.split())), 200) + cause


@cache
def _certificates():
    """The certificates by which servers are known. To read them takes a tenth of a second, so they are read once."""
    from httpx2 import create_ssl_context

    return create_ssl_context()


class Endpoint:
    """A server at an address such as http://host:8000/v1. Raises `InputError` for an invalid address or key.

    `variable` names the environment variable with the key; without one, none is needed. At most `workers` requests are under
    way at a time. One that fails with a status of 408, 409, 429 or 5xx, or loses its connection, is sent again up to `retries`
    times, after the pause that the server names (Retry-After) or growing random ones. `patience`: seconds that a request may
    take with all its repetitions.
    """

    def __init__(self, url: str, variable: str, workers: int = 32, patience: float = 600.0, retries: int = 20):
        if find_spec("openai") is None:
            raise InputError("a model behind a server needs the package openai; pip install 'icdpo-nb[server]'")
        self.url, self.variable, self.workers, self.patience, self.retries = url, variable, workers, patience, retries
        self.host = host_of(url, "the address", variable)
        self._key = key_of(self.host, variable)

    def get(self, path: str) -> object:
        """The JSON at a path. Raises `RefusedError` if there is none, and `InputError` if the server cannot be reached."""
        return self.ask(path, [None], lambda i, answer: answer, retries=min(self.retries, 4))[0]

    def ask(
        self,
        path: str,
        bodies: Sequence[dict | None],
        read: Callable[[int, object], T],
        done: Callable[[int, T], None] = lambda i, value: None,
        retries: int | None = None,
    ) -> list[T]:
        """`read(i, answer)` of the answer to every body that is posted to `path`; a body None gets the path instead.

        Where `read` raises a `ValueError`, or an error of a wrong form (TypeError, LookupError, AttributeError), the request is
        sent again. `done(i, value)` is called in this thread as answers arrive, in any order. `retries`: other than usual.

        Raises `RefusedError` where the server refuses a request, fails on it or answers unusably, and `InputError` where it
        cannot be reached or takes longer than `patience`. Requests that are under way are then given up.
        """
        from anyio import CapacityLimiter
        from anyio.from_thread import start_blocking_portal
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        repeated = self.retries if retries is None else retries
        http = DefaultAsyncHttpxClient(verify=_certificates(), timeout=self.patience)
        settings = {"api_key": self._key or "none", "max_retries": repeated, "timeout": self.patience, "http_client": http}
        values: dict[int, T] = {}
        with (
            start_blocking_portal() as portal,  # a loop of its own, since a notebook's thread runs one already
            portal.wrap_async_context_manager(AsyncOpenAI(base_url=self.url, **settings)) as client,
        ):
            send = partial(self._answer, client, CapacityLimiter(self.workers), path)
            futures = {portal.start_task_soon(send, body, partial(read, i)): i for i, body in enumerate(bodies)}
            for future in as_completed(futures):
                i = futures[future]
                values[i] = future.result()
                done(i, values[i])
        return [values[i] for i in range(len(bodies))]

    async def _answer(self, client, limiter, path: str, body: dict | None, read: Callable[[object], T]) -> T:
        """One answer as `read` returns it, asked for again while it is unusable."""
        from anyio import fail_after

        async with limiter:
            try:
                with fail_after(self.patience):
                    for _ in range(ATTEMPTS):
                        answer = await self._sent(client, path, body)
                        try:
                            return read(answer)
                        except InputError:
                            raise
                        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
                            why = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            except TimeoutError:
                raise InputError(
                    f"the server at {self.host} gave no answer within {self.patience:g} s; look at its log"
                ) from None
        why = visible(scrubbed(why), 200)
        raise RefusedError(
            f"the server at {self.host} gave {ATTEMPTS} answers that cannot be used (the last: {why}); use another server, or "
            "another version of it", why,
        )  # fmt: skip

    async def _sent(self, client, path: str, body: dict | None) -> object:
        """The JSON of one answer. Raises `InputError` for every other outcome."""
        import openai

        try:
            if body is None:
                return await client.get(path, cast_to=object)
            return await client.post(path, cast_to=object, body=body)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(f"the server at {self.host} rejects the key ({reason(error)}); check {self.variable}") from None
        except openai.APIStatusError as error:
            why = reason(error)
            if error.status_code < 500 and error.status_code not in (408, 409, 429):
                raise RefusedError(f"the server at {self.host} refuses a request ({why}); change the request", why) from None
            raise RefusedError(f"the server at {self.host} fails again and again ({why}); look at its log", why) from None
        except openai.APITimeoutError:
            raise TimeoutError from None
        except openai.OpenAIError as error:
            raise InputError(
                f"the server at {self.host} cannot be reached ({reason(error)}); start it, or correct the address"
            ) from None
        except (ValueError, RecursionError):
            return None  # not JSON, which no reader accepts
