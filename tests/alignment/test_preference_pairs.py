"""Records become pairs: what counts, where they end, what is left out and why; best and worst."""

import io
import json
import unicodedata

import numpy as np
import pytest
from alignment.small_pairs import chat, some_pairs

from minqwen.alignment.preference_pairs import (
    Pair,
    as_numbers,
    best_and_worst,
    encode_pairs,
    end_at_answer,
    require_pairs,
)
from minqwen.data.records import PreferenceRecord, read_preferences
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chatml import Chat, encode_chat

TOKENIZER = bpe_train("", merges=0)  # a byte is its id
END = TOKENIZER.special_tokens["<|im_end|>"]


def records(*lines):
    text = "\n".join(json.dumps(line) for line in lines)
    return read_preferences(io.BytesIO(text.encode()))


def pair_of(prompt, chosen, rejected, **options):
    (pair,), left_out = encode_pairs(
        TOKENIZER,
        records({"prompt": prompt, "chosen": chosen, "rejected": rejected}),
        **options,
    )
    assert left_out == []
    return pair


def counted(chat):
    return bytes(i for i, c in zip(*chat, strict=True) if c and i < 256).decode()


def test_a_chat_ends_with_the_end_token_and_only_the_answer_counts():
    pair = pair_of("2 + 2?", "Four.", "Five, I think.")
    for found, text in zip(pair, ("Four.", "Five, I think."), strict=True):
        messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": text}]
        whole = encode_chat(TOKENIZER, messages)
        assert found.ids == whole.ids[:-1]  # without the line end
        assert found.ids[-1] == END
        assert found.loss_mask[-1]
        assert counted(found) == text
        assert len(found.ids) == len(found.loss_mask)


def test_earlier_answers_in_the_prompt_do_not_count():
    prompt = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "2 + 2?"},
    ]
    pair = pair_of(prompt, "4", "5")
    assert [counted(chat) for chat in pair] == ["4", "5"]
    assert sum(pair.chosen.loss_mask) == 2  # and its end token


def test_an_answer_may_be_several_turns():
    tool = {"name": "add", "arguments": {"a": 2, "b": 2}}
    chosen = [
        {"role": "assistant", "content": "wait", "tool_calls": [{"function": tool}]},
        {"role": "tool", "content": "FOUR"},
        {"role": "assistant", "content": "4"},
    ]
    pair = pair_of("2 + 2?", chosen, "5", template="qwen2.5")
    assert counted(pair.chosen).startswith("wait\n<tool_call>")
    assert counted(pair.chosen).endswith("4")
    assert "FOUR" not in counted(pair.chosen)
    assert sum(np.array(pair.chosen.ids)[pair.chosen.loss_mask] == END) == 2


@pytest.mark.parametrize("template", ["qwen", "qwen1.5", "qwen2", "qwen2.5"])
def test_the_prompt_is_the_same_in_both(template):
    pair = pair_of("Hi", "\nHello", "Good day", template=template)
    start = pair.chosen.loss_mask.index(True)
    same = [a == b for a, b in zip(pair.chosen.ids, pair.rejected.ids, strict=False)]
    assert all(same[: start - 1])
    assert not any(pair.rejected.loss_mask[: start - 1])


def test_what_teaches_nothing_is_left_out_with_the_reason():
    cafe = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    lines = records(
        {"prompt": "a", "chosen": "b" * 90, "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": cafe, "rejected": unicodedata.normalize("NFD", cafe)},
        {"prompt": "a", "chosen": "b", "rejected": "c" * 90},
    )
    lines.append(PreferenceRecord(lines[0].prompt, [], lines[0].rejected, None, {}, 5))
    pairs, left_out = encode_pairs(TOKENIZER, lines, context_length=100)
    assert len(pairs) == 1
    n = len(pairs[0].chosen.ids) + 89
    assert [(i, reason) for i, reason in left_out] == [
        (0, f"chosen has {n} tokens, context_length is 100"),
        (2, "chosen and rejected are the same tokens"),
        (3, f"rejected has {n} tokens, context_length is 100"),
        (4, "chosen has no answer"),
    ]
    assert len(encode_pairs(TOKENIZER, lines, context_length=n).pairs) == 3  # n is not too long
    with pytest.raises(ValueError, match="none of 1 preferences can be used; the first: chosen"):
        encode_pairs(TOKENIZER, lines[:1], context_length=100)


def test_errors_name_the_line():
    lines = records(
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c", "tools": [{"name": "t"}]},
    )
    with pytest.raises(ValueError, match="line 2: tools were given, the template has no form"):
        encode_pairs(TOKENIZER, lines)


def test_pairs_that_cannot_be_trained_on_are_refused():
    good = some_pairs(2)
    assert require_pairs("pairs", good, 12, 61) == good
    same = Pair(good[0].chosen, good[0].chosen)
    behind = Pair(Chat([1, 2, 3], [False, True, False]), good[0].rejected)
    uneven = Pair(Chat([1, 2, 3], [False, True]), good[0].rejected)
    for bad, why in (
        (same, r"pairs\[1\] cannot be used: chosen and rejected are the same tokens"),
        (behind, r"pairs\[1\]\.chosen goes on after its answer: see end_at_answer"),
        (uneven, r"pairs\[1\]\.chosen has 3 ids and 2 mask entries"),
        (Pair(chat([1], [61]), good[0].rejected), r"ids from 1 to 61, config.vocab_size is 61"),
        (Pair(chat([-1], [1]), good[0].rejected), r"ids from -1 to 1"),
        (Pair(chat([1], [1] * 12), good[0].rejected), "chosen has 13 tokens, context_length is 12"),
    ):
        with pytest.raises(ValueError, match=why):
            require_pairs("pairs", [good[0], bad], 12, 61)
    assert end_at_answer(behind.chosen) == ([1, 2], [False, True])
    assert end_at_answer(Chat([1], [False])) == ([], [])


def test_the_numbers_of_other_pairs_are_others():
    one = Pair(chat([1, 2], [3]), chat([1, 2], [4]))
    others = [
        Pair(one.rejected, one.chosen),
        Pair(chat([1], [2, 3]), one.rejected),  # the same ids, more of them counted
        Pair(chat([1, 2], [3]), chat([1, 2], [4, 4])),
    ]
    numbers = [as_numbers(pairs).tolist() for pairs in ([one], *([p] for p in others), [one, one])]
    assert all(a != b for i, a in enumerate(numbers) for b in numbers[:i])
    assert as_numbers([]).tolist() == []


def test_best_and_worst_skips_ties_only():
    rewards = np.array([[0.0, 2.0, 2.0, -1.0], [1.0] * 4, [1.0, 1.0, 1.0, 1.0 + 1e-12]])
    best, worst, usable = best_and_worst(rewards)
    assert best.tolist() == [1, 0, 3]  # the first of equal ones
    assert worst.tolist() == [3, 0, 0]
    assert usable.tolist() == [True, False, True]
    assert best_and_worst(np.ones((2, 1)))[2].tolist() == [False, False]
    with pytest.raises(ValueError, match="no NaN"):
        best_and_worst(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="at least one answer"):
        best_and_worst(np.ones((2, 0)))
    with pytest.raises(TypeError, match="rewards must be a floating-point array"):
        best_and_worst(np.array([[1, 2]]))
