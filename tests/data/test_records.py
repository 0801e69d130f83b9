"""Files of chats, preferences and prompts: what is fine, and what a bad line says."""

import gzip
import io
import json

import pytest

from minqwen.data.records import (
    read_chats,
    read_chats_or_chat,
    read_preferences,
    read_prompts,
)

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CHAT = json.dumps({"messages": [USER, ANSWER]})


def stream(*lines):
    return io.BytesIO("\n".join(lines).encode("utf-8", "surrogatepass"))


def test_three_kinds(tmp_path):
    path = tmp_path / "chats.jsonl"
    tools = [{"name": "now"}]
    line = {"messages": [USER, ANSWER], "tools": tools, "id": 7, "note": None}
    path.write_text(f"{json.dumps(line)}\n{CHAT}\n", encoding="utf-8")
    first, second = read_chats(path)
    assert first == ([USER, ANSWER], tools, {"id": 7, "note": None}, 1)
    assert second == ([USER, ANSWER], None, {}, 2)
    assert read_chats(str(path)) == [first, second]

    pairs = stream(
        '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5}',
        json.dumps({"prompt": [USER], "chosen": [ANSWER, USER, ANSWER], "rejected": [ANSWER]}),
    )
    text, messages = read_preferences(pairs)
    wrong = {"role": "assistant", "content": "c"}
    assert text == ([USER], [ANSWER], [wrong], None, {"margin": 0.5}, 1)
    assert messages == ([USER], [ANSWER, USER, ANSWER], [ANSWER], None, {}, 2)

    prompts = stream('{"prompt": "a", "answer": "4"}', json.dumps({"prompt": [ANSWER, USER]}))
    text, messages = read_prompts(prompts)
    assert text == ([USER], None, {"answer": "4"}, 1)
    assert messages.prompt == [ANSWER, USER]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_what_is_fine(tmp_path, compress):
    """Byte-order mark, CRLF, blank lines, a lone CR and U+2028, no line end at the end; zipped."""
    odd = CHAT.replace('"b"', '\r"\u2028b\u2029"')
    data = f"\ufeff\r\n{CHAT}\r\n \t\r\n\n{odd}".encode()
    path = tmp_path / "chats"  # the bytes tell, not the name
    path.write_bytes(compress(data))
    records = read_chats(path)
    assert [record.line for record in records] == [2, 5]
    assert records[1].messages[1]["content"] == "\u2028b\u2029"


def test_a_pair_of_surrogates_is_a_character():
    (record,) = read_chats(stream(CHAT.replace('"b"', r'"\ud83d\udc4d"')))
    assert record.messages[1]["content"] == "👍"


def content(text):
    """A chat in which JSON text stands as the content of the first message."""
    return CHAT.replace('"a"', text)


BAD_CHATS = [
    ("{", r"not JSON: .* at character 2"),
    (CHAT + CHAT, "not JSON: Extra data at character"),
    ("[]", r"expected an object, \{...\}, got list"),
    ("null", r"expected an object, \{...\}, got NoneType"),
    ("{}", "the field 'messages' is missing, expected a list of messages"),
    ('{"message": []}', "the field 'messages' is missing"),
    ('{"messages": "Hi"}', "messages must be a list of messages, got str"),
    ('{"messages": []}', "messages must hold at least one message"),
    (content("7"), r"messages\[0\].content must be a text, got int"),
    (content("null"), r"messages\[0\].content must be a text, got NoneType"),
    (content('["a"]'), r"messages\[0\].content must be a text, got list"),
    (CHAT.replace("assistant", "bot"), r"messages\[1\] has the role 'bot', it must be one of"),
    (content('"a", "name": "x"'), r"messages\[0\], role user, has the unknown field 'name'"),
    (content('"a", "content": "b"'), "the key 'content' comes twice in one object"),
    (CHAT[:-1] + ', "n": NaN}', "not JSON: NaN"),
    (CHAT[:-1] + ', "n": -Infinity}', "not JSON: -Infinity"),
    (CHAT[:-1] + ', "n": [-1e999]}', "the number -1e999 is too large"),
    (content('"a\0"'), "not JSON: Invalid control character at character"),
    (content(r'"a\u0000"'), r"messages\[0\].content holds U\+0000 at character 2"),
    (content(r'"\ud83d"'), r"messages\[0\].content holds U\+D83D at character 1"),
    (content(r'"\udc4d\ud83d"'), r"messages\[0\].content holds U\+DC4D"),
    (CHAT[:-1] + r', "n": {"x": ["\u0000"]}}', r"n.x\[0\] holds U\+0000 at character 1"),
    (CHAT[:-1] + r', "\ud83d": 1}', r"a key in the record holds U\+D83D"),
    (content('"\ud83d"'), "not UTF-8 text: .* can't decode byte 0xed"),
    ("[" * 100_000, "not JSON that can be read: too deeply nested"),
    (CHAT[:-1] + ', "tools": {}}', "tools must be a list of objects"),
    (CHAT[:-1] + ', "tools": ["now"]}', "tools must be a list of objects"),
]


