"""Stop strings: the borders of the pieces never matter."""

import itertools
import random

import pytest

from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.stop_strings import StopStrings, cut_at_stop


def by_hand(text, stops):
    """The definition: the first character that completes a stop string, the longest of those."""
    for end in range(len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            stop = max(done, key=len)
            return text[: end - len(stop)], stop
    return text, None


def in_pieces(pieces, stops):
    found = StopStrings(stops)
    shown = [found.push(piece) for piece in pieces]
    return "".join(shown) + found.finish(), found.stopped


def cuts(text):
    """Every way to cut a text into pieces: 2 ** (len - 1) of them."""
    for where in itertools.product([False, True], repeat=max(0, len(text) - 1)):
        borders = [0, *(i + 1 for i, cut in enumerate(where) if cut), len(text)]
        yield [text[a:b] for a, b in itertools.pairwise(borders)]


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("aab aaabc", ["aaab"]),  # begins anew inside itself
        ("abababac", ["ababac"]),
        ("xabcdy", ["abcd", "bc"]),  # the shorter is complete first
        ("xabcy", ["bc", "abc"]),  # both at once: the longest
        ("xabcy", ["c", "abc", "bc"]),
        ("Obs\nObsx", ["Obsv"]),  # never
        ("a\n\nb", ["\n\n"]),
        ("", ["a"]),
        ("abc", []),
        ("根据根本", ["根本"]),
    ],
)
def test_every_way_to_cut_a_text(text, stops):
    want = by_hand(text, stops)
    for pieces in cuts(text):
        assert in_pieces(pieces, stops) == want
    assert cut_at_stop(text, stops) == want[0]


def test_random_texts_over_a_small_alphabet():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices("ab", k=rng.randrange(14)))
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 6))) for _ in range(rng.randrange(4))]
        pieces, at = [], 0
        while at < len(text):
            n = rng.randrange(1, 5)
            pieces.append(text[at : at + n])
            at += n
        assert in_pieces(pieces, stops) == by_hand(text, stops)


def test_no_part_of_the_stop_is_ever_shown():
    """What was shown before the stop came is the beginning of the final text, at every step."""
    text = "Obser Observation Observation: 5"
    for n in (1, 2, 3, 7):
        stops, shown = StopStrings(["Observation:"]), ""
        for i in range(0, len(text), n):
            shown += stops.push(text[i : i + n])
            assert "Obser Observation ".startswith(shown)
        assert (shown, stops.stopped) == ("Obser Observation ", "Observation:")
        assert stops.push("more") + stops.finish() == ""


def test_no_more_is_held_back_than_needed():
    stops = StopStrings(["Observation:", "\nQuestion:"])
    assert stops.push("a\nb") == "a\nb"
    assert stops.push("\nQues") == ""
    assert stops.push("t!") == "\nQuest!"


def test_the_end_gives_back_what_was_held():
    assert in_pieces(["4\nObs", "erv"], ["Observation:"]) == ("4\nObserv", None)


def test_both_rows_of_tokens_are_one_text():
    """The colon is a token by itself or one with the line end, as in Qwen's vocabulary."""
    tokenizer = bpe_train("Observ\n" * 20 + "x:\n" * 9, merges=6)
    for text in ("a\nObservation: 3", "a\nObservation:\n3"):
        ids = tokenizer.encode(text)
        stops = StopStrings(["Observation:"])
        shown = "".join(map(stops.push, tokenizer.decode_stream(ids)))
        assert (shown, stops.stopped) == ("a\n", "Observation:")
    assert tokenizer.id_of(":\n") in tokenizer.encode("Observation:\n3")
    assert tokenizer.id_of(":\n") not in tokenizer.encode("Observation: 3")


@pytest.mark.parametrize(
    ("stops", "error", "message"),
    [
        ("Observation:", TypeError, "stop must be a list of strings, got one str"),
        (["a", ""], ValueError, r"stop\[1\] is empty"),
        ([b"a"], TypeError, r"stop\[0\] must be a str, got bytes"),
    ],
)
def test_wrong_stop_strings_are_named(stops, error, message):
    with pytest.raises(error, match=message):
        StopStrings(stops)
