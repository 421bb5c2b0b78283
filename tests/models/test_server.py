"""A model behind a server: what comes through the wire is held against the same model run here, and no wrong number is kept."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import save_tiny_lm
from transformers import AutoTokenizer

pytest.importorskip("openai")

from completion_server import FAULTS, NAME, VLLM, Server, listening, serving

from icdpo_nb.algorithm import icdpo
from icdpo_nb.common.errors import InputError, TooLongError
from icdpo_nb.models.addresses import KEY
from icdpo_nb.models.lm import load_lm
from icdpo_nb.models.server import load_server
from icdpo_nb.protocol import RECOMMENDED
from icdpo_nb.retrieval.retrievers import RandomRetriever
from icdpo_nb.scoring import is_empty, score
from icdpo_nb.store.store import Store
from icdpo_nb.store.stored import stored
from icdpo_nb.templates import base_context, contexts

CONTEXTS = ["Human: Hi\n\nAssistant:", "Human: What is a fern?\n\nAssistant:"]
SHORT = RECOMMENDED.but(max_new_tokens=8)
SECRET = "sk-planted-0123456789"
OTHER = os.environ.get("ICDPO_TEST_SERVER")  # the address of a server, http://host:8000/v1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that says the numbers in turn, and then ends: by a second EOS, at a stop string, or not within 8 tokens."""
    words = ["one ", "two ", "three ", "four ", "\n\nHuman: ", *(f"{i} " for i in range(5, 15)), "bye"]
    made = save_tiny_lm(tmp_path_factory.mktemp("served"), says=words)
    path = made / "generation_config.json"
    bye = AutoTokenizer.from_pretrained(made).convert_tokens_to_ids("bye")
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [2, bye]}))
    return str(made)


@pytest.fixture(scope="module")
def here(folder):
    return load_lm(folder)


@pytest.fixture(scope="module")
def running(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    """The server, as honest as it began."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running.fault, running.dialect = (lambda body, n: None), set(VLLM)
    for seen in (running.requests, running.keys, running.headers):
        seen.clear()
    running.busiest = 0
    return running


@pytest.fixture(scope="module")
def known(running):
    """The model behind the server, loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        return load_lm(running.url)


def differences(a, b) -> float:
    return max(
        float(np.abs(x - y).max(initial=0)) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True)
    )


# ---------------------------------------------------------------- the same numbers as here


def test_samples_and_scores_are_those_of_the_model(server, known, here):
    lm = known
    sampled = lm.sample(CONTEXTS, 12, SHORT)
    assert {y.finish for ys in sampled for y in ys} == {"eos", "stop", "length"}
    assert all(len(y.logps) == len(y.token_ids) for ys in sampled for y in ys)
    assert not any("Human" in y.text or "bye" in y.text for ys in sampled for y in ys)
    expected = here.logprobs(CONTEXTS, sampled, rescore=True)
    assert differences(lm.logprobs(CONTEXTS, sampled), expected) < 1e-4
    assert differences(lm.logprobs(CONTEXTS, sampled, rescore=True), expected) < 1e-4
    other = lm.logprobs(CONTEXTS[::-1], sampled)
    assert differences(other, here.logprobs(CONTEXTS[::-1], sampled)) < 1e-4


def test_the_scores_of_the_method_are_the_same(server, known, here, pairs):
    """S, Ŝ and the choice through the server equal those of the model here, on the responses that the server sampled."""
    lm, retriever = known, RandomRetriever(pairs, 0)
    chosen = icdpo("Human: How do I boil an egg?", retriever, lm, "S", SHORT)
    texts = contexts(chosen.demos, chosen.prompt, SHORT, lm.render)
    again = {c: here.logprobs([text], [chosen.responses])[0] for c, text in texts.items()}
    logp = {c: np.array([v.sum(dtype=float) for v in values]) for c, values in again.items()}
    lengths, empty = np.array([len(y.token_ids) for y in chosen.responses]), is_empty([y.text for y in chosen.responses])
    for name in ("S", "S_hat", "ICL"):
        assert score(name, chosen.logp, lengths, empty=empty) == pytest.approx(
            score(name, logp, lengths, empty=empty), abs=1e-4
        )


