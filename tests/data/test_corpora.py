"""The embedded text: there, deterministic, and with sums that are right."""

import operator
import re

import pytest

from minqwen.data import corpora
from minqwen.data.corpora import bilingual_stories, python_reference, standard_library_code

OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a // b if a % b == 0 else None,
}
CHINESE = re.compile("[\u4e00-\u9fff]")


def test_python_reference_is_english_text():
    documents = python_reference()
    assert len(documents) > 50
    assert 300_000 < sum(map(len, documents)) < 2_000_000
    assert documents == python_reference()
    assert sum(text.count(" the ") for text in documents) > 2000


def test_standard_library_code_fits_and_grows_from_the_same_start():
    small, large = standard_library_code(20_000), standard_library_code(300_000)
    assert large == standard_library_code(300_000)
    for documents, most in ((small, 20_000), (large, 300_000)):
        assert most - 2000 < sum(len(text.encode()) for text in documents) <= most
        assert all(text.endswith("\n") for text in documents[-1:])
    assert small[:-1] == large[: len(small) - 1]
    assert large[len(small) - 1].startswith(small[-1])
    assert any("def " in text for text in large)
    assert standard_library_code(0) == []


def test_standard_library_code_errors(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="max_bytes must not be negative"):
        standard_library_code(-1)
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no sources of the standard library"):
        standard_library_code(10)


def test_installed_packages_tests_and_other_encodings_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path))
    for name in ("a.py", "b/c.py", "site-packages/d.py", "test/e.py", "b/tests/f.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\r\n", encoding="utf-8", newline="")
    (tmp_path / "latin.py").write_bytes("# é\n".encode("latin-1"))
    (tmp_path / "empty.py").write_bytes(b"")
    assert standard_library_code(1000) == ["# a.py\n", "# b/c.py\n"]


def test_every_sum_in_the_stories_is_right_and_follows_the_one_before():
    for story in bilingual_stories(2000, seed=0):
        for part in story.split("\n\n")[1::2]:  # after the title, in each language
            start = int(re.search(r"(?:had |有)(\d+)", part)[1])
            sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", part)
            assert 2 <= len(sums) <= 4
            for a, sign, b, result in sums:
                assert int(a) == start
                start = OPERATIONS[sign](int(a), int(b))
                assert start == int(result) >= 1
            answer = re.search(r"(?:\? |？)(\d+)", part)
            assert int(answer[1]) == start


def test_the_stories_are_seeded_varied_and_in_both_languages():
    stories = bilingual_stories(1000, seed=1)
    assert stories == bilingual_stories(1000, seed=1)
    assert stories[:10] == bilingual_stories(10, seed=1)
    assert stories[:10] != bilingual_stories(10, seed=2)
    assert len(set(stories)) > 990
    chinese = sum(bool(CHINESE.search(story)) for story in stories)
    english = sum(" had " in story for story in stories)
    assert 500 < chinese < 700
    assert 500 < english < 700
    assert chinese + english - 1000 > 100  # in both
    assert {sign for sign in "+-*/" for story in stories if f" {sign} " in story} == set("+-*/")


def test_the_grammar_fills_every_gap_and_begins_sentences_with_capitals():
    for story in bilingual_stories(2000, seed=2):
        assert "{" not in story
        assert "}" not in story
        assert not re.search(r"[.!?] [a-z]", story)
        assert not re.search(r"(?<!\d)1 (apples|eggs|books|coins|candles)", story)
        assert story.endswith("\n")
        assert not story.endswith("\n\n")


def test_story_errors_and_nothing():
    assert bilingual_stories(0, seed=0) == []
    with pytest.raises(ValueError, match="n must not be negative"):
        bilingual_stories(-1, seed=0)
