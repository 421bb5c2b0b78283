"""A completion server on loopback that speaks vLLM's dialect of /v1/completions, /v1/models and /v1/chat/completions.

It runs a transformers model by its own forward pass, so that what comes through it is independent of the engine. Run it as a
process, `python tests/completion_server.py FOLDER PORT`, or within a test: `with serving(folder) as server`. What it can do is
`server.dialect`; `server.fault(body, n)` names a misbehaviour for the n-th request (from 1), or None.
"""

import json
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler

import torch
from loopback import listening_on
from transformers import AutoModelForCausalLM, AutoTokenizer

NAME = "served"
VLLM = {"ids", "prompt_logprobs", "echo", "token_ids", "named"}  # a server of another kind lacks some of these
FAULTS = (
    "429", "500", "503", "cut", "slow", "fewer", "more", "index", "misaligned", "nan", "infinite", "positive", "null", "short",
    "no ids", "other prompt", "other text", "not json", "abort", "list",
)  # fmt: skip


class RefusedError(Exception):
    """A request that is answered with a status of 4xx."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class Model:
    """A transformers model that samples and scores one row at a time."""

    def __init__(self, folder: str):
        self.folder, self.turn = str(folder), threading.Lock()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        eos = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [eos])
        self.length = self.model.config.max_position_embeddings

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @torch.no_grad()
    def prompt_logps(self, ids: list[int]) -> list[float]:
        """log π of each token of a prompt but the first."""
        logp = torch.log_softmax(self.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        return logp[:-1].gather(-1, torch.tensor(ids)[1:, None])[:, 0].tolist()

    @torch.no_grad()
    def generate(self, ids: list[int], body: dict) -> tuple[list[int], list[float], list[float], str, object]:
        """New tokens, their log-probabilities raw and as sampled, the finish reason and the stop reason."""
        rng = torch.Generator().manual_seed(body.get("seed") or 0)
        temperature, top_p, top_k = body.get("temperature", 1.0), body.get("top_p", 1.0), body.get("top_k", -1)
        stops, cache, fed = body.get("stop") or [], None, ids
        new, raw, shaped = [], [], []
        while len(new) < body.get("max_tokens", 16):
            out = self.model(input_ids=torch.tensor([fed]), past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1].double()
            scaled = torch.log_softmax(logits / max(temperature, 1e-6), -1)
            order = scaled.argsort(descending=True)
            before = scaled[order].exp().cumsum(0) - scaled[order].exp()
            keep = order[(before < top_p) & (torch.arange(len(order)) < (top_k if top_k > 0 else len(order)))]
            token = int(keep[torch.multinomial(scaled[keep].exp(), 1, generator=rng)])
            new.append(token)
            raw.append(float(torch.log_softmax(logits, -1)[token]))
            shaped.append(float(scaled[token] - torch.logsumexp(scaled[keep], 0)))
            if token in self.eos:
                return new, raw, shaped, "stop", None
            if token in body.get("stop_token_ids", ()):
                return new, raw, shaped, "stop", token
            if found := [s for s in stops if s in self.text(new)]:
                return new, raw, shaped, "stop", found[0]
            fed = [token]
        return new, raw, shaped, "length", None


class Server:
    """What the tests see and set."""

    def __init__(self, folder: str, dialect: set[str] = VLLM):
        self.lm, self.dialect = Model(folder), set(dialect)
        self.fault = lambda body, n: None
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.headers: list[str] = []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.busy = self.busiest = self.port = 0
        self.models = [{"id": NAME, "object": "model", "owned_by": "vllm", "root": self.lm.folder,
                        "created": 1, "max_model_len": self.lm.length, "permission": []}]  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def completion(self, body: dict) -> dict:
        """The answer to a request, as vLLM forms it."""
        prompts = body["prompt"]
        if isinstance(prompts, str) or prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        if len(body.get("stop") or []) > 4:
            raise RefusedError("stop: List should have at most 4 items after validation, not 5")
        choices, used = [], [0, 0]
        for prompt in prompts:
            if not isinstance(prompt, str) and "ids" not in self.dialect:
                raise RefusedError("prompt: Input should be a valid string", 422)
            ids = self.lm.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
            if max(ids) >= self.lm.model.config.vocab_size:
                raise RefusedError(f"Token id {max(ids)} is out of vocabulary")
            if len(ids) + body.get("max_tokens", 16) > self.lm.length:
                raise RefusedError(
                    f"This model's maximum context length is {self.lm.length} tokens. However, you requested more."
                )
            for k in range(body.get("n", 1)):
                choice, length = self._choice(ids, {**body, "seed": (body.get("seed") or 0) + k})
                choices.append({"index": len(choices), **choice})
                used = [used[0] + len(ids), used[1] + length]
        usage = {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": NAME, "choices": choices, "usage": usage}

    def _choice(self, ids: list[int], body: dict) -> tuple[dict, int]:
        wants_prompt = body.get("prompt_logprobs") is not None and "prompt_logprobs" in self.dialect
        if body.get("echo") and "echo" not in self.dialect:
            raise RefusedError("echo is not supported")
        before = self.lm.prompt_logps(ids) if wants_prompt or body.get("echo") else []
        new, raw, shaped, finish, stop = self.lm.generate(ids, body)
        values = shaped if "processed" in self.dialect else raw
        text, shown, start, whole = self.lm.text(new), new, 0, body.get("include_stop_str_in_output")
        if isinstance(stop, str):
            text = text[: text.index(stop) + (len(stop) if whole else 0)]
        elif finish == "stop" and not (whole and "no eos" not in self.dialect):
            text = self.lm.text(new[:-1])
        if new and new[-1] in self.lm.eos and "no eos" in self.dialect:
            shown, values = new[:-1], values[:-1]
        choice = {
            "finish_reason": finish,
            "stop_reason": stop,
            "prompt_logprobs": None,
            "token_ids": None,
            "prompt_token_ids": None,
        }
        if body.get("return_token_ids") and "token_ids" in self.dialect:
            choice |= {"token_ids": shown, "prompt_token_ids": ids}
        if wants_prompt:
            entries = [{str(i): {"logprob": lp, "rank": 1, "decoded_token": self.lm.text([i])}}
                       for i, lp in zip(ids[1:], before, strict=True)]  # fmt: skip
            choice["prompt_logprobs"] = [None, *entries]
        if body.get("echo"):
            text, shown, values, start = self.lm.text(ids) + text, [*ids, *shown], [None, *before, *values], 0
        if body.get("logprobs") is not None:
            named = body.get("return_tokens_as_token_ids") and "named" in self.dialect
            tokens = [f"token_id:{i}" if named else self.lm.tokenizer.decode([i]) for i in shown]
            tops = [None if v is None else {t: v} for t, v in zip(tokens, values, strict=True)]
            choice["logprobs"] = {
                "tokens": tokens,
                "token_logprobs": values,
                "top_logprobs": tops,
                "text_offset": [start] * len(tokens),
            }
            if "llama.cpp" in self.dialect:
                found = [{"id": i, "token": self.lm.text([i]), "logprob": v} for i, v in zip(shown, values, strict=True)]
                choice["logprobs"] = {"content": found}
        return {"text": text, "logprobs": None, **choice}, len(new)

    def chat(self, body: dict) -> dict:
        """The answer to a conversation."""
        ids = self.lm.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=True)["input_ids"]
        new, _, _, finish, _ = self.lm.generate(ids, body)
        message = {"role": "assistant", "content": self.lm.text(new), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        return {"id": "chatcmpl-1", "object": "chat.completion", "model": NAME, "choices": [choice], "usage": {}}


def broken(answer: dict, fault: str) -> dict:
    """The answer with a fault."""
    choices = answer["choices"]
    choice = choices[0]
    found, prompt = choice.get("logprobs") or {}, choice.get("prompt_logprobs")
    if fault == "fewer":
        choices.pop()
    elif fault == "more":
        choices.append({**choice, "index": 1})
    elif fault == "index":
        choice["index"] = 1
    elif fault == "list":
        return {"choices": None}
    elif fault == "abort":
        choice["finish_reason"] = "abort"
    elif fault == "other text":
        choice["text"] = "Q" + choice["text"][::-1] + "x"
        choice["finish_reason"] = "length"
    elif fault == "other prompt":
        choice["prompt_token_ids"] = [7, *(choice["prompt_token_ids"] or [])[1:]]
        if prompt:
            prompt[-1] = {str(int(k) + 1): v for k, v in prompt[-1].items()}
    elif fault == "no ids":
        choice["token_ids"], found["tokens"] = None, ["a" for _ in found.get("tokens", [])]
        if prompt:
            choice["prompt_logprobs"] = None
    elif fault == "misaligned":
        for key in ("tokens", "token_logprobs"):
            found[key] = found.get(key, [])[1:]
        if prompt:
            choice["prompt_logprobs"] = [None, None, *prompt[1:-1]]
    elif fault == "short":
        for key in ("tokens", "token_logprobs"):
            found[key] = found.get(key, [])[:-1]
        choice["token_ids"] = (choice["token_ids"] or [])[:-1]
        if prompt:
            prompt.pop()
    else:
        value = {"nan": float("nan"), "infinite": float("-inf"), "positive": 0.5, "null": None}[fault]
        if found.get("token_logprobs"):
            found["token_logprobs"][-1] = value
        if prompt:
            next(iter(prompt[-1].values()))["logprob"] = value
    return answer


def handler(server: Server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):  # noqa: N802
            if self.path == "/v1/models" and server.models is not None:
                self.reply({"object": "list", "data": server.models})
            else:
                self.reply({"error": {"message": "Not Found"}}, 404)

        def do_POST(self):  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.requests.append(body)
                server.keys.append(self.headers.get("Authorization"))
                server.headers.append(str(self.headers))
                n = len(server.requests)
                server.busy += 1
                server.busiest = max(server.busiest, server.busy)
            fault = server.fault(body, n)
            answer, status = self.answer(body, fault)
            with server.lock:  # before the reply, after which the client may ask again
                server.busy -= 1
            self.reply(answer, status, cut=fault == "cut", text="<html>" if fault == "not json" else None)

        def answer(self, body: dict, fault: str | None) -> tuple[dict, int]:
            kinds = {"/v1/completions": server.completion, "/v1/chat/completions": server.chat}
            if fault in ("429", "500", "503"):
                return {"error": {"message": "busy"}}, int(fault)
            if fault == "slow":
                server.over.wait(20)
            if self.path not in kinds:
                return {"error": {"message": "Not Found"}}, 404
            if body.get("model") not in [m["id"] for m in server.models or [{"id": NAME}]]:
                return {"error": {"message": f"The model `{body.get('model')}` does not exist."}}, 404
            try:
                with server.lm.turn:
                    answer = kinds[self.path](body)
            except RefusedError as error:
                return {"object": "error", "error": {"message": str(error), "code": error.status}}, error.status
            whole = fault not in FAULTS or fault in ("cut", "slow", "not json")
            return answer if whole else broken(answer, fault), 200

        def reply(self, answer: dict, status: int = 200, cut: bool = False, text: str | None = None):
            body = (json.dumps(answer) if text is None else text).encode()
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has given up
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if status in (429, 500, 503):
                    self.send_header("Retry-After-Ms" if status != 429 else "Retry-After", "1" if status != 429 else "0.02")
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


@contextmanager
def listening(server: Server, port: int = 0):
    """The server, listening on a port until the end of the block."""
    with listening_on(handler(server), server.over, port) as server.port:
        yield server


@contextmanager
def serving(folder: str, dialect: set[str] = VLLM):
    """A server of the model in a folder."""
    with listening(Server(folder, dialect)) as server:
        yield server


if __name__ == "__main__":
    torch.set_num_threads(1)
    with listening(Server(sys.argv[1]), int(sys.argv[2])) as running:
        print(running.url, flush=True)
        while True:
            time.sleep(3600)