@pytest.mark.parametrize(
    ("dialect", "way"),
    [
        ({"ids", "prompt_logprobs", "named"}, "prompt_logprobs"), ({"ids", "echo", "token_ids", "named"}, "echo"),
        ({"ids", "echo", "named"}, "echo"), ({"ids", "echo"}, "echo"), ({"echo"}, "echo"), ({"ids", "llama.cpp"}, ""),
        (VLLM | {"no eos"}, "prompt_logprobs"), (VLLM | {"processed"}, "prompt_logprobs"),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else value,
)  # fmt: skip
def test_servers_of_several_kinds(server, here, dialect, way):
    """Ids of their own, "token_id:12", texts alone, llama.cpp's list; no ids taken; EOS not named; probabilities reshaped."""
    server.dialect = dialect
    lm = load_lm(server.url)
    abilities = lm.abilities
    assert (abilities.scores, abilities.takes_ids) == (way, "ids" in dialect)
    assert abilities.of_policy == (bool(way) and "ids" in dialect and "processed" not in dialect)
    assert lm.path.startswith(f"{NAME} at 127.0.0.1:")
    sampled = lm.sample(CONTEXTS, 2, SHORT)
    assert all(y.logps is None for ys in sampled for y in ys) == (not abilities.of_policy)
    if not way:
        with pytest.raises(InputError, match=r"cannot score: it gives no log-probabilities of a prompt \(.*\); use a server"):
            lm.logprobs(CONTEXTS, sampled)
        return
    assert differences(lm.logprobs(CONTEXTS, sampled), here.logprobs(CONTEXTS, sampled)) < 1e-4


def test_a_temperature_changes_samples_but_not_their_log_probabilities(server, known, here):
    lm, warm = known, SHORT.but(temperature=1.7, top_p=0.6, top_k=5)
    sampled = lm.sample(CONTEXTS, 2, warm)
    sent = [r for r in server.requests if r.get("top_k") == 5]
    assert len(sent) == 4
    assert all((r["temperature"], r["top_p"], r["min_p"], r["repetition_penalty"]) == (1.7, 0.6, 0.0, 1.0) for r in sent)
    assert differences(lm.logprobs(CONTEXTS, sampled), here.logprobs(CONTEXTS, sampled, rescore=True)) < 1e-4


def test_eos_is_scored_as_the_protocol_says(server, here):
    server.dialect = VLLM | {"no eos"}
    lm = load_lm(server.url)
    for policy in ("never", "if_sampled", "always"):
        protocol = RECOMMENDED.but(max_new_tokens=24, eos_scored=policy)
        sampled = lm.sample(CONTEXTS, 4, protocol)
        ended = [y for ys in sampled for y in ys if y.finish == "eos"]
        assert ended
        assert all((y.token_ids[-1:] == tuple(lm.eos_ids[:1])) == (policy != "never") for y in ended)
        assert all((y.logps is None) == (policy != "never") for y in ended), "the log-probability of EOS was not named"
        assert differences(lm.logprobs(CONTEXTS, sampled), here.logprobs(CONTEXTS, sampled, rescore=True)) < 1e-4


def test_how_a_response_ends(known):
    """By our own rule first; then by what the server says, if its tokens allow it."""
    five, special = known.tokenize("5 6 7 8 9 "), known.tokenizer.unk_token_id
    bye, stop = known.eos_ids[1], known.tokenize("\n\nHuman: ")
    protocol, (first, *_) = SHORT.but(max_new_tokens=5), known.eos_ids

    def ending(ids, finish, **said):
        return known._ending(ids, 0, {"finish_reason": finish, **said}, protocol)

    assert ending(five, "length") == (5, "length", [])
    assert ending([*five[:2], bye, *five[:2]], "length") == (3, "eos", [])
    assert ending([*five[:2], *stop, five[0]], "stop", stop_reason="\nHuman:") == (3, "stop", [])
    assert ending(five[:3], "stop", stop_reason=None) == (3, "eos", [first])
    assert ending(five[:3], "stop", stop_reason=bye) == (3, "eos", [bye])
    assert ending([*five[:2], special], "stop", stop_reason=None) == (3, "eos", []), "an EOS that only the server knows"
    assert ending([], "stop", stop_reason=None) == (0, "eos", [first])
    for ids, finish, why in ((five[:3], "length", None), (five[:3], "stop", "\n##"), (five, None, None), (five, "abort", None)):
        with pytest.raises(ValueError, match="it ended by"):
            ending(ids, finish, stop_reason=why)


def test_given_and_empty_responses(server, known, here):
    lm = known
    given = [[lm.encode_response("yes "), lm.encode_response("")], [lm.encode_response("a fern, no?")]]
    scored = lm.logprobs(CONTEXTS, given)
    assert scored[0][1].shape == (0,)
    assert differences([scored[0][:1], scored[1]], here.logprobs(CONTEXTS, [given[0][:1], given[1]])) < 1e-4
    assert lm.logprobs([], []) == []


def test_blocks_continue_what_was_sampled(server, known, here):
    lm, block = known, RECOMMENDED.but(max_new_tokens=3, eos_scored="if_sampled")
    begun = [ys[0] for ys in lm.sample(CONTEXTS, 1, block)]
    unfinished = [(c, y) for c, y in zip(CONTEXTS, begun, strict=True) if y.finish == "length"]
    contexts, starts = [c for c, _ in unfinished], [y for _, y in unfinished]
    assert contexts
    longer = lm.sample(contexts, 2, block, begun=starts)
    for start, ys in zip(starts, longer, strict=True):
        assert all(y.token_ids[: len(start.token_ids)] == start.token_ids for y in ys)
    assert differences(lm.logprobs(contexts, longer), here.logprobs(contexts, longer, rescore=True)) < 1e-4


# ---------------------------------------------------------------- seeds, cost, store


def test_each_response_has_a_seed_of_its_own(server, known):
    lm = known
    three, two = lm.sample(CONTEXTS, 3, SHORT, seed=5), lm.sample(CONTEXTS[::-1], 2, SHORT, seed=5)
    assert [[y.token_ids for y in ys[:2]] for ys in three] == [[y.token_ids for y in ys] for ys in two[::-1]]
    seeds = [r["seed"] for r in server.requests[-10:]]
    assert len(set(seeds)) == 6, "one for each context and j, whatever n is"
    assert lm.sample(CONTEXTS, 3, SHORT, seed=6)[0][0].token_ids != three[0][0].token_ids


def test_tokens_and_answers_are_counted(server):
    lm = load_lm(server.url)
    seen, n = [], [len(lm.encode_context(c)) for c in CONTEXTS]
    sampled = lm.sample(CONTEXTS, 2, SHORT, watch=lambda i, j, ids: seen.append((i, j, ids)))
    assert sorted((i, j) for i, j, _ in seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    tokens = sum(len(y.token_ids) for ys in sampled for y in ys)
    work = lm.work()
    assert (work["prefill"], work["decode"], work["scored"]) == (2 * sum(n), tokens, 0)
    lm.logprobs(CONTEXTS[::-1], sampled)
    assert lm.work()["scored"] == tokens
    assert lm.cost()["machines"] == [f"server 127.0.0.1:{server.port}"]


def test_an_interrupted_call_goes_on(server, tmp_path):
    """What was stored before the server broke is not asked for again, and neither is anything once all is there."""
    lm = stored(load_lm(server.url), store=Store(tmp_path))
    lm.lm.at_a_time, lm._chunk, lm.lm.endpoint.retries = 2, 2, 0
    contexts = [f"Human: {i}?\n\nAssistant:" for i in range(6)]
    server.requests.clear()
    server.fault = lambda body, n: "500" if n > 6 else None
    with pytest.raises(InputError, match="fails again and again"):
        lm.sample(contexts, 2, SHORT)
    server.fault = lambda body, n: None
    server.requests.clear()
    sampled = lm.sample(contexts, 2, SHORT)
    assert len(server.requests) == 8, "four of six contexts"
    again = stored(load_lm(server.url), store=Store(tmp_path))
    server.requests.clear()
    assert [[y.text for y in ys] for ys in again.sample(contexts, 2, SHORT)] == [[y.text for y in ys] for ys in sampled]
    assert not server.requests
    assert again.cost()["machines"] == [f"server 127.0.0.1:{server.port}"]


def test_the_fingerprint_is_that_of_the_model_and_not_of_the_address(server, folder):
    first = load_lm(server.url).fingerprint
    with serving(folder) as other:
        assert load_lm(other.url).fingerprint == first
        other.models[0]["max_model_len"] = 99
        assert load_lm(other.url).fingerprint != first


# ---------------------------------------------------------------- names


def test_model_and_tokenizer_are_named_in_one_string(server, folder, monkeypatch):
    assert load_lm(f"{server.url}#{NAME}").model == load_lm(f"{server.url}##{folder}").model == NAME
    assert load_lm(server.url, model=NAME, tokenizer=folder).name == server.url
    with pytest.raises(InputError, match=rf"does not serve 'other'; name one that it serves \({NAME}\)"):
        load_lm(f"{server.url}#other")
    monkeypatch.setattr(server, "models", [*server.models, {"id": "b"}])
    with pytest.raises(InputError, match=rf"serves several models, or none; name one that it serves \({NAME}, b\)"):
        load_lm(server.url)
    monkeypatch.setattr(server, "models", [{"id": NAME}])
    with pytest.raises(
        InputError, match=r"no tokenizer that is known here \(.*\); name one, http://host:8000/v1#model#tokenizer"
    ):
        load_lm(server.url)
    with pytest.raises(InputError, match="has more than two signs #"):
        load_lm(f"{server.url}#a#b#c")
    with pytest.raises(InputError, match="and so does the call; name each once"):
        load_lm(f"{server.url}#{NAME}", model="other")
    with pytest.raises(InputError, match="is a server, which chooses dtype and device itself"):
        load_lm(server.url, dtype="float32")
    with pytest.raises(InputError, match="is not a server's address, so it takes no model"):
        load_lm(folder, model="m")


def test_another_tokenizer_is_refused(server):
    with pytest.raises(InputError, match=r"name the tokenizer of its model|name another tokenizer"):
        load_lm(f"{server.url}##sandbox-small")


def test_a_server_without_log_probabilities_is_refused(server, monkeypatch):
    """As `transformers serve` answers: text alone."""
    whole = server.completion

    def text_alone(body):
        answer = whole(body)
        answer["choices"] = [
            {k: c[k] for k in ("index", "text", "finish_reason")} | {"logprobs": None} for c in answer["choices"]
        ]
        return answer

    monkeypatch.setattr(server, "completion", text_alone)
    with pytest.raises(
        InputError, match=r"does not return what it samples with ids and log-probabilities .* let this one be a teacher"
    ):
        load_lm(server.url)


def test_contexts_that_do_not_fit(server, known):
    lm = known
    assert lm.max_length == 1024
    with pytest.raises(TooLongError, match="exceeds the 1024 tokens"):
        lm.sample(["Human: " + "a" * 1020 + "\n\nAssistant:"], 1, SHORT)


# ---------------------------------------------------------------- faults

HARD = [f for f in FAULTS if f not in ("429", "500", "503", "cut", "slow", "not json")]


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "not json", *HARD])
def test_a_fault_that_passes_changes_nothing(server, known, here, fault):
    """Each request meets the fault once; the results are those without it."""
    lm = known
    met = set()

    def once(body, n):
        key = json.dumps(body, sort_keys=True)
        return None if key in met or met.add(key) else fault

    server.fault = once
    sampled = lm.sample(CONTEXTS, 2, SHORT)
    scored = lm.logprobs(CONTEXTS[::-1], sampled)
    assert len(met) == 4 + sum(bool(y.token_ids) for ys in sampled for y in ys)
    server.fault = lambda body, n: None
    assert [[y.token_ids for y in ys] for ys in sampled] == [[y.token_ids for y in ys] for ys in lm.sample(CONTEXTS, 2, SHORT)]
    assert differences(lm.logprobs(CONTEXTS, sampled), here.logprobs(CONTEXTS, sampled, rescore=True)) < 1e-4
    assert differences(scored, here.logprobs(CONTEXTS[::-1], sampled)) < 1e-4


