"""Answers in which a tool spoke: what it said is not learnt, what the model wrote around it is."""

import numpy as np
import pytest

from minqwen.messages import require_messages
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chat_templates import Template
from minqwen.tokenizer.chatml import encode_chat

TEXT = "Observation: 42\nThought: é"


def learnt(content, given, merges=0, **options):
    tokenizer = bpe_train(TEXT * 9, merges=merges)
    message = {"role": "assistant", "content": content, "given": given}
    ids, mask = encode_chat(tokenizer, [message], template=Template(None, **options))
    plain = encode_chat(tokenizer, [message | {"given": []}], template=Template(None, **options))
    assert ids == plain.ids  # only the mask is another one
    return tokenizer.decode(np.array(ids)[mask].tolist())


@pytest.mark.parametrize("in_one", [True, False])
@pytest.mark.parametrize("merges", [0, 19])
def test_what_was_given_is_not_learnt(in_one, merges):
    content = "a\nObservation: 42\nThought: b"
    given = [[len("a\nObservation:"), len("a\nObservation: 42\nThought:")]]
    assert learnt(content, given, merges, in_one=in_one) == "a\nObservation: b<|im_end|>"


def test_several_and_none_and_all():
    assert learnt("abcdef", [[0, 1], [2, 3], [3, 4]]) == "bef<|im_end|>"
    assert learnt("abc", []) == "abc<|im_end|>"
    assert learnt("abc", [[0, 3]]) == "<|im_end|>"


def test_characters_of_several_bytes_and_such_as_are_composed():
    assert learnt("é好x", [[1, 2]]) == "éx<|im_end|>"
    assert learnt("e\u0301yx", [[2, 3]]) == "éx<|im_end|>"


def test_a_token_that_holds_both_is_not_learnt():
    assert "Observation" in bpe_train(TEXT * 9, merges=19).decode([*range(256, 275)])
    assert learnt("Observation", [[3, 5]], merges=19) == "<|im_end|>"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("x", TypeError),
        (5, TypeError),
        ([[0]], TypeError),
        ([[0, True]], TypeError),
        ([[0, 4]], ValueError),
        ([[-1, 2]], ValueError),
        ([[2, 1]], ValueError),
        ([[1, 1]], ValueError),
        ([[0, 2], [1, 3]], ValueError),
    ],
)
def test_wrong_spans_are_named(given, error):
    with pytest.raises(error, match=r"messages\[0\].given must"):
        require_messages("messages", [{"role": "assistant", "content": "abc", "given": given}])


def test_only_answers_have_it():
    with pytest.raises(ValueError, match="role user, has the unknown field 'given'"):
        require_messages("messages", [{"role": "user", "content": "abc", "given": []}])
