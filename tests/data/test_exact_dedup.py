"""Exact deduplication: agrees with comparing the texts themselves; every switch does one thing."""

import random
import sys
import unicodedata

import pytest

from minqwen.data import exact_dedup as file
from minqwen.data.exact_dedup import ExactCopy, exact_dedup, first_copies, normalise


def brute_force(texts):
    """Compare every text with all before it."""
    return [next(j for j in range(i + 1) if texts[j] == texts[i]) for i in range(len(texts))]


def test_agrees_with_comparing_all_pairs():
    rng = random.Random(0)
    texts = ["".join(rng.choices("a 好\n", k=rng.randint(0, 4))) for _ in range(300)]
    plain = {"nfc": False, "white_space": False}
    assert list(first_copies(texts, **plain)) == brute_force(texts)
    assert list(first_copies(texts)) == brute_force([" ".join(t.split()) for t in texts])


def test_keeps_the_first_and_says_of_which_the_others_are_copies():
    report = exact_dedup(["b", "a", "b", "c", "a", "b"])
    assert report.kept == [0, 1, 3]
    assert report.dropped == [ExactCopy(2, 0), ExactCopy(4, 1), ExactCopy(5, 0)]
    assert exact_dedup([]) == ([], [])
    assert exact_dedup(["", " ", "\n"]).kept == [0]


@pytest.mark.parametrize(
    ("switch", "one", "other"),
    [
        ("nfc", "é", "e\u0301"),
        ("nfc", "가", "\u1100\u1161"),
        ("white_space", "你好 世界", "\u3000你好\r\n\t世界\n"),
        ("case", "STRASSE Ω", "Straße ω"),
    ],
)
def test_each_switch_alone_makes_them_alike(switch, one, other):
    off = dict.fromkeys(("nfc", "white_space", "case"), False)
    assert normalise(one, **off) == one
    assert normalise(one, **off) != normalise(other, **off)
    assert normalise(one, **(off | {switch: True})) == normalise(other, **(off | {switch: True}))
    assert exact_dedup([one, other], **off).kept == [0, 1]
    assert exact_dedup([one, other], **(off | {switch: True})).kept == [0]


def test_what_normalisation_must_not_join():
    """White space that is taken out instead of made one would join words; NFKC would join ﬁ, ²."""
    for one, other in [("ab c", "a bc"), ("2²", "22"), ("ﬁ", "fi"), ("Polish", "polish")]:
        assert exact_dedup([one, other]).kept == [0, 1]


def test_normalising_twice_changes_nothing():
    strange = "".join(map(chr, range(0x250))) + "ǰ\u0345ΐ e\u0301\u0323 ᾳ\u0313"
    for case in (False, True):
        once = normalise(strange, case=case)
        assert normalise(once, case=case) == once
        assert unicodedata.is_normalized("NFC", once)
    # The iota below is a mark to one spelling of the text, a letter to the other.
    one, other = "\u03b1\u0345\u0301", "\u03b1\u0301\u0345"
    assert normalise(one, case=True) == normalise(other, case=True)


def test_streams_and_keeps_no_text():
    seen = []

    def stream():
        for i in range(4):
            seen.append(i)
            yield str(i % 2)

    copies = first_copies(stream())
    assert (next(copies), seen) == (0, [0])
    assert (next(copies), seen) == (1, [0, 1])
    text = "long" * 1000
    references = sys.getrefcount(text)
    copies = first_copies(iter([text]), nfc=False, white_space=False)
    assert list(copies) == [0]
    assert sys.getrefcount(text) == references


def test_the_digest_has_16_bytes_and_sees_the_whole_text(monkeypatch):
    sizes = []

    def digest(data, digest_size):
        sizes.append(digest_size)
        return blake2b(data, digest_size=digest_size)

    blake2b = file.blake2b
    monkeypatch.setattr(file, "blake2b", digest)
    assert exact_dedup(["a" * 10_000 + "b", "a" * 10_000 + "c"]).kept == [0, 1]
    assert sizes == [16, 16]


def test_halves_of_surrogate_pairs_are_texts_too():
    assert exact_dedup(["\ud800", "\udc00", "\ud800"]).kept == [0, 1]


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="document 1 must be a str, got bytes"):
        exact_dedup(["a", b"b"])
