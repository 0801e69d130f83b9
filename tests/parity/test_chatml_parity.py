"""ChatML against what was published: ids, labels and texts, with Qwen's own vocabulary where it is.

Three oracles, none of them our code:

- golden ids and labels that finetune.py and make_context of the Qwen release gave;
- hashes of what the published chat templates of Qwen1.5, Qwen2 and Qwen2.5 render;
- transformers: it renders templates written again here and cuts the text with `tokenizers`.
"""

import hashlib
import random
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")
pytest.importorskip("jinja2")

from minqwen.tokenizer.bpe import Tokenizer, bpe_train  # noqa: E402
from minqwen.tokenizer.chatml import decode_chat, encode_chat  # noqa: E402

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}


def qwen_file():
    spec = find_spec("dashscope")
    folders = (spec and spec.submodule_search_locations) or ()
    files = (Path(folder) / "resources" / "qwen.tiktoken" for folder in folders)
    return next((file for file in files if file.is_file()), None)


@pytest.fixture(scope="module")
def qwen():
    if (file := qwen_file()) is None:
        pytest.skip("needs qwen.tiktoken, which the package dashscope brings along")
    return Tokenizer.from_pretrained(file)


HELLO = [
    151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198,
    151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198, 9707, 0, 151645, 198,
]  # fmt: skip


@pytest.mark.parametrize("template", ["qwen", "qwen2"])
def test_golden_ids_and_labels_of_finetune(qwen, template):
    chat = encode_chat(qwen, [USER, ANSWER], template=template, train_on="answers_and_markers")
    assert chat.ids == HELLO
    assert [i if trained else -100 for i, trained in zip(*chat, strict=True)] == [
        151644, *[-100] * 8, 151645, 198,
        151644, *[-100] * 3, 151645, 198,
        151644, -100, -100, 9707, 0, 151645, 198,
    ]  # fmt: skip


def test_golden_labels_of_the_report(qwen):
    chat = encode_chat(qwen, [USER, ANSWER])
    assert chat.ids == HELLO
    assert [t for t, trained in enumerate(chat.loss_mask) if trained] == [20, 21, 22]


@pytest.mark.parametrize("template", ["qwen", "qwen2"])
def test_golden_ids_of_make_context(qwen, template):
    history = [USER, ANSWER, {"role": "user", "content": "1+1?"}]
    chat = encode_chat(qwen, history, template=template, generation_prompt=True)
    assert chat.ids == [
        *HELLO, 151644, 872, 198, 16, 10, 16, 30, 151645, 198, 151644, 77091, 198,
    ]  # fmt: skip
    assert chat.ids[:24] == encode_chat(qwen, [USER, ANSWER], train_on="answers_and_markers").ids


def test_the_seam_in_the_real_vocabulary(qwen):
    """Two line ends are one token, 271; finetune.py cuts the content by itself."""
    messages = [{"role": "user", "content": "\nHi"}]
    apart, one = (encode_chat(qwen, messages, template=t).ids for t in ("qwen", "qwen2"))
    assert apart[-7:] == [151644, 872, 198, 198, 13048, 151645, 198]
    assert one[-6:] == [151644, 872, 271, 13048, 151645, 198]


CALL = {"name": "时间", "arguments": {"ort": "北京", "n": [1, 2.5, None, True], "q": '"\n'}}
TOOLS = [{"type": "function", "function": {"name": "时间", "parameters": {"ort": {"type": "é"}}}}]
SYSTEM = {"role": "system", "content": "Be brief.\n"}
CHATS = {
    "plain": [USER],
    "system": [SYSTEM, USER, ANSWER, USER],
    "empty": [{"role": "system", "content": ""}, {"role": "user", "content": ""}, ANSWER, USER],
    "any order": [ANSWER, USER, SYSTEM, USER],
    "tools": [
        USER,
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, {"function": CALL}]},
        {"role": "tool", "content": "12:30"},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "7"},
    ],
}
# sha256 of what the published templates render, each chat followed by a generation prompt
PUBLISHED = {
    ("plain", "qwen1.5", False): "e8adce8853b986d752928590eaebde30b036d32f99d2ff45014a71abf074f6e8",
    ("plain", "qwen2", False): "f9dc05de0453f4eeed979e2a1efdb6dc5f7a11ee08a7a070d668b263287f2c2d",
    ("plain", "qwen2.5", False): "6b346a2707372aa49660f12ffb71876dc3ee9c0f7037911f98b88fddc4330e54",
    (
        "system",
        "qwen1.5",
        False,
    ): "0301e570f226a35f2eae66f5964a2d7e6386462a42d09e623cb59eb83b09b107",
    ("system", "qwen2", False): "0301e570f226a35f2eae66f5964a2d7e6386462a42d09e623cb59eb83b09b107",
    (
        "system",
        "qwen2.5",
        False,
    ): "0301e570f226a35f2eae66f5964a2d7e6386462a42d09e623cb59eb83b09b107",
    ("system", "qwen2.5", True): "96262a0d46267e036d4b6a5da776b6e76184041487f68d7ddb0d0846e62d5e4a",
    ("empty", "qwen1.5", False): "906c1f5a04422b2608844d8fc8bbc088128aac5b0d0ff27c277081002939e8b9",
    ("empty", "qwen2", False): "906c1f5a04422b2608844d8fc8bbc088128aac5b0d0ff27c277081002939e8b9",
    ("empty", "qwen2.5", False): "906c1f5a04422b2608844d8fc8bbc088128aac5b0d0ff27c277081002939e8b9",
    (
        "any order",
        "qwen1.5",
        False,
    ): "f2853a8a9496fa004e5f0aa02c1ee8c39b4c34a4ca2757487c01b9f6f9390dc9",
    (
        "any order",
        "qwen2",
        False,
    ): "aea3e8bc6b15f6c668311655b6c5a892d34051e6d1763d211955fe69d8d72772",
    (
        "any order",
        "qwen2.5",
        False,
    ): "1a21245d40a9923497eb6e69107e5249e116e3237726c3c8de1db4bb1d48fdc4",
    ("tools", "qwen2.5", False): "1a9c3289ffffd8c2605b2dc2caab154a070e6faf1f9c255a89d25477e9c16da2",
    ("tools", "qwen2.5", True): "27859d79231c8fcdf2a814e3efb7a10adf27f633a07857c4118efd117d3ae7e8",
}


