"""Files: what is written is read again, and damaged or foreign ones are named."""

import base64
import json
import os

import pytest

from minqwen.tokenizer.bpe import Tokenizer, bpe_train
from minqwen.tokenizer.special_tokens import QWEN_SPECIAL_TOKENS
from minqwen.tokenizer.vocabulary import from_chars, merges_of, to_chars

TEXT = "low lower lowest 你好你好 <|im_end|> don't\n\n"
TOKENIZER = bpe_train(TEXT * 3, merges=14)
PLAIN = {"disallowed_special": ()}


def write_tiktoken(path, ranks=None, special=None):
    ranks = TOKENIZER.ranks if ranks is None else ranks
    lines = [
        f"{base64.b64encode(t).decode()} {r}\n"
        for t, r in sorted(ranks.items(), key=lambda x: x[1])
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_vocab_and_merges(folder):
    vocab = {to_chars(token): i for token, i in TOKENIZER.ranks.items()}
    pairs = [f"{to_chars(a)} {to_chars(b)}" for a, b in merges_of(TOKENIZER.ranks)]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
    return folder


def change(folder, edit):
    """Save the tokenizer, let `edit` change the parsed JSON, write it back."""
    path = TOKENIZER.save_pretrained(folder)
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def assert_same(tokenizer):
    assert tokenizer.ranks == TOKENIZER.ranks
    assert tokenizer.special_tokens == TOKENIZER.special_tokens
    assert (tokenizer.pattern, tokenizer.normalize) == (TOKENIZER.pattern, TOKENIZER.normalize)
    assert tokenizer.encode(TEXT, allowed_special="all") == TOKENIZER.encode(
        TEXT, allowed_special="all"
    )


def test_table_of_bytes():
    assert to_chars(bytes(range(256)))[32:36] == 'Ġ!"#'
    assert len(set(to_chars(bytes(range(256))))) == 256
    assert from_chars(to_chars(bytes(range(256)))) == bytes(range(256))
    with pytest.raises(ValueError, match="no byte for '你'"):
        from_chars("你")


def test_tokenizer_json_round_trip(tmp_path):
    path = TOKENIZER.save_pretrained(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "tokenizer.json"
    assert_same(Tokenizer.from_pretrained(path))
    assert_same(Tokenizer.from_pretrained(str(path.parent)))
    assert sorted(os.listdir(path.parent)) == ["tokenizer.json"]  # nothing temporary is left


def test_pattern_normalizer_and_control_tokens_are_kept(tmp_path):
    options = {"pattern": r"\d+|\s+", "normalize": False}
    saved = bpe_train("12 12 e\u0301", merges=2, special_tokens=["<|a|>"], **options)
    saved.save_pretrained(tmp_path)
    read = Tokenizer.from_pretrained(tmp_path)
    assert (read.pattern, read.normalize) == (r"\d+|\s+", False)
    assert read.special_tokens == {"<|a|>": 258}
    text = "1212 e\u0301<|a|>"
    assert read.encode(text, allowed_special="all") == saved.encode(text, allowed_special="all")


def test_saving_replaces_a_file_in_one_go(tmp_path, monkeypatch):
    path = TOKENIZER.save_pretrained(tmp_path)
    before = path.read_bytes()
    other = bpe_train("xyz xyz", merges=1)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        other.save_pretrained(tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["tokenizer.json"]


def test_rank_file(tmp_path):
    path = write_tiktoken(tmp_path / "small.tiktoken")
    assert_same(Tokenizer.from_pretrained(path))
    assert_same(Tokenizer.from_pretrained(tmp_path))
    qwen1 = Tokenizer.from_pretrained(path, special_tokens=QWEN_SPECIAL_TOKENS)
    assert qwen1.vocab_size == 256 + 14 + 208
    assert qwen1.id_of("<|extra_204|>") == qwen1.vocab_size - 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("QQ", "line 301: expected base64, a space and a rank, got 'QQ'"),
        ("!!!! 300", "line 301: expected base64"),
        ("QUFB x", "line 301: expected base64"),
        ("QUFB 300 1", "line 301: expected base64"),
        (" 300", "line 301: expected base64"),
        ("", "line 301: expected base64"),
        ("QUFB 30", "line 301: expected rank 300, got 30"),
        ("QQ== 300", "line 301: token b'A' has rank 65 already"),
    ],
)
def test_a_damaged_rank_file_is_named_with_the_line(tmp_path, line, message):
    ranks = {bytes([b]): b for b in range(256)}
    ranks |= {bytes([b, b]): 256 + b for b in range(44)}
    path = write_tiktoken(tmp_path / "x.tiktoken", ranks)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(path)
    assert str(path) in str(caught.value)


def test_a_rank_file_cut_anywhere_is_never_read_as_if_whole(tmp_path):
    whole = write_tiktoken(tmp_path / "whole.tiktoken").read_bytes()
    path = tmp_path / "qwen.tiktoken"
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"qwen\.tiktoken"):
            Tokenizer.from_pretrained(path)


def test_vocab_and_merges(tmp_path):
    write_vocab_and_merges(tmp_path)
    assert_same(Tokenizer.from_pretrained(tmp_path))
    assert_same(Tokenizer.from_pretrained(tmp_path / "vocab.json"))


