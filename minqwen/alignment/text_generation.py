"""A trained model as one function: text in, text out, and it stops at a word.

    generate = text_generator(params, config, tokenizer, stop=["Observation:"])
    generate("Question: 2 + 2?\\n")  ->  "Thought: ...\\nAction Input: {...}\\n"

Tokens come one at a time; they become text as they come (tokenizer/stream_decoder.py), and the text
is searched for the stop strings (tokenizer/stop_strings.py). So it ends with the token that
completes one, whatever tokens that word is made of: both rows of ids that the Qwen release lists
for "Observation:", with the line end in the last token and without, and any other.

It also ends at the control tokens <|endoftext|>, <|im_end|> and <|im_start|>.

As a chat, the prompt is a turn of the user and the text the answer. A prompt may say that the
answer has begun in it (`answer_begins`, see agent/react.py): then that part opens the answer, and
the tokens are those of a chat that fine-tuning saw. Control tokens that a prompt spells are text,
in a chat and without: a tool's output cannot close a turn.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   text_completion in react_demo.py of the Qwen release, which leaves the answer open too.
Differs:  text is searched for stop strings, not ids; control tokens in a prompt are text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..model.config import QwenConfig
from ..model.generate import generate
from ..params import Params
from ..tokenizer.bpe import Tokenizer
from ..tokenizer.chat_templates import Template
from ..tokenizer.chatml import encode_chat
from ..tokenizer.special_tokens import ENDOFTEXT, IM_END, IM_START
from ..tokenizer.stop_strings import StopStrings, require_stops


def text_generator(
    params: Params,
    config: QwenConfig,
    tokenizer: Tokenizer,
    *,
    stop: Sequence[str] = ("Observation:",),
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
    chat: bool = False,
    template: str | Template = "qwen2",
    on_text: Callable[[str], None] | None = None,
) -> Callable[[str], str]:
    """Return a function that continues a text.

    Args:
        params: of the model, on any device.
        config: its sizes.
        tokenizer: that it was trained with.
        stop: strings before which the text ends; () for none.
        max_new_tokens: the most tokens of a continuation, 1 or more.
        temperature, top_k, top_p: see model/generate.py; temperature 0 takes the best token.
        rng: needed when temperature > 0; it goes on from call to call.
        chat: the prompt is what a user says.
        template: of the chat.
        on_text: is called with each piece of text that is certain, as it comes.

    Returns:
        A function from a prompt to the text after it, without the stop string.

    Raises:
        TypeError, ValueError: stop or max_new_tokens is wrong. The function that is returned raises
            ValueError as model/generate.py does, when it is called.

    >>> from minqwen.model.init import init_params
    >>> from minqwen.tokenizer.bpe import bpe_train
    >>> tokenizer = bpe_train("", merges=0)
    >>> config = QwenConfig(tokenizer.vocab_size, 8, 8, 1, 2, 1)
    >>> params = init_params(config, np.random.default_rng(0))
    >>> write = text_generator(params, config, tokenizer, max_new_tokens=3)
    >>> write("Hi") == write("Hi")
    True
    """
    stop = require_stops(stop)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    names = (ENDOFTEXT, IM_END, IM_START)
    ends = [tokenizer.special_tokens[n] for n in names if n in tokenizer.special_tokens]

    def pieces(prompt: str) -> Iterator[str]:
        ids = _chat_ids(tokenizer, prompt, template) if chat else _text_ids(tokenizer, prompt)
        stops, decoder = StopStrings(stop), tokenizer.stream_decoder()
        steps = generate(
            params,
            config,
            np.array([ids]),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eos_token_ids=ends,
            rng=rng,
            stream=True,
        )
        for step in steps:
            token = int(step[0])
            if token not in ends and token < tokenizer.vocab_size:
                yield stops.push(decoder.push(token))  # a padded row of the embedding has no text
            if stops.stopped is not None:
                return
        yield stops.push(decoder.finish())
        yield stops.finish()

    def write(prompt: str) -> str:
        text = ""
        for piece in pieces(prompt):
            text += piece
            if piece and on_text is not None:
                on_text(piece)
        return text

    return write


def _text_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    ids = tokenizer.encode(prompt, disallowed_special=())
    if not ids:  # nothing to go on: start where a document starts
        if ENDOFTEXT not in tokenizer.special_tokens:
            raise ValueError(f"the prompt is empty, and the tokenizer has no {ENDOFTEXT}")
        ids = [tokenizer.special_tokens[ENDOFTEXT]]
    return ids


def _chat_ids(tokenizer: Tokenizer, prompt: str, template: str | Template) -> list[int]:
    """Encode a chat with an open answer, as if the answer had been written in one go."""
    begins: int = getattr(prompt, "answer_begins", len(prompt))
    question, answer = prompt[:begins].strip("\n").rstrip(), prompt[begins:]
    messages = [{"role": "user", "content": question}]
    if not answer:
        return encode_chat(tokenizer, messages, template=template, generation_prompt=True).ids
    messages.append({"role": "assistant", "content": answer})
    ids = encode_chat(tokenizer, messages, template=template).ids
    end = tokenizer.special_tokens[IM_END]
    return ids[: len(ids) - 1 - ids[::-1].index(end)]
