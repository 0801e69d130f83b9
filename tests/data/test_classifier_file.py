"""File of a classifier: what comes back, and what is refused."""

import random

import numpy as np
import pytest

from minqwen.data.classifier_file import load_text_classifier, save_text_classifier
from minqwen.data.text_classifier import TextClassifier, good_probability, train_text_classifier

TEXTS = ["a small cat", "", "一只小猫 cat cat", "buy it now", "cat"]


def test_saved_and_loaded(tmp_path):
    fit = train_text_classifier(
        ["a fine day"], ["BUY BUY"], buckets=64, character_ngrams=(1, 2), word_ngrams=(1,)
    )
    path = tmp_path / "quality.npz"
    save_text_classifier(fit.classifier, path)
    loaded = load_text_classifier(path)
    assert loaded.character_ngrams == (1, 2)
    assert loaded.word_ngrams == (1,)
    np.testing.assert_array_equal(
        good_probability(loaded, TEXTS), good_probability(fit.classifier, TEXTS)
    )
    np.savez(path, w=np.zeros(3))
    with pytest.raises(ValueError, match=r"quality\.npz is not a 'minqwen text classifier 1'"):
        load_text_classifier(path)
    with pytest.raises(ValueError, match=r"must end in \.npz, got .*quality\.bin"):
        save_text_classifier(fit.classifier, tmp_path / "quality.bin")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "quality.npz"
    old = TextClassifier(np.ones(4), np.zeros(()), (1,), (1,))
    save_text_classifier(old, path)
    assert list(tmp_path.iterdir()) == [path]  # nothing else is left

    def stops(file, **arrays):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", stops)
    with pytest.raises(OSError, match=r"No space left on device: '.*quality\.npz'"):
        save_text_classifier(old._replace(w=np.zeros(4)), path)
    np.testing.assert_array_equal(load_text_classifier(path).w, old.w)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_wrong_bytes_is_named(tmp_path):
    """Most of the file is weights, which have a checksum; what stands around them has none."""
    path, rng = tmp_path / "q.npz", random.Random(0)
    save_text_classifier(TextClassifier(np.arange(9.0), np.array(1.0), (2,), (1,)), path)
    whole, told = path.read_bytes(), []
    for _ in range(200):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            found = load_text_classifier(path).w.tolist()
        except ValueError as error:  # and no other
            told.append(str(error))
        else:
            assert found == list(range(9))
    assert set(told) == {f"{path} is not a 'minqwen text classifier 1', or is damaged"}
    assert len(told) > 50


def test_what_is_no_classifier_is_named_whatever_it_is(tmp_path):
    path = tmp_path / "q.npz"
    save_text_classifier(TextClassifier(np.arange(64.0), np.array(1.0), (2,), (1,)), path)
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[:40], whole[:-30], whole[:200] + b"x" * 99 + whole[299:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"q\.npz is not a 'minqwen text classifier 1', or is"):
            load_text_classifier(path)
    wrong = [
        {"w": np.zeros(0)}, {"w": np.full(8, np.nan)}, {"w": np.zeros(8, complex)},
        {"w": np.zeros((2, 4))}, {"w": np.array(["a"])}, {"b": np.zeros(3)},
        {"b": np.array(np.inf)}, {"character_ngrams": np.array([2, -1])},
        {"word_ngrams": np.array([0])}, {"word_ngrams": np.array(["x"])},
        {"word_ngrams": np.zeros((2, 2))}, {"character_ngrams": np.array(3)},
    ]  # fmt: skip
    right = {
        "format": np.array("minqwen text classifier 1"), "w": np.zeros(8), "b": np.zeros(()),
        "character_ngrams": np.array([2]), "word_ngrams": np.array([], np.int64),
    }  # fmt: skip
    np.savez(path, **right)
    assert load_text_classifier(path).word_ngrams == ()
    for parts in wrong:
        np.savez(path, **(right | parts))
        with pytest.raises(ValueError, match=r"q\.npz is not a 'minqwen text classifier 1', or is"):
            load_text_classifier(path)
    for save, value in ((np.save, np.zeros(3)), (np.savez, np.zeros(3))):
        with path.open("wb") as stream:
            save(stream, value)
        with pytest.raises(ValueError, match=r"q\.npz is not a 'minqwen text classifier 1', or is"):
            load_text_classifier(path)
