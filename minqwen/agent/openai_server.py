"""A model behind a server that speaks OpenAI's language, as one function: text in, text out.

    generate = openai_generate("http://localhost:8000/v1", "Qwen2-7B-Instruct")
    run_react("What is 21 times 2?", tools, generate)

vLLM, SGLang, llama.cpp, Ollama and others offer the same two paths:

    /completions         takes a text and continues it: what ReAct wants, with base models too
    /chat/completions    takes messages. The whole text so far is one message of the user, as in
                         the tutorial of the Qwen release; or (continue_answer=True) what the
                         model has written so far is the beginning of its answer, which vLLM and
                         SGLang continue. That is how a chat model was trained, so it is better
                         where it works; OpenAI's own server answers anew.

A server leaves the stop string out of its text. Some do not, or let a part of it through; so the
text is cut here once more, and react_parse.py drops a beginning of it.

A key stands in no message, though some servers repeat the one they refuse. Compressed answers are
refused: 16 KiB may unpack to 16 MiB.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   the API reference of OpenAI; `continue_final_message` and `add_generation_prompt` of vLLM.
Differs:  without a key none is looked for in the environment: it may belong to another server.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..extras import require_extra

NO_KEY = "none"  # the client insists on one; servers without accounts ignore it
LARGEST = 16 * 2**20  # bytes of an answer
SHOWN = 300  # characters of a server's answer in a message


def openai_generate(
    base_url: str,
    model: str,
    api_key: str | None = None,
    *,
    stop: Sequence[str] = ("Observation:",),
    max_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    chat: bool = True,
    continue_answer: bool = False,
    system: str | None = None,
    timeout: float = 60.0,
    max_retries: int = 2,
    extra_body: Mapping[str, Any] | None = None,
) -> Callable[[str], str]:
    """Return a function that lets the server continue a text.

    Args:
        base_url: of the server, with the version: "http://localhost:8000/v1".
        model: its name there.
        api_key: None for a server that asks for none.
        stop: strings before which the text ends; OpenAI allows four.
        max_tokens: the most tokens of an answer.
        temperature, top_p, seed: of the sampling; seed None is not sent.
        chat: /chat/completions, else /completions.
        continue_answer: with chat: what the model has written is the beginning of its answer.
        system: with chat: a message in front.
        timeout: seconds to wait for an answer to begin, and for it to end after that.
        max_retries: further tries after a refused connection, a timeout, 408, 409, 429 or 5xx.
        extra_body: further fields of the request, such as {"top_k": 1}.

    Returns:
        A function from a prompt to the text after it. It raises TimeoutError when the server is
        silent, ConnectionError when there is none, and RuntimeError when it answers with an error
        or with something else than a text.

    Raises:
        ImportError: the package openai is missing.
        TypeError, ValueError: stop is one text, base_url no address, a key no header, or more is
            asked for than goes together.

    >>> openai_generate("http://localhost:8000/v1", "m", chat=False, continue_answer=True)
    Traceback (most recent call last):
    ...
    ValueError: continue_answer and system are for chats, this is chat=False
    """
    if isinstance(stop, str):
        raise TypeError("stop must be a list of strings, got one str")
    if not chat and (continue_answer or system is not None):
        raise ValueError("continue_answer and system are for chats, this is chat=False")
    place = _place(base_url)
    if api_key and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        raise ValueError("api_key holds a line end, a space at its end or letters beyond ASCII")
    require_extra("openai", extra="agent")
    openai: Any = importlib.import_module("openai")
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
    }
    if stop:
        request["stop"] = list(stop)
    if seed is not None:
        request["seed"] = seed

    connection = _bounded_client(openai, timeout)
    client = openai.OpenAI(
        base_url=base_url,
        api_key=api_key or NO_KEY,
        timeout=timeout,
        max_retries=max_retries,
        http_client=connection,
    )

    def ask(prompt: str) -> str:
        extra = dict(extra_body or {})
        if not chat:
            answer = client.completions.create(prompt=str(prompt), extra_body=extra, **request)
            return _text(answer, "text")
        messages = _messages(prompt, system, continue_answer)
        if messages[-1]["role"] == "assistant":
            extra = {"continue_final_message": True, "add_generation_prompt": False} | extra
        answer = client.chat.completions.create(messages=messages, extra_body=extra, **request)
        return _text(answer, "message")

    def shown(said: object) -> str:
        return (str(said).replace(api_key, "[key]") if api_key else str(said))[:SHOWN]

    def generate(prompt: str) -> str:
        try:
            text = ask(prompt)
        except (openai.APITimeoutError, TimeoutError):  # its own, or that of _bounded_client
            raise TimeoutError(f"{place} gave no answer within {timeout} seconds") from None
        except openai.APIStatusError as error:
            said = shown(error.response.text)
            raise RuntimeError(f"{place} answered {error.status_code}: {said}") from None
        except openai.APIConnectionError as error:
            raise ConnectionError(f"{place} cannot be reached: {shown(error.__cause__)}") from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:  # no JSON, or another one
            said = shown(error)
            raise RuntimeError(f"{place} answered something else than a text: {said}") from None
        text = text.encode("utf-8", "replace").decode("utf-8")  # halves of characters
        found = [at for word in stop if (at := text.find(word)) >= 0]
        return text[: min(found, default=len(text))]

    weakref.finalize(generate, connection.close)
    return generate


def _place(base_url: str) -> str:
    """Return the address of a server as it may be shown: without a name and password in it.

    >>> _place("http://me:secret@localhost:8000/v1")
    'http://localhost:8000/v1'
    """
    with contextlib.suppress(ValueError):  # of a port, or [ ]
        parts = urlsplit(base_url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    address = base_url.rpartition("@")[2]
    raise ValueError(f"the server must be like http://localhost:8000/v1, got {address!r:.80}")


def _bounded_client(openai: Any, timeout: float) -> Any:
    """Make the client's connection one that gives up on an answer that drips, or never ends.

    Its own limit is on the time between two pieces.
    """

    def pieces(response: Any, stream: Iterable[bytes], deadline: float) -> Iterator[bytes]:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ValueError("it is compressed, which was not asked for")
        size = 0
        for piece in stream:
            size += len(piece)
            if time.monotonic() > deadline or size > LARGEST:
                response.close()
                raise ValueError(f"over {LARGEST} bytes") if size > LARGEST else TimeoutError
            yield piece

    def bound(response: Any) -> None:
        stream, deadline = response.stream, time.monotonic() + timeout
        kind = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")
        methods = {
            "__iter__": lambda self: pieces(response, stream, deadline),
            "close": lambda self: stream.close(),
        }
        response.stream = type("Bounded", (kind,), methods)()  # httpx looks at its kind

    return openai.DefaultHttpxClient(
        timeout=timeout,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [bound]},
    )


def _messages(prompt: str, system: str | None, continue_answer: bool) -> list[dict[str, str]]:
    begins: int = getattr(prompt, "answer_begins", len(prompt))
    question, answer = (prompt[:begins], prompt[begins:]) if continue_answer else (str(prompt), "")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": question.strip("\n").rstrip()})
    if answer:
        messages.append({"role": "assistant", "content": answer})
    return messages


def _text(answer: Any, field: str) -> str:
    """Take the text out of an answer; the client does not check what it holds."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"it has no choices: {answer!r}")
    text = getattr(choices[0], field, None)
    if field == "message":
        if getattr(text, "tool_calls", None) and not getattr(text, "content", None):
            raise ValueError("it calls a tool in a field of its own: let the server parse none")
        text = getattr(text, "content", 0)
        text = "" if text is None else text  # as when it stops at once
    if not isinstance(text, str):
        raise ValueError(f"its first choice holds no text: {choices[0]!r}")
    return text
