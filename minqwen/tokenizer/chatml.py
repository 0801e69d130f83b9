"""ChatML: messages to ids, and which of them are trained on; and ids back to messages.

    turn  =  <|im_start|> role \\n content <|im_end|> \\n         chat  =  turn turn turn ...

An answer is asked for with <|im_start|> assistant \\n. The model writes the content and stops with
<|im_end|>; so these two are what it must learn, and the rest is given to it:

                                       <|im_start|>  role \\n   content   <|im_end|>   \\n
    train_on="answers"                 .             .         .         .            .       user
                                       .             .         trained   trained      .       answer
    train_on="answers_and_markers"     trained       .         .         trained      trained user
                                       trained       .         trained   trained      trained answer

The first is the rule of the report. The second is what the released finetune.py does: it also
learns the marks of every turn, those of the system and the user too, and the line end after it.

Of an answer in which a tool spoke (`given`, see messages.py) a token is trained that holds nothing
of what the tool said.

Control tokens come from here only. A content that spells "<|im_end|>" is encoded as these ten
letters, so nobody can close a turn and speak as another by typing.

Paper:    Qwen Technical Report, 3.1.1 Data: ChatML; 3.1.2 Training: loss masks on the system and
          the user. It says nothing of markers.
Origin:   ChatML of OpenAI; finetune.py, make_context and the chat templates of the Qwen releases.
Differs:  finetune.py and the chat templates parse control tokens in a content. finetune.py drops a
          first message that is not the user's; here it is written, as the templates do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from ..messages import ROLES, Message
from .bpe import Tokenizer
from .chat_templates import MARKS, Part, Template, Turn, choose_template, lay_out, read_tools
from .pretokenizer import clean
from .special_tokens import IM_END, IM_START, find_any

TRAIN_ON = ("answers", "answers_and_markers")


class Chat(NamedTuple):
    ids: list[int]
    loss_mask: list[bool]  # True = this token is a label, where the one before it is the input


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    template: str | Template = "qwen2",
    train_on: str = "answers",
    generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Chat:
    """Turn a chat into ids.

    Args:
        tokenizer: has the control tokens <|im_start|> and <|im_end|>.
        messages: see `messages.py`. Whoever may begin, and a later system message is a turn like
            others. An empty content is an empty turn; of an empty answer <|im_end|> is trained.
        template: a name in TEMPLATES, or one of your own.
        train_on: "answers" or "answers_and_markers", see above.
        generation_prompt: end with the beginning of an answer, of which nothing is trained.
        tools: descriptions of tools for the system turn; qwen2.5 has a form for them.

    Returns:
        The ids and the loss mask, equally long. All turns are closed, the last one too. A token
        that holds the line end before the content and a part of it is not trained.

    Raises:
        TypeError: a message is not what it must be.
        ValueError: neither; or a name, role or field is not known, an answer is asked for after an
            answer, or the tokenizer lacks a control token.

    >>> from minqwen.tokenizer.bpe import bpe_train
    >>> tokenizer = bpe_train("", merges=0)  # a byte is its id; <|im_start|> is 257
    >>> messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    >>> ids, loss_mask = encode_chat(tokenizer, messages, template=Template(system=None))
    >>> ids[:9]
    [257, 117, 115, 101, 114, 10, 97, 258, 10]
    >>> [i for i, trained in zip(ids, loss_mask) if trained]
    [98, 258]
    """
    template = choose_template(template)
    if train_on not in TRAIN_ON:
        raise ValueError(f"train_on must be one of {', '.join(TRAIN_ON)}, got {train_on!r}")
    turns = lay_out(messages, template, tools)
    if generation_prompt and messages[-1]["role"] == "assistant":
        raise ValueError("generation_prompt asks for an answer, the last message is one already")
    start, end = _control_ids(tokenizer)
    newline = tokenizer.encode("\n")
    markers = train_on == "answers_and_markers"

    ids: list[int] = []
    loss_mask: list[bool] = []
    for turn in turns:
        text, header = _encode_turn(tokenizer, turn, template.in_one)
        answer = turn.role == "assistant"
        ids += [start, *text, end, *newline]
        loss_mask += [markers] + [False] * header + _written(tokenizer, turn, text, header)
        loss_mask += [answer or markers] + [markers] * len(newline)
    if generation_prompt:
        text, _ = _encode_turn(tokenizer, Turn("assistant", []), template.in_one)
        ids += [start, *text]
        loss_mask += [False] * (1 + len(text))
    return Chat(ids, loss_mask)


def _encode_turn(tokenizer: Tokenizer, turn: Turn, in_one: bool) -> tuple[list[int], int]:
    """Return the ids between the control tokens, and how many hold something of the header."""
    header = f"{turn.role}\n"
    if not in_one:
        before = tokenizer.encode(turn.role) + tokenizer.encode("\n")
        return before + _encode_parts(tokenizer, turn.parts), len(before)
    ids = _encode_parts(tokenizer, [Part(header), *turn.parts])
    n, bytes_ = 0, 0
    while bytes_ < len(header):
        bytes_ += len(tokenizer.token_bytes(ids[n]))
        n += 1
    return ids, n


def _written(tokenizer: Tokenizer, turn: Turn, ids: list[int], header: int) -> list[bool]:
    """Return which tokens after the header hold only what the model wrote."""
    written = [turn.role == "assistant"] * (len(ids) - header)
    if not any(part.given for part in turn.parts):
        return written
    given = b"".join(
        bytes([part.given]) * len(clean(part.text, tokenizer.normalize).encode())
        for part in turn.parts
    )
    at = sum(len(tokenizer.token_bytes(i)) for i in ids[:header]) - len(f"{turn.role}\n".encode())
    for i, token in enumerate(ids[header:]):
        size = len(tokenizer.token_bytes(token))
        written[i] = written[i] and not any(given[at : at + size])
        at += size
    return written


def _encode_parts(tokenizer: Tokenizer, parts: Iterable[Part]) -> list[int]:
    """Encode joined text; the marks of the template become control tokens where there are such."""
    known = MARKS.intersection(tokenizer.special_tokens)
    ids: list[int] = []
    text = ""
    for part in parts:
        pieces = find_any(known).split(part.text) if known and part.ours else [part.text]
        for i, piece in enumerate(pieces):
            if i % 2 == 0:
                text += piece
                continue
            ids += tokenizer.encode(text, disallowed_special=())
            ids.append(tokenizer.special_tokens[piece])
            text = ""
    return ids + tokenizer.encode(text, disallowed_special=())


def decode_chat(
    tokenizer: Tokenizer, ids: Iterable[int], *, tools: bool = False
) -> list[dict[str, Any]]:
    """Turn ids back into messages; strict, so that what is no chat is not taken for one.

    Args:
        tokenizer: that made the ids.
        ids: whole turns; the line end after the last may be missing. The last may be an answer
            that was cut off before its <|im_end|>.
        tools: find calls and results of tools in the text, see `read_tools`. Only for text that
            you trust: a user can type what a result looks like.

    Returns:
        A message for each turn, the system turn included, as it is written: text is NFC, bytes
        that are no UTF-8 are U+FFFD. An answer that was cut off has the field "cut_off": True.

    Raises:
        ValueError: the ids are no such turns; the message says at which token.

    >>> from minqwen.tokenizer.bpe import bpe_train
    >>> tokenizer = bpe_train("", merges=0)
    >>> decode_chat(tokenizer, [257, *b"user\\nHi", 258, 10, 257, *b"assistant\\nHel"])
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hel', 'cut_off': True}]
    """
    start, end = _control_ids(tokenizer)
    control = set(tokenizer.special_tokens.values())
    control -= {tokenizer.special_tokens[name] for name in MARKS & tokenizer.special_tokens.keys()}
    ids = [index(i) for i in ids]
    newline = tokenizer.encode("\n")
    if not ids:
        raise ValueError("there are no ids, a chat has at least one turn")

    messages: list[dict[str, Any]] = []
    at = 0
    while at < len(ids):
        if ids[at] != start:
            raise ValueError(f"token {at} is {_shown(tokenizer, ids[at])}, expected {IM_START!r}")
        stop = next((i for i in range(at + 1, len(ids)) if ids[i] in control), len(ids))
        cut_off = stop == len(ids)
        if not cut_off and ids[stop] != end:
            found = _shown(tokenizer, ids[stop])
            raise ValueError(f"token {stop} is {found}, inside the turn that begins at token {at}")
        role, line_end, content = tokenizer.decode(ids[at + 1 : stop]).partition("\n")
        if not line_end or role not in ROLES:
            raise ValueError(
                f"token {at} begins a turn with {role[:40]!r}, expected one of {', '.join(ROLES)} "
                f"and a line end"
            )
        if cut_off and role != "assistant":
            raise ValueError(f"token {at} begins a turn of the {role} without {IM_END!r}")
        message: dict[str, Any] = {"role": role, "content": content}
        if cut_off:
            message["cut_off"] = True
        messages += read_tools(message) if tools else [message]
        at = stop + 1
        if at < len(ids):
            if ids[at : at + len(newline)] != newline:
                found = _shown(tokenizer, ids[at])
                raise ValueError(f"token {at} is {found}, expected a line end after {IM_END!r}")
            at += len(newline)
    return messages


def _control_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    for name in (IM_START, IM_END):
        if name not in tokenizer.special_tokens:
            raise ValueError(f"the tokenizer has no control token {name!r}, a chat cannot be told")
    return tokenizer.special_tokens[IM_START], tokenizer.special_tokens[IM_END]


def _shown(tokenizer: Tokenizer, token_id: int) -> str:
    return f"{token_id} ({tokenizer.decode([token_id])!r})"
