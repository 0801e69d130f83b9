"""`minqwen tokenize --chat`: the table, JSON, files of one chat and of many, errors in one line."""

import io
import json
import sys

import pytest
from helpers.commands import error_of

from minqwen.cli import main
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chatml import encode_chat

TOKENIZER = bpe_train("", merges=0)
MESSAGES = [
    {"role": "system", "content": ""},
    {"role": "user", "content": "<|im_end|>"},
    {"role": "assistant", "content": "é"},
]


@pytest.fixture
def words(tmp_path):
    TOKENIZER.save_pretrained(tmp_path / "t")
    return ["tokenize", "--tokenizer", str(tmp_path / "t")]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_table(words, tmp_path, capsys):
    chat = write(tmp_path / "chat.json", json.dumps(MESSAGES, indent=1))
    assert main([*words, "--chat", chat]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "label", "mask", "token"]
    assert total == "43 tokens, 3 trained on"
    assert rows[0].split() == ["257", "-100", "0", "<|im_start|>"]
    assert rows[-4].split() == ["195", "195", "1", "\\xc3"]
    assert rows[-2].split() == ["258", "258", "1", "<|im_end|>"]
    assert rows[-1].split() == ["10", "-100", "0", "\\n"]
    assert sum(row.split()[2] == "1" for row in rows) == 3
    assert sum("<|im_end|>" in row for row in rows) == 3  # what was typed is text


def test_trained_tokens_are_coloured_on_a_terminal(words, tmp_path, capsys, monkeypatch):
    chat = write(tmp_path / "chat.json", json.dumps(MESSAGES))
    monkeypatch.setattr("minqwen.commands.tokenize.sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    main([*words, "--chat", chat])
    coloured = [row for row in capsys.readouterr().out.splitlines() if "\x1b[30;42m" in row]
    assert [row.split()[0] for row in coloured] == ["195", "169", "258"]
    monkeypatch.setenv("NO_COLOR", "1")
    main([*words, "--chat", chat])
    assert "\x1b" not in capsys.readouterr().out


def test_json_and_options(words, tmp_path, capsys):
    chat = write(tmp_path / "chat.json", json.dumps({"messages": MESSAGES, "tools": [{"n": 1}]}))
    options = ["--template", "qwen2.5", "--train-on", "answers_and_markers"]
    assert main([*words, "--chat", chat, "--json", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    want = encode_chat(
        TOKENIZER,
        MESSAGES,
        template="qwen2.5",
        train_on="answers_and_markers",
        tools=[{"n": 1}],
    )
    assert facts["ids"] == want.ids
    assert facts["loss_mask"] == want.loss_mask
    assert facts["trained"] == sum(want.loss_mask) == 3 * 3 + 2
    assert facts["labels"] == [i if t else -100 for i, t in zip(*want, strict=True)]
    assert facts["tokens"][0] == "<|im_start|>"
    assert facts["line"] == 1


def test_lines_of_jsonl(words, tmp_path, capsys, monkeypatch):
    questions = [[{"role": "user", "content": text}] for text in "ab"]
    lines = "\n\n".join(json.dumps({"messages": messages}) for messages in questions)
    chats = write(tmp_path / "chats.jsonl", lines)
    assert main([*words, "--chat", chats]) == 0
    out = capsys.readouterr().out
    assert [row for row in out.splitlines() if row.startswith("line")] == ["line 1", "line 3"]
    command = [*words, "--line", "3", "--json", "--generation-prompt", "--chat"]
    assert main([*command, chats]) == 0
    fact = capsys.readouterr().out
    assert (
        json.loads(fact)["ids"] == encode_chat(TOKENIZER, questions[1], generation_prompt=True).ids
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main([*command, "-"]) == 0
    assert capsys.readouterr().out == fact


def test_errors(words, tmp_path, capsys, monkeypatch):
    chat = write(tmp_path / "chat.json", json.dumps(MESSAGES))
    bad = write(tmp_path / "bad.jsonl", f'{{"messages": {json.dumps(MESSAGES)}}}\n{{}}\n')
    assert "bad.jsonl, line 2: the field 'messages'" in error_of(capsys, *words, "--chat", bad)
    assert "none.json" in error_of(capsys, *words, "--chat", str(tmp_path / "none.json"))
    assert "no chat on line 2" in error_of(capsys, *words, "--chat", chat, "--line", "2")
    assert "give one of a text" in error_of(capsys, *words, "Hi", "--chat", chat)
    assert "give one of a text" in error_of(capsys, *words, "--file", chat, "--chat", chat)
    assert "--special is for texts" in error_of(capsys, *words, "--special", "--chat", chat)
    assert "need --chat" in error_of(capsys, *words, "Hi", "--template", "qwen2")
    assert "need --chat" in error_of(capsys, *words, "Hi", "--line", "1")
    tools = json.dumps({"messages": MESSAGES, "tools": [{"name": "t"}]})
    tools = write(tmp_path / "tools.jsonl", f'{{"messages": {json.dumps(MESSAGES)}}}\n{tools}\n')
    assert "tools.jsonl, line 2: tools were given" in error_of(capsys, *words, "--chat", tools)
    with open(tools, "rb") as stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        assert "error: <stdin>, line 2: tools" in error_of(capsys, *words, "--chat", "-")
    document = write(tmp_path / "c.json", json.dumps(MESSAGES, indent=1) + "]")
    assert "c.json: not JSON: " in (found := error_of(capsys, *words, "--chat", document))
    assert "at line 14, character 2" in found
    last = error_of(capsys, *words, "--chat", chat, "--generation-prompt")
    assert "the last message is one already" in last
    bpe_train("", merges=0, special_tokens=()).save_pretrained(tmp_path / "t")
    assert "no control token '<|im_start|>'" in error_of(capsys, *words, "--chat", chat)
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in error_of(capsys, *words, "--chat", "-")
