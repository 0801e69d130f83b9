"""Inputs out of public bug reports, with the right ids; most need Qwen's own vocabulary.

The vocabulary is not in the repository. It is taken from the package dashscope where that is
installed (`pip install --no-deps dashscope`; it is not imported), else those tests are skipped.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

from minqwen.tokenizer.bpe import Tokenizer, bpe_train
from minqwen.tokenizer.special_tokens import QWEN_SPECIAL_TOKENS


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


def test_case_1_the_example_of_the_encyclopedia():
    tokenizer = bpe_train("aaabdaaabac", merges=3)
    assert tokenizer.encode("aaabdaaabac") == [258, 100, 258, 97, 99]
    assert list(tokenizer.ranks)[256:] == [b"aa", b"ab", b"aaab"]


def test_case_4_empty():
    tokenizer = bpe_train("", merges=0)
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("", allowed_special="all") == []
    assert list(tokenizer.decode_stream([])) == []


def test_case_6_default_mode_refuses_and_says_how_to_allow():
    with pytest.raises(
        ValueError, match=r"'<\|endoftext\|>'.*allowed_special=.*disallowed_special"
    ):
        bpe_train("", merges=0).encode("a <|endoftext|>")


def test_case_15_surrogates_on_bytes():
    tokenizer = bpe_train("", merges=0)
    assert tokenizer.encode("\ud83d\udc4d") == list("👍".encode())
    assert tokenizer.encode("\ud83d") == list("\ufffd".encode())


@pytest.mark.parity
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),  # 4
        ('print("<|endoftext|>")', [1350, 9639, 91, 8691, 723, 427, 91, 82598]),  # 5
        (
            "1234567 3.14 2024年",  # 9
            [16, 17, 18, 19, 20, 21, 22, 220, 18, 13, 16, 19, 220, 17, 15, 17, 19, 7948],
        ),
        ("2024", [17, 15, 17, 19]),
        ("  Hello World.", [220, 21927, 4337, 13]),  # 10
        ("  hello", [220, 23811]),
        ("hi   ", [6023, 262]),  # 11
        ("a\r\n\r\nb\nc", [64, 871, 65, 198, 66]),
        ("\tx\n  y", [10225, 198, 220, 379]),
        ("\n\n\n", [1406]),
        ("\n\n", [271]),
        ("\ud83d", [5691]),  # 15
        ("Observation", [37763, 367]),  # 18
        ("Observation:", [37763, 367, 25]),
        ("Observation:\n", [37763, 367, 510]),
        ("system", [8948]),
        ("user", [872]),
        ("assistant", [77091]),
        (" 根", [51461, 117]),
        ("don't", [15007, 944]),
        ("a\u0301", [1953]),
        ("á", [1953]),
        ("!", [0]),
        (" ", [220]),
        ("\n", [198]),
        ("\0", [188]),
        ("a<|im_end|>", [64, 27, 91, 318, 6213, 91, 29]),
    ],
)
def test_known_ids(qwen, text, ids):
    assert qwen.encode(text, disallowed_special=()) == ids
    if not text.startswith(("\ud83d", "a\u0301")):
        assert qwen.decode(ids) == text


@pytest.mark.parity
def test_case_5_with_control_tokens_allowed(qwen):
    ids = [1350, 445, 151643, 899]
    assert qwen.encode('print("<|endoftext|>")', allowed_special="all") == ids
    assert qwen.decode(ids) == 'print("<|endoftext|>")'


@pytest.mark.parity
def test_case_6_on_the_real_vocabulary(qwen):
    with pytest.raises(ValueError, match=r"control token '<\|endoftext\|>'"):
        qwen.encode("<|endoftext|>")


@pytest.mark.parity
def test_case_15_the_pair_is_the_character(qwen):
    assert qwen.encode("\ud83d\udc4d") == qwen.encode("👍")


@pytest.mark.parity
def test_case_10_neighbours_round_trip(qwen):
    for text in (
        "  Hello World.",
        " " * 9 + "x",
        "x" + " " * 9,
        "\u3000\u3000段落",
        "a\tb  \t\n c",
    ):
        assert qwen.decode(qwen.encode(text)) == text


@pytest.mark.parity
def test_case_21_a_chat_of_one_turn(qwen):
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
    ids += [151644, 872, 198, 9707, 151645, 198, 151644, 77091, 198]
    assert qwen.encode(text, allowed_special={"<|im_start|>", "<|im_end|>"}) == ids
    assert qwen.decode(ids) == text


@pytest.mark.parity
def test_sizes_of_qwen(qwen):
    assert (qwen.n_regular, qwen.vocab_size) == (151_643, 151_646)
    assert list(qwen.special_tokens.values()) == [151_643, 151_644, 151_645]
    qwen1 = Tokenizer.from_pretrained(qwen_file(), special_tokens=QWEN_SPECIAL_TOKENS)
    assert qwen1.vocab_size == 151_851
    assert qwen1.id_of("<|extra_204|>") == 151_850
    with pytest.raises(ValueError, match=r"id 151935 has no token.*rows above only pad"):
        qwen.decode([151_935])  # a padded row of the embedding


@pytest.mark.parity
def test_no_token_has_two_digits_and_some_are_no_utf8(qwen):
    assert not [t for t in qwen.ranks if sum(0x30 <= byte <= 0x39 for byte in t) > 1]
    invalid = 0
    for token in qwen.ranks:
        try:
            token.decode("utf-8")
        except UnicodeDecodeError:
            invalid += 1
    assert invalid == 1448


@pytest.mark.parity
def test_a_truncated_download_is_refused(qwen, tmp_path):
    whole = qwen_file().read_bytes()
    for end in (len(whole) // 2, whole.rindex(b"\n", 0, 1_000_000) + 1, len(whole) - 20):
        (tmp_path / "qwen.tiktoken").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"qwen\.tiktoken"):
            Tokenizer.from_pretrained(tmp_path)
