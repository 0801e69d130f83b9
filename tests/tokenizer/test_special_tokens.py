"""Control tokens: tiktoken's rule, and what the errors say."""

import pytest

from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.special_tokens import (
    QWEN2_SPECIAL_TOKENS,
    QWEN_SPECIAL_TOKENS,
    choose_allowed,
    find_any,
)

BYTES = bpe_train("", merges=0)  # ids 256, 257, 258 are the control tokens


def test_names_and_numbers_of_qwen():
    assert QWEN2_SPECIAL_TOKENS == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert len(QWEN_SPECIAL_TOKENS) == 151_851 - 151_643
    assert QWEN_SPECIAL_TOKENS[-1] == "<|extra_204|>"


def test_default_refuses_names_the_token_and_says_how_to_allow_it():
    with pytest.raises(ValueError, match=r"'<\|im_end\|>' at character 2") as caught:
        BYTES.encode("hi<|im_end|>")
    assert "allowed_special={'<|im_end|>'}" in str(caught.value)
    assert "disallowed_special=()" in str(caught.value)


def test_allowed_disallowed_and_neither():
    text = "<|im_start|>a<|im_end|>"
    plain = list(text.encode())
    assert BYTES.encode(text, disallowed_special=()) == plain
    assert BYTES.encode(text, allowed_special="all") == [257, 97, 258]
    start = {"<|im_start|>"}
    with pytest.raises(ValueError, match="im_end"):  # the default refuses what is not allowed
        BYTES.encode(text, allowed_special=start)
    assert BYTES.encode(text, allowed_special=start, disallowed_special=()) == [257, *plain[12:]]
    with pytest.raises(ValueError, match="im_start"):  # an explicit refusal wins
        BYTES.encode(text, allowed_special="all", disallowed_special=start)
    assert BYTES.encode("<|im_", allowed_special="all") == list(b"<|im_")


def test_side_by_side_first_and_last():
    end = "<|endoftext|>"
    assert BYTES.encode(end + end + "a" + end, allowed_special="all") == [256, 256, 97, 256]


def test_the_longer_of_two_names_wins():
    tokenizer = bpe_train("", merges=0, special_tokens=["<a>", "<a><b>"])
    assert tokenizer.encode("<a><b><a>", allowed_special="all") == [257, 256]
    assert find_any(frozenset({"<a>", "<a><b>"})).search("<a><b>").group() == "<a><b>"


def test_names_are_looked_for_after_nfc():
    tokenizer = bpe_train("", merges=0, special_tokens=["<K>"])
    assert tokenizer.encode("<\u212a>", allowed_special="all") == [256]  # the Kelvin sign becomes K
    with pytest.raises(ValueError, match="<K>"):
        tokenizer.encode("<\u212a>")


@pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
def test_a_bare_str_is_refused(argument):
    with pytest.raises(ValueError, match=f'{argument} must be "all" or a collection'):
        BYTES.encode("a", **{argument: "<|im_end|>"})


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'<\|im_stop\|>', not a token of this tokenizer"):
        choose_allowed("a", QWEN2_SPECIAL_TOKENS, allowed_special={"<|im_stop|>"})


def test_no_control_tokens_at_all():
    tokenizer = bpe_train("aa", merges=1, special_tokens=())
    assert tokenizer.encode("aa<|im_end|>") == [256, *b"<|im_end|>"]
    assert tokenizer.vocab_size == 257
