"""Merges: the fast forms against a plain reference, ties, and the growth of the work."""

import random
from collections import Counter

import pytest

from minqwen.tokenizer import merges as merges_module
from minqwen.tokenizer.merges import (
    bpe_encode,
    bpe_encode_steps,
    learn_merges,
    learn_merges_steps,
    merge_pair,
    merges_of,
)
from minqwen.tokenizer.pretokenizer import split

TEXTS = {
    "the example": "aaabdaaabac",
    "one letter": "a" * 37,
    "runs": "aaaa aaa aa a aaaaa bbbb abab ababab",
    "all tie": "ab cd ef gh ij kl mn op",
    "ties of bytes and tokens": "xyxyz yzyzx zxzxy " * 3,
    "chinese": "我喜欢苹果，我喜欢香蕉。他们喜欢苹果吗？" * 2,
    "code": "def f(x):\n    return x\n\n\ndef g(x):\n    return f(x) + f(x)\n",
    "mixed": "Hello, hello! 你好, Ünïcödé 👍👍 12 123 low lower lowest newer wider\r\n",
}


def slow_merges(pretokens, n):
    """Recount everything at each step; ids only. Ties: the smaller pair of ids."""
    words = [list(piece.encode()) for piece in pretokens]
    pairs = []
    for new in range(256, 256 + n):
        counts = Counter((w[i], w[i + 1]) for w in words for i in range(len(w) - 1))
        if not counts:
            break
        best = sorted(counts, key=lambda pair: (-counts[pair], pair))[0]
        pairs.append(best)
        for w in words:
            i = 0
            while i < len(w) - 1:
                if (w[i], w[i + 1]) == best:
                    w[i : i + 2] = [new]
                i += 1
    return pairs


def as_ids(pairs):
    ids = {bytes([byte]): byte for byte in range(256)}
    for left, right in pairs:
        ids[left + right] = len(ids)
    return [(ids[left], ids[right]) for left, right in pairs], ids


@pytest.mark.parametrize("name", TEXTS)
def test_training_equals_the_reference(name):
    pretokens = split(TEXTS[name])
    want = slow_merges(pretokens, 10_000)
    assert as_ids(learn_merges(Counter(pretokens), 10_000))[0] == want
    assert as_ids([step.pair for step in learn_merges_steps(pretokens)])[0] == want


def test_training_equals_the_reference_on_random_text():
    rng = random.Random(0)
    for _ in range(150):
        text = "".join(rng.choices("aab b", k=rng.randrange(60)))
        pretokens = split(text)
        assert as_ids(learn_merges(Counter(pretokens), 99))[0] == slow_merges(pretokens, 99), text


def test_tie_rule_smaller_left_id_then_smaller_right_id():
    assert learn_merges({"dc": 1, "ab": 1, "ac": 1}, 2) == [(b"a", b"b"), (b"a", b"c")]
    # bytes decide by their value, tokens by their age: zz (256) is older than ab, and larger than a
    pairs = learn_merges({"zz": 9, "zzq": 1, "aq": 1}, 3)
    assert pairs == [(b"z", b"z"), (b"a", b"q"), (b"zz", b"q")]


def test_a_merge_runs_from_left_to_right():
    assert merge_pair([b"a"] * 5, (b"a", b"a")) == [b"aa", b"aa", b"a"]
    assert merge_pair([b"a", b"b", b"a"], (b"b", b"a")) == [b"a", b"ba"]
    assert merge_pair([], (b"a", b"b")) == []


def test_steps_show_the_state_after_every_merge():
    steps = list(learn_merges_steps(["aaab", "ab"]))
    assert steps[0] == ([[b"aa", b"a", b"b"], [b"a", b"b"]], (b"a", b"a"), 256, 2)
    assert [step.rank for step in steps] == [256, 257, 258]
    assert steps[-1].pieces == [[b"aaab"], [b"ab"]]


def test_encoding_is_by_rank_and_not_the_longest_match():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"bc": 256, b"ab": 257, b"abcd": 258}
    assert bpe_encode(b"abcd", ranks) == [97, 256, 100]
    assert bpe_encode(b"abbc", ranks) == [257, 256]


def test_the_leftmost_of_equal_ranks():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"aa": 256}
    assert bpe_encode(b"aaa", ranks) == [256, 97]
    assert bpe_encode(b"", ranks) == []


def test_encoding_equals_the_plain_steps():
    rng = random.Random(1)
    text = "".join(rng.choices("aaabbc", k=3000))
    _, ranks = as_ids(learn_merges({text: 1}, 60))
    for _ in range(400):
        word = "".join(rng.choices("aaabbcd", k=rng.randrange(40))).encode()
        *_, last = bpe_encode_steps(word, ranks)
        assert bpe_encode(word, ranks) == [ranks[piece] for piece in last.pieces], word


def test_encoding_a_long_pretoken_takes_a_few_heap_steps_a_byte(monkeypatch):
    _, ranks = as_ids(learn_merges({"ab" * 64: 1}, 6))
    steps = Counter()

    def count(name, function):
        def counted(*args):
            steps[name] += 1
            return function(*args)

        monkeypatch.setattr(merges_module, name, counted)

    count("heappop", merges_module.heappop)
    count("heappush", merges_module.heappush)
    ids = bpe_encode(b"ab" * 10_000, ranks)
    token_of = {rank: token for token, rank in ranks.items()}
    assert b"".join(token_of[i] for i in ids) == b"ab" * 10_000
    assert len(ids) == 312 + 1  # 312 tokens of 32 times ab, and 16 times ab
    assert steps["heappush"] <= 2 * 20_000  # two new neighbours for each merge
    assert steps["heappop"] <= 3 * 20_000


def test_merges_of_gives_back_what_was_learned():
    for text in TEXTS.values():
        pairs = learn_merges(Counter(split(text)), 200)
        assert merges_of(as_ids(pairs)[1]) == pairs


def test_a_token_out_of_nothing_is_refused():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256}
    with pytest.raises(ValueError, match=r"token b'abc' .* it is made of 3"):
        merges_of(ranks)
