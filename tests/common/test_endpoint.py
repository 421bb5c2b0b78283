"""Requests to a server: what is asked again and what is not, limits, addresses and keys."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("openai")

from icdpo_nb.common.endpoint import ATTEMPTS, Endpoint, RefusedError, host_of, key_of
from icdpo_nb.common.errors import InputError

KEY = "ICDPO_LM_KEY"


@contextmanager
def answering(plan):
    """A server whose n-th answer (from 0) is plan(n): status, headers, body. Yields its address and the bodies that it saw."""
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_POST(self):  # noqa: N802
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                n = len(seen)
                seen.append(sent)
            status, headers, body = plan(n)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def value(i, answer):
    return answer["value"]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_passes_is_asked_again(status):
    with answering(lambda n: (status, {"Retry-After": "0.01"}, "{}") if n < 2 else (200, {}, '{"value": 7}')) as (url, seen):
        assert Endpoint(url, KEY).ask("/x", [{"a": 1}], value) == [7]
        assert seen == [{"a": 1}] * 3


def test_the_pause_is_the_servers():
    """A second's pause that the server asks for is longer than the patience, so the request is given up meanwhile."""
    with answering(lambda n: (429, {"Retry-After": "5"}, "{}")) as (url, seen):
        with pytest.raises(InputError, match="gave no answer within 0.3 s"):
            Endpoint(url, KEY, patience=0.3).ask("/x", [{}], value)
        assert len(seen) == 1


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_is_refused_is_not_asked_again(status):
    with answering(lambda n: (status, {}, '{"error": {"message": "too long"}}')) as (url, seen):
        with pytest.raises(RefusedError, match="refuses a request .*too long"):
            Endpoint(url, KEY).ask("/x", [{}], value)
        assert len(seen) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key_is_named_by_its_variable(status, monkeypatch):
    monkeypatch.setenv(KEY, "sk-planted-0123456789")
    said = rf"rejects the key .*\[{KEY}\].*; check {KEY}"
    answer = (status, {}, '{"error": {"message": "bad key sk-planted-0123456789"}}')
    with answering(lambda n: answer) as (url, _), pytest.raises(InputError, match=said):
        Endpoint(url, KEY).ask("/x", [{}], value)


@pytest.mark.parametrize("body", ["[]", '"text"', "{}", "nonsense", "null", '{"value": NaN}' * 2])
def test_an_answer_of_another_form_is_asked_for_again_and_then_given_up(body):
    with answering(lambda n: (200, {}, body)) as (url, seen):
        with pytest.raises(RefusedError, match=rf"gave {ATTEMPTS} answers that cannot be used"):
            Endpoint(url, KEY).ask("/x", [{}], value)
        assert len(seen) == ATTEMPTS


def test_answers_keep_the_order_of_their_requests():
    with answering(lambda n: (200, {}, json.dumps({"value": n}))) as (url, seen):
        done = []
        found = Endpoint(url, KEY, workers=4).ask("/x", [{"i": i} for i in range(20)], value, lambda i, v: done.append((i, v)))
        assert [seen[v]["i"] for v in found] == list(range(20))
        assert sorted(done) == list(enumerate(found))


def test_an_error_ends_the_call_and_what_is_under_way():
    with answering(lambda n: (400, {}, "{}") if n == 0 else (200, {}, '{"value": 1}')) as (url, seen):
        with pytest.raises(RefusedError):
            Endpoint(url, KEY, workers=1).ask("/x", [{}] * 50, value)
        assert len(seen) < 50


def test_addresses():
    assert host_of("https://host/v1", "it", KEY) == "host"
    assert host_of("http://host:8000/v1", "it", KEY) == "host:8000"
    for wrong in ("host/v1", "ftp://host", "http://", "http://a b/v1", "http://[::1", "http://h:99999999/v1"):
        with pytest.raises(InputError, match="it is .*not a valid address; write it as https://host/v1"):
            host_of(wrong, "it", KEY)
    for more in ("http://u:p@host/v1", "http://host/v1?key=1", "http://host/v1#x"):
        with pytest.raises(InputError, match=f"it of host contains more than an address; .* set the key in {KEY}"):
            host_of(more, "it", KEY)


def test_keys(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "of openai")
    assert key_of("api.openai.com", KEY) == "of openai"
    assert key_of("api.openai.com.evil.org", KEY) == key_of("localhost:8000", KEY) == ""
    monkeypatch.setenv(KEY, " mine\n")
    assert key_of("api.openai.com", KEY) == key_of("localhost:8000", KEY) == "mine"
    monkeypatch.setenv(KEY, "ключ")
    with pytest.raises(InputError, match="invalid characters"):
        key_of("localhost:8000", KEY)


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("icdpo_nb.common.endpoint.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package openai; pip install 'icdpo-nb\[server\]'"):
        Endpoint("http://localhost:8000/v1", KEY)
