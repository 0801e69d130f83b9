"""The client against a small server of our own, which answers as real ones do, or not at all."""

import contextlib
import functools
import gzip
import http.server
import json
import socket
import threading
import traceback

import pytest

pytest.importorskip("openai")

from minqwen.agent.openai_server import openai_generate
from minqwen.agent.react import make_prompt, run_react
from minqwen.agent.tool import Tool

USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
WRITTEN = 'Thought: A clock.\nAction: now\nAction Input: {"zone": "根"}\nObservation: 9:00'
PATHS = {"/v1/chat/completions": "chat.completion", "/v1/completions": "text_completion"}


class Server(http.server.ThreadingHTTPServer):
    """Writes `text`, cut at the request's stop strings; or sends what `broken` holds."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.release = threading.Event()
        self.begin()

    def begin(self):
        self.requests, self.text, self.broken, self.cuts = [], WRITTEN, None, True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, path, request):
        text, finish = self.text, "length"
        for stop in request.get("stop", []):
            if self.cuts and stop in text:
                text, finish = text[: text.index(stop)], "stop"
        choice = {"index": 0, "logprobs": None, "finish_reason": finish}
        if path == "/v1/chat/completions":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return {
            "id": "cmpl-1",
            "object": PATHS[path],
            "created": 1764460800,
            "model": request["model"],
            "choices": [choice],
            "usage": USAGE,
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, json.loads(body), self.headers))
        status, kind, data, *packed = 200, "application/json", None
        if self.server.broken == "silent":
            self.server.release.wait(10)
            return
        if self.server.broken in ("drips", "endless"):
            piece, pause = (b" ", 0.02) if self.server.broken == "drips" else (b" " * 2**20, 0.0)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.close_connection = True
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(piece)
                    self.server.release.wait(pause)
            return
        if self.server.broken is not None:
            status, kind, data, *packed = self.server.broken
        elif self.path not in PATHS:
            status, data = 404, json.dumps({"error": {"message": "no such path"}})
        else:
            data = json.dumps(self.server.answer(self.path, json.loads(body)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            data = data.encode() if isinstance(data, str) else data
            self.send_header("Content-Length", str(len(data)))
            if packed:
                self.send_header("Content-Encoding", packed[0])
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def started():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        server = Server()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(started):
    started.begin()
    return started


@functools.cache  # to make a client takes longer than to ask it
def cached_writer(url, chat=True):
    return openai_generate(url, "m", chat=chat, max_retries=0, timeout=5.0)


def writer(server, **options):
    if options.keys() <= {"chat"}:
        return cached_writer(server.url, **options)
    return openai_generate(server.url, "m", **{"max_retries": 0, "timeout": 5.0} | options)


@pytest.mark.parametrize("chat", [True, False])
def test_a_request_and_its_answer(server, chat):
    text = writer(server, chat=chat, max_tokens=7, seed=3, top_p=0.5)("根?\n")
    assert text == WRITTEN[: WRITTEN.index("Observation:")]
    ((path, request, headers),) = server.requests
    assert path == ("/v1/chat/completions" if chat else "/v1/completions")
    said = {"messages": [{"role": "user", "content": "根?"}]} if chat else {"prompt": "根?\n"}
    assert request == said | {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["Observation:"],
    }
    assert headers["Authorization"] == "Bearer none"


def test_no_key_of_another_server_is_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    writer(server)("?")
    writer(server, api_key="mine")("?")
    keys = [headers["Authorization"] for _, _, headers in server.requests]
    assert keys == ["Bearer none", "Bearer mine"]


def test_a_server_that_leaves_the_stop_string_in(server):
    server.cuts = False
    assert writer(server)("?") == WRITTEN[: WRITTEN.index("Observation:")]
    assert writer(server, stop=())("?") == WRITTEN
    assert "stop" not in server.requests[-1][1]
    assert writer(server, stop=["Observation:", "Action:"])("?") == "Thought: A clock.\n"


def test_a_begun_answer(server):
    prompt = make_prompt("How late?", "Thought: A clock.\nObservation: 9:00\nThought:")
    writer(server, system="Be brief.")(prompt)
    writer(server, system="Be brief.", continue_answer=True, extra_body={"top_k": 1})(prompt)
    writer(server, continue_answer=True)(make_prompt("How late?", ""))
    (_, whole, _), (_, split, _), (_, fresh, _) = server.requests
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user"}
    assert whole["messages"] == [system, user | {"content": str(prompt)}]
    assert split["messages"] == [
        system,
        user | {"content": "How late?"},
        {"role": "assistant", "content": prompt[prompt.answer_begins :]},
    ]
    assert (split["continue_final_message"], split["add_generation_prompt"]) == (True, False)
    assert split["top_k"] == 1
    assert fresh["messages"] == [user | {"content": "How late?"}]
    assert "continue_final_message" not in whole | fresh


def test_a_run_of_react(server):
    tools = {
        "now": Tool("now", "Clock", "Tells the time.", {"type": "object"}, lambda zone: "12:30")
    }
    generate = writer(server)

    def then_answer(prompt):
        if "Observation: 12:30" in prompt:
            server.text = "I see.\nFinal Answer: 12:30"
        return generate(prompt)

    pytest.importorskip("jsonschema")
    transcript = run_react("How late is it?", tools, then_answer)
    assert transcript.final_answer == "12:30"
    assert [path for path, _, _ in server.requests] == ["/v1/chat/completions"] * 2


def test_no_text_is_an_empty_text(server):
    answer = server.answer("/v1/chat/completions", {"model": "m"})
    answer["choices"][0]["message"]["content"] = None
    server.broken = (200, "application/json", json.dumps(answer))
    assert writer(server)("?") == ""


ERROR = json.dumps({"error": {"message": "out of memory", "type": "server_error", "code": 500}})


@pytest.mark.parametrize(
    ("status", "kind", "body", "message"),
    [
        (500, "application/json", ERROR, "answered 500: .*out of memory"),
        (401, "application/json", ERROR.replace("out of memory", "bad key"), "answered 401: .*key"),
        (404, "text/plain", "not here", "answered 404: not here"),
        (502, "text/html", "<html>Bad Gateway</html>" * 99, "answered 502: .{1,300}$"),
        (200, "application/json", '{"choices": [', "answered something else than a text"),
        (200, "text/html", "<html>Welcome</html>", "something else than a text: .*no choices.*Wel"),
        (200, "application/json", '{"object": "x"}', "something else than a text: .*no choices"),
        (200, "application/json", '{"choices": []}', "something else than a text: .*no choices"),
        (200, "application/json", "[]", "something else than a text"),
        (200, "application/json", '"hi"', "something else than a text"),
        (200, "application/json", "null", "something else than a text"),
        (200, "application/json", '{"choices": [{}]}', "something else .* no text"),
        (
            200,
            "application/json",
            '{"choices": [{"message": {"content": 3}, "text": 3}]}',
            "no text",
        ),
        (200, "application/json", '{"choices": [{"message": 3, "text": {}}]}', "no text"),
        (200, "application/json", '{"choices": [3]}', "no text"),
        (200, "application/json", '{"choices": {"a": 1}}', "something else"),
        (200, "application/json", "[" * 10**5, "something else"),
    ],
)
@pytest.mark.parametrize("chat", [True, False])
def test_what_a_server_says_wrong(server, status, kind, body, message, chat):
    server.broken = (status, kind, body)
    with pytest.raises(RuntimeError, match=f"^{server.url} .*{message}"):
        writer(server, chat=chat)("?")
    assert len(server.requests) == 1


def test_it_tries_again(server):
    server.broken = (500, "application/json", ERROR)
    with pytest.raises(RuntimeError, match="answered 500"):
        writer(server, max_retries=1)("?")
    assert len(server.requests) == 2


def test_a_server_that_is_silent(server):
    server.broken = "silent"
    with pytest.raises(TimeoutError, match=f"{server.url} gave no answer within 0.05 seconds"):
        writer(server, timeout=0.05)("?")


def test_an_answer_that_drips(server):
    """Each piece comes in time, the whole never does."""
    server.broken = "drips"
    with pytest.raises(TimeoutError, match=r"gave no answer within 0\.2 seconds"):
        writer(server, timeout=0.2)("?")


def test_an_answer_that_does_not_end(server, monkeypatch):
    monkeypatch.setattr("minqwen.agent.openai_server.LARGEST", 2**21)
    server.broken = "endless"
    with pytest.raises(RuntimeError, match="something else than a text: over 2097152 bytes"):
        writer(server)("?")


def test_an_answer_that_unpacks_to_much_is_not_unpacked(server):
    """A bound on what comes bounds nothing if it unpacks to a thousand times as much."""
    server.broken = (200, "application/json", gzip.compress(b" " * 2**20), "gzip")
    with pytest.raises(RuntimeError, match="something else than a text: it is compressed"):
        writer(server)("?")
    assert server.requests[0][2]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("before", [0, 270], ids=["at the beginning", "over the border"])
def test_a_key_that_a_server_repeats_is_not_shown(server, before):
    key = "-".join(("k", "secret"))  # else a traceback shows it, from here
    error = json.dumps({"error": "x" * before + " no such key: " + key})
    server.broken = (401, "application/json", error)
    with pytest.raises(RuntimeError, match="answered 401") as raised:
        writer(server, api_key=key)("?")
    assert server.requests[0][2]["Authorization"] == f"Bearer {key}"
    assert key[:3] not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("key", ["k-secret\n", "k-secret ", "k-secret\nHost: x", "k-secret密"])
def test_a_key_that_is_no_header_is_refused_and_not_shown(key):
    with pytest.raises(ValueError, match=r"^api_key holds a line end") as raised:
        openai_generate("http://localhost/v1", "m", key)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://a/v1", "http://", "http://[::1", "http://a:99999"]
)
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match="must be like http://localhost:8000/v1, got"):
        openai_generate(url, "m")


def test_a_call_in_a_field_of_its_own_is_no_empty_text(server):
    answer = server.answer("/v1/chat/completions", {"model": "m"})
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    answer["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    server.broken = (200, "application/json", json.dumps(answer))
    with pytest.raises(RuntimeError, match="calls a tool in a field of its own"):
        writer(server)("?")


def test_half_a_character_can_be_encoded(server):
    server.text = "\ud800x"
    assert writer(server)("?") == "?x"


def test_no_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    with pytest.raises(ConnectionError, match=f"^{url} cannot be reached: .*refused"):
        openai_generate(url, "m", max_retries=0, timeout=5.0)("?")


def test_wrong_options():
    with pytest.raises(TypeError, match="stop must be a list of strings"):
        openai_generate("http://localhost/v1", "m", stop="Observation:")
    with pytest.raises(ValueError, match="continue_answer and system are for chats"):
        openai_generate("http://localhost/v1", "m", chat=False, system="Hi.")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ImportError, match="openai is missing: pip install"):
        openai_generate("http://localhost/v1", "m")
