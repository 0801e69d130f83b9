"""The frames between the checker and a stranger's process: no byte of one is believed."""

import struct

import numpy as np
import pytest

from minqwen.check.outside.messages import (
    KINDS,
    MAGIC,
    MAX_NOTES,
    Damaged,
    Reply,
    clean,
    pack,
    read_frame,
    read_reply,
    stream,
    write_reply,
)


def test_every_cut_or_changed_frame_is_damaged_or_means_the_same():
    """No byte of a reply can do more than damage it or change a number."""
    found = []
    reply = Reply((np.arange(3.0),), ("float64",), {"x": np.ones(2), "w": None}, ("x",))
    frame = pack({"id": 1, "replies": [write_reply(reply, found)]}, found)
    for length in range(1, len(frame)):
        with pytest.raises(Damaged):
            read_frame(stream(frame[:length]))
    with pytest.raises(EOFError):
        read_frame(stream(b""))
    rng = np.random.default_rng(0)
    for _ in range(3000):
        changed = bytearray(frame)
        changed[rng.integers(len(frame))] = rng.integers(256)
        try:
            header, arrays = read_frame(stream(bytes(changed)))
            back = read_reply(header["replies"][0], arrays, "", 0.0)
        except (Damaged, KeyError):
            continue
        assert all(isinstance(y, np.ndarray) for y in back.outputs or ())


@pytest.mark.parametrize(
    "text",
    [
        b'{"header": {}, "arrays": [["float64", [1000000000, 1000000000]]]}',
        b'{"header": {}, "arrays": [["float64", [-1]]]}',
        b'{"header": {}, "arrays": [["float64", [true]]]}',
        b'{"header": {}, "arrays": [["object", [1]]]}',
        b'{"header": {}, "arrays": [["O", [1]]]}',
        b'{"header": {}, "arrays": 3}',
        b'{"header": [], "arrays": []}',
        b"[" * 100_000,
        b"\xff",
        b"3",
    ],
)
def test_forged_headers_are_damaged(text):
    with pytest.raises(Damaged):
        read_frame(stream(MAGIC + struct.pack("<IQ", len(text), 0) + text))


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": [5]},
        {"outputs": [-1]},
        {"outputs": [True]},
        {"outputs": None},
        {"outputs": 3},
        {"dtypes": []},
        {"dtypes": [3]},
        {"gradients": {"x": "no"}},
        {"problem": ["odd kind", "says", ""]},
        {"problem": ["raised"]},
        {"changed": 3},
    ],
)
def test_forged_replies_are_damaged(changes):
    found = []
    header = write_reply(Reply((np.ones(1),), ("float64",)), found)
    assert read_reply(header, found, "", 0.0).outputs[0] == 1
    with pytest.raises(Damaged):
        read_reply({**header, **changes}, found, "", 0.0)


def test_a_forged_reply_cannot_fill_the_report():
    found = []
    header = write_reply(Reply((np.ones(1),), ("float64",)), found)
    many = {"notes": ["a" * 10_000] * 1000, "changed": ["x" * 10_000] * 1000}
    reply = read_reply({**header, **many}, found, "", 0.0)
    assert [len(reply.notes), len(reply.changed)] == [MAX_NOTES] * 2
    assert max(map(len, (*reply.notes, *reply.changed))) <= 200


def test_texts_from_outside_are_one_clean_line():
    assert clean("a\nb\t\x1b]0;title\x07") == "a b ?]0;title?"
    assert len(clean("a" * 10_000)) == 500
    assert "hung" in KINDS
