"""Streams: never half a character, and nothing lost."""

import random

import pytest

from minqwen.tokenizer.bpe import bpe_train

TOKENIZER = bpe_train("你好，世界！ hello 👍", merges=12)


def test_characters_come_whole():
    ids = list("a根👍".encode())
    assert list(TOKENIZER.decode_stream(ids)) == ["a", "根", "👍"]
    decoder = TOKENIZER.stream_decoder()
    assert [decoder.push(i) for i in ids] == ["a", "", "", "根", "", "", "", "👍"]
    assert decoder.finish() == ""


def test_ids_are_read_one_at_a_time():
    ids = iter([104, 105, 106])
    stream = TOKENIZER.decode_stream(ids)
    assert next(stream) == "h"
    assert next(ids) == 105


def test_half_a_character_at_the_end():
    ids = list("a根".encode())[:-1]
    assert list(TOKENIZER.decode_stream(ids)) == ["a", "�"]
    assert list(TOKENIZER.decode_stream(ids, errors="ignore")) == ["a"]
    stream = TOKENIZER.decode_stream(ids, errors="strict")
    assert next(stream) == "a"
    with pytest.raises(UnicodeDecodeError):
        next(stream)


def test_the_stream_joined_is_what_decode_gives():
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(TOKENIZER.vocab_size) for _ in range(rng.randrange(20))]
        pieces = list(TOKENIZER.decode_stream(ids))
        assert "".join(pieces) == TOKENIZER.decode(ids)
        assert "" not in pieces


def test_the_decoder_can_be_used_again_after_finish():
    decoder = TOKENIZER.stream_decoder()
    assert decoder.push(0xE6) + decoder.finish() + decoder.push(97) == "�a"


def test_an_unknown_id_is_named():
    with pytest.raises(ValueError, match="id 999 has no token"):
        list(TOKENIZER.decode_stream([97, 999]))
