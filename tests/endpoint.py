"""A chat endpoint on loopback, as honest or as broken as a test wants it.

What it does is `endpoint.answer(item, n)`: of the texts it was sent (dialogue, A, B) and the number of times it has seen them,
it makes a reply as text, or one of the misbehaviours below.
"""

import json
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from loopback import listening_on


@dataclass
class Raw:
    """A body as it is, with a status."""

    body: bytes
    status: int = 200
    location: str | None = None


class Half:
    """Half a body, and then the line is cut."""


class Silence:
    """Nothing, until the test is over."""


def completion(content: object) -> bytes:
    return json.dumps(
        {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": content}}]}
    ).encode()


def longest(item: dict, n: int) -> str:
    """A judge that prefers the longer text, whatever the order."""
    a, b = len(item["A"]), len(item["B"])
    return f"The longer one. [[{'A' if a > b else 'B' if a < b else 'C'}]]"


class Endpoint:
    """What the tests see of it."""

    def __init__(self):
        self.answer, self.seen, self.asked, self.requests = longest, Counter(), [], []
        self.over, self.lock, self.busy, self.busiest = threading.Event(), threading.Lock(), 0, 0


@contextmanager
def serving():
    """An `Endpoint` with its `url`."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_POST(self):  # noqa: N802
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = sent["messages"][0]["content"]
            item = json.loads(next(line for line in content.split("\n") if line.startswith('{"dialogue"')))
            with endpoint.lock:
                endpoint.seen[json.dumps(item)] += 1
                n = endpoint.seen[json.dumps(item)]
                endpoint.asked.append(item)
                endpoint.requests.append((self.path, self.headers, sent))
                endpoint.busy += 1
                endpoint.busiest = max(endpoint.busiest, endpoint.busy)
            try:
                said = endpoint.answer(item, n)
            finally:
                with endpoint.lock:  # before the reply, after which the client may ask again
                    endpoint.busy -= 1
            with suppress(BrokenPipeError):  # the client has given up
                self.reply(said)

        def reply(self, said):
            if isinstance(said, Silence):
                endpoint.over.wait(60)
                return
            body = (
                completion(said)
                if isinstance(said, str | None)
                else said.body
                if isinstance(said, Raw)
                else completion("[[A]]")
            )
            self.send_response(said.status if isinstance(said, Raw) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) * (2 if isinstance(said, Half) else 1)))
            self.send_header("Retry-After-Ms", "1")  # so that no test waits
            if isinstance(said, Raw) and said.location:
                self.send_header("Location", said.location)
            self.end_headers()
            self.wfile.write(body)

    with listening_on(Handler, endpoint.over) as port:
        endpoint.url = f"http://127.0.0.1:{port}/v1"
        yield endpoint
