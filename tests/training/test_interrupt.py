"""Signals wait while they are held, and only then."""

import signal
import threading

import pytest

from minqwen.training.interrupt import Interrupts


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_raises_at_once_outside_and_at_the_end_inside(number, error):
    done = []

    def outside():
        with Interrupts():
            signal.raise_signal(number)
            done.append("after the signal, outside")

    def inside():
        with Interrupts() as interrupts:
            with interrupts.held():
                signal.raise_signal(number)
                signal.raise_signal(number)
                done.append("inside")
            done.append("after the block")

    with pytest.raises(error):
        outside()
    with pytest.raises(error):
        inside()
    assert done == ["inside"]


def test_an_error_inside_is_not_lost():
    def fail():
        with Interrupts() as interrupts, interrupts.held():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("first")

    with pytest.raises(KeyboardInterrupt) as raised:
        fail()
    assert isinstance(raised.value.__context__, ValueError)


def test_a_handler_of_somebody_else_is_called_after_the_block():
    calls = []
    old = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with Interrupts() as interrupts:
            with interrupts.held():
                signal.raise_signal(signal.SIGTERM)
                assert calls == []
            assert calls == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert calls == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, old)


def test_an_ignored_signal_stays_ignored():
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, old)


def test_does_nothing_in_another_thread():
    handlers = []

    def work():
        with Interrupts() as interrupts, interrupts.held():
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]
