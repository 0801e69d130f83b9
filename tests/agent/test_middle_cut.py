"""The beginning and the end of a text are kept, in bounded memory."""

import pytest

from minqwen.agent.middle_cut import MiddleCut, cut_middle


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 9, 10, 11, 50])
def test_pieces_give_what_the_whole_gives(limit, size):
    text = "".join(chr(97 + i % 26) for i in range(size))
    cut = MiddleCut(limit)
    heads = [cut.add(piece) for piece in text]
    assert cut.text() == cut_middle(text, limit)
    assert "".join(heads) == cut.first  # what may be shown at once


def test_what_is_kept_and_what_is_said():
    text = "0123456789" * 10
    cut = cut_middle(text, 7)
    assert cut.startswith(text[:4] + "\n")
    assert cut.endswith("\n" + text[-3:])
    assert "[93 characters left out]" in cut


def test_nothing_is_cut_at_the_limit():
    assert cut_middle("x" * 10, 10) == "x" * 10


def test_memory_is_bounded():
    for limit in (1, 100):
        cut = MiddleCut(limit)
        for _ in range(1000):
            cut.add("y" * 1000)
        assert len(cut.first) + len(cut.last) <= 2 * limit
        assert cut.length == 1_000_000
