"""A chat model behind an endpoint: what is sent, which replies are read, and servers that list nothing."""

import pytest

pytest.importorskip("openai")

from completion_server import NAME, serving
from conftest import save_tiny_lm

from icdpo_nb.common.errors import InputError
from icdpo_nb.models.conversation import ChatServer, Reply, _read

ASK = [{"role": "user", "content": "Hi"}]
SETTINGS = {"max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 2**40 + 3}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        folder = save_tiny_lm(tmp_path_factory.mktemp("chat"))
        with serving(str(folder)) as server:
            server.lm.tokenizer.chat_template = TEMPLATE
            yield server


def test_replies(running):
    chat = ChatServer(running.url)
    assert (chat.model, chat.revision) == (NAME, f"vllm, {running.lm.folder}")
    body = chat.request(ASK, SETTINGS)
    assert body == {
        "model": NAME, "messages": ASK, "n": 1, "max_tokens": 5, "seed": 3, "temperature": 0.5, "top_p": 0.9,
    }  # fmt: skip
    (reply,), done = chat.replies([body]), []
    assert reply.finish == "length"
    assert len(running.lm.tokenizer(reply.text)["input_ids"]) <= 5
    assert chat.replies([body, body], lambda i, r: done.append(i)) == [reply, reply]
    assert sorted(done) == [0, 1]


def test_a_server_that_lists_nothing_needs_a_name(running, monkeypatch):
    monkeypatch.setattr(running, "models", None)
    assert ChatServer(f"{running.url}#{NAME}").revision == "not stated"
    with pytest.raises(InputError, match=r"does not list its models \(.*\); name one, http"):
        ChatServer(running.url)
    unknown = ChatServer(f"{running.url}#other")
    with pytest.raises(InputError, match="refuses a request .*does not exist"):
        unknown.replies([unknown.request(ASK, SETTINGS)])


def test_openai_has_a_name_of_its_own_for_the_limit(running):
    chat = ChatServer(running.url)
    chat.endpoint.host = "api.openai.com"
    assert chat.request(ASK, SETTINGS)["max_completion_tokens"] == 5


def answer(finish="stop", **message):
    return {"choices": [{"finish_reason": finish, "message": message}]}


def test_what_a_reply_is():
    assert _read(answer(content=" Yes.\n")) == Reply("Yes.", "stop")
    assert _read(answer(content=None, refusal="No.")) == Reply("No.", "stop")
    assert _read(answer("content_filter", content="half")) == Reply("", "content_filter")
    assert _read(answer("length", content=None)) == Reply("", "length")
    for wrong in (answer("abort", content="x"), answer(content=["x"]), {"choices": []}, {"choices": answer()["choices"] * 2}):
        with pytest.raises(ValueError, match=r"reply of|values to unpack"):
            _read(wrong)
