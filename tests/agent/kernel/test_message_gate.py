"""The gate: what a stream says of its messages, however it is cut, and two ends that hear it."""

import random
import socket
import sys
from itertools import pairwise

import pytest

from minqwen.agent.kernel import message_gate as mg

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
LARGEST = 300


def part(size, flags=0):
    if size > 255:
        return bytes([flags | mg.LONG]) + size.to_bytes(8) + bytes(size)
    return bytes([flags, size]) + bytes(size)


def verdict(stream, cuts=()):
    """Return what the gate says of a stream that comes in pieces."""
    size = mg.MessageSize(LARGEST)
    places = [0, *sorted(cuts), len(stream)]
    try:
        for begin, end in pairwise(places):
            size.take(stream[begin:end])
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([part(300)], ""),
        ([part(301)], "more than 300 bytes"),
        ([part(200, mg.MORE), part(100)], ""),
        ([part(200, mg.MORE), part(101)], "more than 300 bytes"),
        ([part(200), part(200), part(200)], ""),
        ([part(100, mg.MORE), part(0), part(299)], ""),
        # a command in between neither counts nor ends the message
        ([part(200, mg.MORE), part(200, mg.COMMAND), part(100)], ""),
        ([part(200, mg.MORE), part(5, mg.COMMAND), part(101)], "more than 300 bytes"),
        ([part(301, mg.COMMAND)], "more than 300 bytes"),
        ([part(0, mg.MORE)] * 64, ""),
        ([part(0, mg.MORE)] * 65, "more than 64 parts"),
        ([part(0, mg.MORE)] * 63 + [part(0)], ""),
    ],
)
def test_sizes_are_counted_wherever_the_stream_is_cut(parts, message):
    rng = random.Random(0)
    stream = GREETING + b"".join(parts)
    for cuts in ([], range(len(stream)), *(rng.sample(range(len(stream)), 9) for _ in range(20))):
        assert message in verdict(stream, cuts)
        assert bool(verdict(stream, cuts)) == bool(message)


def test_a_size_is_believed_before_its_bytes_come():
    assert "more than 300 bytes" in verdict(GREETING + bytes([mg.LONG]) + (2**63).to_bytes(8))


@pytest.mark.parametrize(
    "greeting",
    [bytes(64), GREETING.replace(b"\x7f\x03", b"\x7f\x01"), GREETING.replace(b"\x7f", b"\x7e")],
    ids=["no greeting", "version 1", "no version"],
)
def test_an_older_peer_is_sent_away(greeting):
    assert "another protocol" in verdict(greeting)


@pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")
def test_two_ends_hear_each_other_until_a_message_is_too_large(tmp_path):
    with socket.socket(socket.AF_UNIX) as kernel, socket.socket(socket.AF_UNIX) as ours:
        kernel.bind(str(tmp_path / "k"))
        kernel.listen(1)
        gate = mg.MessageGate(str(tmp_path / "g"), str(tmp_path / "k"), LARGEST)
        ours.connect(str(tmp_path / "g"))
        gate.open()
        with kernel.accept()[0] as other:
            ours.sendall(bytes(1000))  # from our side all passes
            assert other.recv(1000, socket.MSG_WAITALL) == bytes(1000)
            other.sendall(GREETING + part(300))
            assert ours.recv(64 + 309, socket.MSG_WAITALL) == GREETING + part(300)
            other.sendall(part(200, mg.MORE))
            assert ours.recv(202, socket.MSG_WAITALL) == part(200, mg.MORE)
            other.sendall(part(200))
            assert ours.recv(1) == b""  # it hung up
        gate.close()
        gate.close()


@pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")
def test_where_nobody_calls_or_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(mg, "OPEN_SECONDS", 0.05)
    gate = mg.MessageGate(str(tmp_path / "g"), str(tmp_path / "none"), LARGEST)
    with pytest.raises(TimeoutError):
        gate.open()
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(str(tmp_path / "g"))
        with pytest.raises(FileNotFoundError):
            gate.open()
    gate.close()