@pytest.mark.parametrize(("line", "message"), BAD_CHATS)
def test_a_bad_chat_names_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(stream(CHAT, "", line, CHAT).getvalue())
    with pytest.raises(ValueError, match=rf"chats.jsonl, line 3: {message}"):
        read_chats(path)


@pytest.mark.parametrize(
    "line",
    [
        CHAT.replace("assistant", "a" * 999),
        content(f'"a", "{"n" * 999}": 1'),
        content(f'"a", "{"n" * 999}": 1, "{"n" * 999}": 1'),
        CHAT[:-1] + rf', "{"n" * 999}": "\u0000"}}',
        CHAT[:-1] + rf', "{"n" * 999}": {{"\u0000": 1}}}}',
        CHAT[:-1] + f', "n": 1{"0" * 999}.0}}',
    ],
)
def test_what_is_long_is_cut_in_the_message(line):
    with pytest.raises(ValueError, match="the stream, line 1: ") as error:
        read_chats(stream(line))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "prompt must be a list of messages, got NoneType"),
        ({"prompt": []}, "prompt must hold at least one message"),
        (
            {"prompt": [USER, ANSWER]},
            "prompt ends with a message of the assistant, nothing is asked",
        ),
        (
            {"prompt": [{"role": "system", "content": ""}]},
            "prompt ends with a message of the system",
        ),
        ({"chosen": 1}, "chosen must be a list of messages, got int"),
        ({"rejected": [USER, ANSWER]}, "rejected begins with a message of the user, expected the"),
        ({"chosen": [ANSWER, USER]}, "chosen ends with a message of the user, expected the"),
        ({"chosen": "c"}, "chosen and rejected are the same"),
        ({"chosen": [{"role": "assistant", "content": "c"}]}, "chosen and rejected are the same"),
        ({"rejected": ...}, "the field 'rejected' is missing, expected a text or a list"),
        ({"prompt": ...}, "the field 'prompt' is missing, expected a text or a list"),
    ],
)
def test_a_bad_preference(changes, message):
    record = {"prompt": "a", "chosen": "b", "rejected": "c"} | changes
    line = json.dumps({key: value for key, value in record.items() if value is not ...})
    with pytest.raises(ValueError, match=f"the stream, line 1: {message}"):
        read_preferences(stream(line))


def test_a_bad_prompt():
    with pytest.raises(ValueError, match="line 2: prompt ends with a message of the assistant"):
        read_prompts(stream('{"prompt": "a"}', json.dumps({"prompt": [ANSWER]})))


def test_all_bad_lines_can_be_collected():
    bad = []
    records = read_chats(stream("{", CHAT, "[]", "", CHAT), bad_lines=bad)
    assert [record.line for record in records] == [2, 5]
    assert [message[:18] for message in bad] == ["the stream, line 1", "the stream, line 3"]
    assert read_prompts(stream("{", "7"), bad_lines=bad) == []
    assert len(bad) == 4


@pytest.mark.parametrize("data", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_nothing_is_an_error(data):
    with pytest.raises(ValueError, match="the stream holds no lines"):
        read_chats(io.BytesIO(data), bad_lines=[])


def test_a_damaged_gzip_and_no_file(tmp_path):
    path = tmp_path / "chats.jsonl.gz"
    zipped = gzip.compress(CHAT.encode())
    for data in (zipped[:-9], zipped[:12] + b"\xff\xff" + zipped[14:], zipped[:3]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"chats.jsonl.gz is a damaged file of gzip"):
            read_chats(path)
    with pytest.raises(FileNotFoundError):
        read_chats(tmp_path / "none")


def test_one_chat_over_many_lines_or_a_file_of_lines():
    want = [USER, ANSWER]
    for document in (want, {"messages": want, "id": 1}):
        for indent in (None, 2):
            (record,) = read_chats_or_chat(stream(json.dumps(document, indent=indent)))
            assert record.messages == want
    assert record.fields == {"id": 1}
    assert [r.line for r in read_chats_or_chat(stream("", CHAT, "", CHAT))] == [2, 4]
    for text in (CHAT, json.dumps(want), json.dumps(want, indent=1)):
        assert [r.line for r in read_chats_or_chat(stream("", " ", text, ""))] == [3]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["", "[]"], "the stream, line 2: messages must hold at least one message"),
        (["[7,", "7]"], r"the stream: messages\[0\] must be an object"),
        (["7"], "the stream, line 1: expected an object"),
        (["{", '"messages": 1, "messages": 2}'], "the stream: the key 'messages' comes twice"),
        (["{", '"messages": [}'], "the stream: not JSON: Expecting value at line 2, character 14"),
        (["", "[", "7", "8]"], "the stream: not JSON: Expecting ',' delimiter at line 4, charac"),
        (["{}", "{}"], "the stream, line 1: the field 'messages' is missing"),
        (["{", CHAT], "the stream, line 1: not JSON"),
        ([CHAT, "{"], "the stream, line 2: not JSON"),
        (["[" * 100_000], "the stream, line 1: not JSON that can be read"),
    ],
)
def test_a_bad_document(lines, message):
    with pytest.raises(ValueError, match=message):
        read_chats_or_chat(stream(*lines))