def test_tokenizer_config_names_the_control_tokens(tmp_path):
    write_vocab_and_merges(tmp_path)
    config = {"added_tokens_decoder": {"270": {"content": "<|x|>"}, "280": {"content": "<|y|>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.special_tokens == {"<|x|>": 270, "<|y|>": 280}
    assert tokenizer.vocab_size == 281
    with pytest.raises(ValueError, match="id 275 has no token"):
        tokenizer.decode([275])
    damaged = '{"added_tokens_decoder": {"1": 2}}'
    (tmp_path / "tokenizer_config.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"tokenizer_config\.json: added_tokens_decoder is damaged"
    ):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines[:-1], "has 13 merges, its tokens need 14"),
        (lambda lines: [*lines, "a b"], "has 15 merges, its tokens need 14"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "merge 1 is"),
        (lambda lines: [*lines[:3], "abc", *lines[4:]], "merge 3 is 'abc'"),
    ],
)
def test_merges_that_do_not_fit_are_refused(tmp_path, edit, message):
    path = write_vocab_and_merges(tmp_path) / "merges.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(edit(lines)), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert "merges.txt" in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.tiktoken"):
        Tokenizer.from_pretrained(tmp_path / "x.tiktoken")
    (write_vocab_and_merges(tmp_path) / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges\.txt beside vocab\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_files_of_another_kind(tmp_path):
    for name, content, message in [
        ("a.txt", "hello", "is not a tokenizer.json"),
        ("a.json", "[1]", "holds a JSON list"),
        ("b.json", '{"a": 1}', "has no model with a vocab"),
        ("c.json", '{"a": ', "is not whole JSON"),
        ("d.tiktoken", "hello world", "line 1: expected base64"),
        ("e.tiktoken", "", "none for the single byte 0x00"),
    ]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            Tokenizer.from_pretrained(tmp_path / name)
    (tmp_path / "f.tiktoken").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        Tokenizer.from_pretrained(tmp_path / "f.tiktoken")


def put(*keys, value):
    def edit(data):
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("model", "type", value="WordPiece"), "the model is WordPiece, only BPE"),
        (put("model", "byte_fallback", value=True), "byte_fallback is not supported"),
        (put("model", "vocab", "Ġ", value=33), "two tokens have the same id"),
        (put("model", "vocab", "Ġ", value=-1), "the id of token 'Ġ' is -1"),
        (put("model", "vocab", "Ġ", value="x"), "the id of token 'Ġ' is 'x'"),
        (put("model", "vocab", "你", value=999), "token '你' is not byte-level"),
        (put("model", "vocab", value=[]), "damaged"),
        (put("model", "vocab", value={}), "0 tokens, but none for the single byte 0x00"),
        (put("model", "merges", value={}), "damaged"),
        (put("added_tokens", 0, "id", value="5"), "no name or no id"),
        (put("added_tokens", 0, "id", value=271), "the same name or id"),
        (put("model", "merges", value=[]), "has 0 merges, its tokens need 14"),
        (put("model", "merges", value=[5] * 14), "merge 1 is 5"),
        (put("normalizer", value={"type": "Lowercase"}), "normalizer .* only NFC"),
        (put("normalizer", value={}), "damaged"),
        (put("pre_tokenizer", value={"type": "Whitespace"}), "pre_tokenizer .* is not supported"),
        (put("pre_tokenizer", value=None), "pre_tokenizer .* is not supported"),
        (
            put("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", value=True),
            "ByteLevel is not",
        ),
        (put("pre_tokenizer", "pretokenizers", 0, "behavior", value="Removed"), "Split is not"),
        (put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": "(a"}), "not compile"),
        (
            put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"String": " "}),
            "Split is not",
        ),
        (put("pre_tokenizer", "pretokenizers", value=None), "damaged|not supported"),
        (put("post_processor", value={"type": "TemplateProcessing"}), "post_processor .* is not"),
        (put("decoder", value={"type": "WordPiece"}), "decoder .* is not supported"),
        (put("added_tokens", 0, "lstrip", value=True), "lstrip is not supported"),
        (put("added_tokens", 0, "id", value=5), "id 5 is a token and a control token"),
        (put("added_tokens", 0, value={}), "damaged"),
        (put("model", value=None), "has no model with a vocab"),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_named(tmp_path, edit, message):
    path = change(tmp_path, edit)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(path) in str(caught.value)


def test_a_tokenizer_json_cut_short_is_named(tmp_path):
    path = TOKENIZER.save_pretrained(tmp_path)
    whole = path.read_bytes()
    for end in (0, 1, 100, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"tokenizer\.json is not"):
            Tokenizer.from_pretrained(tmp_path)


def test_merges_written_as_lists_are_read(tmp_path):
    def as_lists(data):
        data["model"]["merges"] = [merge.split(" ") for merge in data["model"]["merges"]]

    change(tmp_path, as_lists)
    assert_same(Tokenizer.from_pretrained(tmp_path))


def test_control_tokens_of_a_tokenizer_json_are_its_own(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names its own control tokens"):
        Tokenizer.from_pretrained(tmp_path, special_tokens=["<|a|>"])