@pytest.mark.parametrize("fault", HARD)
def test_a_fault_that_stays_ends_in_a_sentence(server, known, here, fault):
    """No number of a wrong answer is ever returned."""
    lm = known
    sampled = lm.sample(CONTEXTS, 2, SHORT)
    server.fault = lambda body, n: fault
    with pytest.raises(InputError, match=r"gave 3 answers that cannot be used \(the last: .+\); use another server"):
        lm.sample(CONTEXTS, 2, SHORT)
    if fault in ("abort", "other text"):  # of no consequence for a score
        assert differences(lm.logprobs(CONTEXTS[::-1], sampled), here.logprobs(CONTEXTS[::-1], sampled)) < 1e-4
        return
    with pytest.raises(InputError, match=r"gave 3 answers that cannot be used \(the last: .+\); use another server"):
        lm.logprobs(CONTEXTS[::-1], sampled)


def test_nothing_hangs(folder, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(folder) as server:
        lm = load_server(server.url)
        lm.endpoint.patience, server.fault = 0.4, lambda body, n: "slow"
        with pytest.raises(InputError, match=r"gave no answer within 0.4 s; look at its log"):
            lm.sample(CONTEXTS, 2, SHORT)
        assert not server.over.is_set(), "the server still waits, and the call does not"


@pytest.fixture
def interruptible():
    """An interrupt raises, also in a shell's background, where it would be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_call_at_once(folder, monkeypatch):
    """Ctrl-C while answers are awaited: the requests are given up, and nothing stays behind."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(folder) as server:
        lm = load_server(server.url)
        server.fault = lambda body, n: "slow"
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            lm.sample(CONTEXTS, 2, SHORT)
        assert not server.over.is_set()
        timer.join()
        assert not [t for t in threading.enumerate() if "portal" in t.name]


def test_requests_under_way_are_bounded(server):
    lm = load_server(server.url, workers=3)
    lm.sample(CONTEXTS, 8, SHORT)
    assert 1 < server.busiest <= 3


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot be reached .*; start it, or correct the address"):
        load_server(f"http://127.0.0.1:{port}/v1", retries=0)


def test_a_server_that_dies_and_returns(server, folder, here):
    """Between two chunks of a call it is gone for a while, and comes back at the same address."""
    made = Server(folder)
    with listening(made) as first:
        lm = load_server(first.url)
    port = first.port

    def back():
        time.sleep(0.7)
        with listening(made, port):
            done.wait(30)

    done, made.over = threading.Event(), threading.Event()
    thread = threading.Thread(target=back)
    thread.start()
    try:
        sampled = lm.sample(CONTEXTS, 2, SHORT)
    finally:
        done.set()
        thread.join()
    assert differences([[y.logps for y in ys] for ys in sampled], here.logprobs(CONTEXTS, sampled, rescore=True)) < 1e-4


# ---------------------------------------------------------------- keys


def test_the_key_is_sent_and_nowhere_else(server, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv(KEY, SECRET)
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "ICDPO_JUDGE_KEY"):
        monkeypatch.setenv(name, "sk-of-others-0123456789")
    lm = stored(load_lm(server.url), store=Store(tmp_path))
    lm.sample(CONTEXTS, 1, SHORT)
    assert set(server.keys) == {f"Bearer {SECRET}"}
    server.fault = lambda body, n: "other text"
    with pytest.raises(InputError) as complaint:
        lm.sample(["Human: other\n\nAssistant:"], 1, SHORT)
    said = f"{complaint.value}{lm.path}{lm.revision}{lm.fingerprint}{caplog.text}"
    assert "sk-" not in said
    assert b"sk-" not in b"".join(p.read_bytes() for p in Path(tmp_path).iterdir())
    monkeypatch.delenv(KEY)
    server.fault = lambda body, n: None
    server.keys.clear()
    load_lm(server.url)
    assert set(server.keys) == {"Bearer none"}, "OpenAI's key is for OpenAI"
    assert "sk-of-others" not in "".join(server.headers)


# ---------------------------------------------------------------- real processes


def start(folder: str, port: int = 0) -> tuple[subprocess.Popen, str]:
    """A server process, on a free port if none is given, and its address, once it listens."""
    script = Path(__file__).parents[1] / "completion_server.py"
    process = subprocess.Popen([sys.executable, script, folder, str(port)], stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    assert url.startswith("http")
    return process, url


@pytest.mark.slow
def test_a_process_that_is_killed_and_started_again(folder, here, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    process, url = start(folder)
    try:
        lm = load_lm(url)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process, _ = start(folder, urlsplit(url).port)
        sampled = lm.sample(CONTEXTS, 2, SHORT)
    finally:
        process.kill()
        process.wait()
    assert differences([[y.logps for y in ys] for ys in sampled], here.logprobs(CONTEXTS, sampled, rescore=True)) < 1e-4


@pytest.mark.slow
def test_smollm2_through_a_server(smollm2, monkeypatch, pairs):
    """A real language model and its tokenizer: S of given and of sampled responses, within 1e-4 a token."""
    from icdpo_nb.models.packaged import smollm2_folder

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(str(smollm2_folder())) as server:
        lm = load_lm(f"{server.url}##smollm2")
        assert lm.eos_ids == smollm2.eos_ids
        sampled = lm.sample(CONTEXTS, 2, SHORT.but(max_new_tokens=16))
        assert differences(lm.logprobs(CONTEXTS, sampled), smollm2.logprobs(CONTEXTS, sampled, rescore=True)) < 1e-4
        given = [[lm.encode_response("A fern is a plant; isn’t it? 🌿")]] * 2
        assert differences(lm.logprobs(CONTEXTS, given), smollm2.logprobs(CONTEXTS, given)) < 1e-4


@pytest.mark.skipif(not OTHER, reason="no ICDPO_TEST_SERVER")
def test_a_server_that_is_no_part_of_the_tests(smollm2):
    """One that serves SmolLM2 in float32."""
    lm = load_lm(f"{OTHER}##smollm2")
    sampled = lm.sample(CONTEXTS, 12, RECOMMENDED.but(max_new_tokens=48, temperature=1.5))
    assert all(y.token_ids for ys in sampled for y in ys)
    expected = smollm2.logprobs(CONTEXTS, sampled, rescore=True)
    assert differences(lm.logprobs(CONTEXTS, sampled), expected) < 1e-3
    assert differences(lm.logprobs(CONTEXTS, sampled, rescore=True), expected) < 1e-3
    assert differences(lm.logprobs(CONTEXTS[::-1], sampled), smollm2.logprobs(CONTEXTS[::-1], sampled)) < 1e-3


@pytest.mark.slow
def test_a_whole_method_run_with_a_served_model(tmp_path, monkeypatch):
    """`-p lms http://…`: every log-probability of the candidates table is that of the model here; nothing is asked twice."""
    import pandas as pd

    from icdpo_nb.models.packaged import PACKAGED
    from icdpo_nb.reports.report import run_notebook

    monkeypatch.setenv("ICDPO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(str(PACKAGED["sandbox-small"])) as server:
        address = f"{server.url}#{NAME}#sandbox-small"
        small = {"lms": [address], "n_prompts": 3, "demonstrations": ["teacher-a"], "teacher": "none", "max_new_tokens": 32}
        folder = run_notebook("01_method", small, tmp_path / "reports")
        probes = len([r for r in server.requests if r["prompt"] == server.requests[0]["prompt"]])
        asked = len(server.requests)
        server.requests.clear()
        run_notebook("01_method", small, tmp_path / "again")
        assert 0 < len(server.requests) <= 2 * probes + 4 < asked, "only what the server can do is asked again"
    table = pd.read_json(folder / "candidates.jsonl", lines=True, dtype={"prompt_id": str})
    assert set(table["lm"]) == {address}
    lm, compared = load_lm("sandbox-small"), 0
    alone = table[(table["retriever"] == "none") & (table["policy"] == "base")]
    for row in alone.itertuples():
        context = base_context(row.prompt)
        y = lm.encode_response(row.response)
        if len(y.token_ids) == row.n_tokens:  # tokenized as it was sampled
            assert row.logp_base == pytest.approx(float(lm.logprobs([context], [[y]])[0][0].sum()), abs=1e-3)
            compared += 1
    assert len(alone) == 18
    assert compared > 9
    report = (folder / "report.html").read_text()
    assert f"{NAME}" in report
    assert "server 127.0.0.1" in report
