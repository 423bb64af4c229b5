import signal
import threading

import pytest

from eru.training import Interrupted, StopSignals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def heard():
    """The signals that reach the program's own handlers, which are back after each test."""
    heard = []
    before = {signum: signal.signal(signum, lambda number, frame: heard.append(number)) for signum in SIGNALS}
    yield heard
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_does_its_work(heard, first, second):
    with StopSignals() as signals:
        assert signals.received is None
        signal.raise_signal(first)
        assert (signals.received, heard) == (first, [])
        signal.raise_signal(second)
        assert (signals.received, heard) == (first, [second])
    signal.raise_signal(first)
    assert heard == [second, first]


def test_the_handlers_are_given_back_after_an_error(heard):
    with pytest.raises(KeyError), StopSignals():
        raise KeyError
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_what_the_process_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert signals.received is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_another_thread_leaves_signals_alone(heard):
    before = [signal.getsignal(signum) for signum in SIGNALS]

    def work():
        with StopSignals():
            found.append([signal.getsignal(signum) for signum in SIGNALS])

    found = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_an_interrupted_training_ends_a_program_that_catches_errors():
    interrupted = Interrupted(signal.SIGTERM, 12)
    assert str(interrupted) == "stopped by SIGTERM after step 12, with the checkpoint saved"
    assert isinstance(interrupted, KeyboardInterrupt)
    assert not isinstance(interrupted, Exception)
