"""`minqwen train-classifier`: what is held out, what is printed, what is left out, exit codes."""

import gzip
import json

import numpy as np
import pytest
from data.coins import coins
from helpers.commands import error_of

from minqwen.cli import main
from minqwen.data.classifier_calibration import calibrate
from minqwen.data.classifier_file import load_text_classifier
from minqwen.data.corpora import bilingual_stories
from minqwen.data.text_classifier import good_probability, train_text_classifier

SPAM = [f"BUY {i} cheap pills now, win {i * 7} dollars" for i in range(12)]
STORIES = bilingual_stories(20, 0)


def write_lines(path, texts, field="text"):
    data = "".join(json.dumps({field: text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.fixture
def piles(tmp_path):
    good = write_lines(tmp_path / "good.jsonl.gz", STORIES)
    (tmp_path / "spam").mkdir()
    for i, text in enumerate(SPAM):
        (tmp_path / f"spam/{i:02d}.txt").write_text(text, "utf-8")
    return ["--good", good, "--bad", str(tmp_path / "spam")]


def words(tmp_path, *more):
    return ["train-classifier", *more, "--out", str(tmp_path / "deep/q.npz"), "--buckets", "4096"]


def test_trains_on_four_in_five_and_calibrates_on_the_fifth(tmp_path, piles, capsys):
    assert main(words(tmp_path, *piles)) == 0
    good, bad = ([t for i, t in enumerate(pile) if i % 5] for pile in (STORIES, SPAM))
    fit = train_text_classifier(good, bad, buckets=4096)
    want = calibrate(fit.classifier, STORIES[::5], SPAM[::5])
    found = load_text_classifier(tmp_path / "deep/q.npz")
    np.testing.assert_array_equal(found.w, want.w)
    assert found.b == want.b
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0] == "held out: 4 good, 3 bad; right at 0.5: 100.0%"
    assert lines[1].split() == ["least", "good", "kept", "bad", "kept"]
    for line, limit in zip(lines[2:-1], (0.1, 0.3, 0.5, 0.7, 0.9), strict=True):
        kept = [
            100 * (good_probability(want, pile[::5]) >= limit).mean() for pile in (STORIES, SPAM)
        ]
        assert line.split() == [str(limit), *(f"{share:.1f}%" for share in kept)]
    assert lines[-1] == f"saved as {tmp_path / 'deep/q.npz'}"


def test_as_json_and_the_same_again(tmp_path, piles, capsys):
    assert main(words(tmp_path, *piles, "--json")) == 0
    first, printed = (tmp_path / "deep/q.npz").read_bytes(), capsys.readouterr().out
    figures = json.loads(printed)
    assert figures["held_out"] == {"good": 4, "bad": 3}
    assert figures["right"] == 1
    assert figures["kept"]["0.5"] == {"good": 1, "bad": 0}
    assert main(words(tmp_path, *piles, "--json")) == 0
    assert capsys.readouterr().out == printed
    again = load_text_classifier(tmp_path / "deep/q.npz")
    (tmp_path / "deep/q.npz").write_bytes(first)
    np.testing.assert_array_equal(again.w, load_text_classifier(tmp_path / "deep/q.npz").w)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["q.npz"]


def test_what_is_held_out_is_not_what_was_learnt(tmp_path, capsys):
    """Texts whose kind is a throw of a coin: a classifier that sees them in training is surer."""
    good, bad = coins(2000, 0)
    files = [write_lines(tmp_path / f"{n}.jsonl", p) for n, p in (("good", good), ("bad", bad))]
    assert main(words(tmp_path, "--good", files[0], "--bad", files[1], "--json")) == 0
    right = json.loads(capsys.readouterr().out)["right"]
    assert 0.6 < right < 0.9
    found = load_text_classifier(tmp_path / "deep/q.npz")
    sun, fog, ice = good_probability(found, ["sun", "fog", "ice"])
    np.testing.assert_allclose([sun, fog, ice], [0.9, 0.5, 0.2], atol=0.08)


def test_what_is_no_document_is_told_and_left_out(tmp_path, piles, capsys):
    path = tmp_path / "more.jsonl"
    path.write_bytes(b'{"text": "a fine day"}\n[1]\n\n{"text": 3}\n{"body": "x"}\n\xff\n')
    (tmp_path / "spam/picture.bin").write_bytes(b"\0")
    assert main(words(tmp_path, "--good", str(path), *piles[1:])) == 0
    assert capsys.readouterr().err.splitlines() == [
        "note: left out more.jsonl, line 2: an object is needed, got list",
        "note: left out more.jsonl, line 4: the field 'text' must be a text, got int",
        "note: left out more.jsonl, line 5: the object lacks the field 'text'",
        "note: left out more.jsonl, line 6: not UTF-8 text: 'utf-8' codec can't decode byte 0xff "
        "in position 0: invalid start byte",
        "note: left out spam/picture.bin: not text, it holds NUL bytes",
    ]


def test_field_and_l2_reach_the_training(tmp_path, piles, capsys):
    good = write_lines(tmp_path / "g.jsonl", STORIES, "body")
    bad = write_lines(tmp_path / "b.jsonl", SPAM, "body")
    sizes = {}
    for l2 in ("1e-4", "0.1"):
        command = words(tmp_path, "--good", good, "--bad", bad, "--field", "body", "--l2", l2)
        assert main(command) == 0
        found = load_text_classifier(tmp_path / "deep/q.npz")
        want = train_text_classifier(
            [t for i, t in enumerate(STORIES) if i % 5],
            [t for i, t in enumerate(SPAM) if i % 5],
            buckets=4096,
            l2=float(l2),
        ).classifier
        sizes[l2] = np.abs(found.w).max() / np.abs(want.w).max()  # the scale of the calibration
        np.testing.assert_allclose(found.w, sizes[l2] * want.w, rtol=1e-9, atol=1e-12)
    assert sizes["0.1"] > sizes["1e-4"]


def test_wrong_use_is_one_line_and_leaves_nothing(tmp_path, piles, capsys):
    one = write_lines(tmp_path / "one.jsonl", ["a"])
    for more, message in (
        (["--buckets", "0"], "--buckets and --l2 must be positive, got 0, 0.0001"),
        (["--l2", "nan"], "--buckets and --l2 must be positive"),
        (["--l2", "-1"], "--buckets and --l2 must be positive"),
        (["--l2", "inf"], "--buckets and --l2 must be positive"),
        (["--out", "q.bin"], "--out must end in .npz, got q.bin"),
        (["--good", one], "--good must hold two documents at least, got 1"),
        (["--bad", one], "--bad must hold two documents at least, got 1"),
        (["--bad", str(tmp_path / "none")], "no file or folder"),
        (["--bad", *piles[1:2]], "--good and --bad both name"),
    ):
        assert message in error_of(capsys, *words(tmp_path, *piles), *more), more
        assert not (tmp_path / "deep").exists()
    with pytest.raises(SystemExit) as found:
        main(["train-classifier", "--good", one, "--out", "x.npz"])
    assert found.value.code == 2


def test_upside_down_is_told(tmp_path, capsys):
    """Held-out documents of the other kind: the order is wrong, and nothing is saved."""
    good = write_lines(tmp_path / "g.jsonl", ["pills", "sun", "sun", "sun", "sun"])
    bad = write_lines(tmp_path / "b.jsonl", ["sun", "pills", "pills", "pills", "pills"])
    told = error_of(capsys, *words(tmp_path, "--good", good, "--bad", bad))
    assert "does not rank good before bad" in told
    assert not (tmp_path / "deep").exists()