@pytest.mark.parametrize(("name", "template", "tools"), PUBLISHED)
def test_the_text_is_that_of_the_published_template(name, template, tools):
    tokenizer = bpe_train("", merges=0)
    options = {"template": template, "tools": TOOLS if tools else None}
    ids = encode_chat(tokenizer, CHATS[name], generation_prompt=True, **options).ids
    digest = hashlib.sha256(tokenizer.decode(ids).encode()).hexdigest()
    assert digest == PUBLISHED[name, template, tools]


# The same turns in the language of transformers: what Qwen2.5 does, with a system text of choice.
JINJA = """
{%- macro turn(role, body) -%}
<|im_start|>{{ role }}{{ '\\n' }}{{ body }}<|im_end|>{{ '\\n' }}
{%- endmacro -%}
{%- if messages[0].role != 'system' %}{{ turn('system', system) }}{% endif -%}
{%- set run = namespace(results=[]) -%}
{%- for m in messages -%}
    {%- if m.role == 'tool' -%}
        {%- set result = ['<tool_response>', m.content, '</tool_response>'] | join('\\n') -%}
        {%- set run.results = run.results + [result] -%}
        {%- if loop.last or loop.nextitem.role != 'tool' -%}
            {{ turn('user', run.results | join('\\n')) }}{%- set run.results = [] -%}
        {%- endif -%}
    {%- elif m.tool_calls -%}
        {%- set lines = namespace(all=[m.content] if m.content else []) -%}
        {%- for c in m.tool_calls -%}
            {%- set body = '"name": ' ~ (c.name | tojson) -%}
            {%- set body = '{' ~ body ~ ', "arguments": ' ~ (c.arguments | tojson) ~ '}' -%}
            {%- set lines.all = lines.all + ['<tool_call>', body, '</tool_call>'] -%}
        {%- endfor -%}
        {{ turn(m.role, lines.all | join('\\n')) }}
    {%- else -%}
        {{ turn(m.role, m.content) }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
SYSTEMS = {
    "qwen1.5": "You are a helpful assistant",
    "qwen2": "You are a helpful assistant.",
    "qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
}


@pytest.fixture(scope="module", params=["qwen", "qwen with marks", "trained"])
def both(request, tmp_path_factory):
    """Our tokenizer, and the same in transformers."""
    if request.param == "trained":
        ours = bpe_train(["user\n\nassistant\n\n  \n Hi there, 世界!\n\n"] * 3, merges=20)
    else:
        ours = request.getfixturevalue("qwen")
    if request.param == "qwen with marks":  # as the vocabulary of Qwen2.5 has
        marks = {"<tool_call>": 151646, "</tool_call>": 151647}
        ours = Tokenizer(ours.ranks, ours.special_tokens | marks)
    file = ours.save_pretrained(tmp_path_factory.mktemp("t"))
    return ours, transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))


def random_chat(rng, tools):
    words = [
        "Hi",
        "\n",
        "\n\n",
        " ",
        "  there",
        "世界",
        "e\u0301",
        "!",
        "\r\n",
        "\t",
        "7",
        "{}",
        "'s",
    ]
    messages = []
    roles = ["user", "assistant", *(["tool", "assistant"] if tools else [])]
    for _ in range(rng.randrange(1, 6)):
        text = "".join(rng.choice(words) for _ in range(rng.randrange(6)))
        message = {"role": rng.choice(roles), "content": text}
        if tools and message["role"] == "assistant" and rng.random() < 0.6:
            calls = [{"name": "f", "arguments": {"a": text}}] * rng.randrange(1, 3)
            message["tool_calls"] = calls
        messages.append(message)
    return messages


@pytest.mark.parametrize("template", SYSTEMS)
def test_ids_are_those_of_transformers(both, template):
    ours, theirs = both
    rng = random.Random(3)
    for _ in range(150):
        messages = random_chat(rng, tools=template == "qwen2.5")
        prompt = messages[-1]["role"] != "assistant"
        want = theirs.apply_chat_template(
            messages,
            chat_template=JINJA,
            system=SYSTEMS[template],
            add_generation_prompt=prompt,
            return_dict=False,
        )
        chat = encode_chat(ours, messages, template=template, generation_prompt=prompt)
        assert chat.ids == want
        if not prompt:
            assert decode_chat(ours, chat.ids)[-1]["role"] == "assistant"
