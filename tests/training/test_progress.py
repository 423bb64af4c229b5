import io
import time

import pytest

from eru.training import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_bar_shows_epoch_loss_rate_and_step():
    screen = Terminal()
    with Progress(total_steps=1000, first_step=400, stream=screen) as progress:
        progress.show(epoch=1.25, loss=5.1234, rate=9876.5)
        progress.advance()
    text = screen.getvalue()
    assert "epoch 1.25, loss 5.123, 9,876 samples/s" in text
    assert "401/1000" in text
    assert text.endswith("\n")


def test_lines_of_epochs_stay_above_the_bar():
    screen = Terminal()
    with Progress(total_steps=2, stream=screen) as progress:
        progress.advance()
        progress.end_epoch("epoch 1: loss 5")
    lines = screen.getvalue().split("\n")
    assert any("epoch 1: loss 5, " in line and line.endswith(" left") for line in lines)


def test_without_a_terminal_only_one_line_an_epoch(clock):
    log = io.StringIO()
    with Progress(total_steps=10_000, first_step=4000, stream=log) as progress:
        for epoch in (1, 2):
            for _ in range(1000):
                clock[0] += 2.0
                progress.advance()
                progress.show(epoch=epoch, loss=5.0, rate=1.0)
            progress.end_epoch(f"epoch {epoch}: loss 5")
    # 2 s a step, this run's own steps alone: 5000 and 4000 are left
    assert log.getvalue().splitlines() == [
        "epoch 1: loss 5, 2 h 46 min left",
        "epoch 2: loss 5, 2 h 13 min left",
    ]


@pytest.mark.parametrize(("seconds", "left"), [(0.1, "3 s"), (2.0, "1 min 00 s"), (119.99, "1 h 00 min")])
def test_time_left_is_readable(clock, seconds, left):
    log = io.StringIO()
    with Progress(total_steps=31, stream=log) as progress:
        progress.advance()
        clock[0] += seconds
        progress.end_epoch("done")
    assert log.getvalue() == f"done, {left} left\n"


def test_epoch_line_before_the_first_step_promises_nothing():
    log = io.StringIO()
    with Progress(total_steps=5, first_step=5, stream=log) as progress:
        progress.end_epoch("nothing to do")
    assert log.getvalue() == "nothing to do\n"


@pytest.mark.parametrize("stream_type", [Terminal, io.StringIO])
def test_an_exception_passes_through_and_closes_the_bar(stream_type):
    stream = stream_type()
    progress = Progress(total_steps=5, stream=stream)

    def interrupted():
        with progress:
            progress.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    written = stream.getvalue()
    assert written == "" if stream_type is io.StringIO else written.endswith("\n")
    progress.advance()
    assert stream.getvalue() == written


@pytest.mark.parametrize("stream_type", [Terminal, io.StringIO])
def test_quiet_writes_nothing(stream_type):
    stream = stream_type()
    with Progress(total_steps=5, quiet=True, stream=stream) as progress:
        progress.advance()
        progress.show(epoch=1.0, loss=5.0, rate=1.0)
        progress.end_epoch("epoch 1")
    assert stream.getvalue() == ""


def test_default_is_stderr_and_stdout_stays_empty(capsys):
    with Progress(total_steps=1) as progress:
        progress.advance()
        progress.end_epoch("epoch 1")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("epoch 1")


def test_the_steps_that_are_expected_change_the_time_left(monkeypatch):
    times = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("eru.training.progress.time.monotonic", lambda: next(times))
    log = io.StringIO()
    with Progress(stream=log) as progress:
        progress.expect(4)
        progress.advance()
        progress.end_epoch("one")
        progress.expect(3)
        progress.advance()
        progress.end_epoch("two")
    assert log.getvalue().splitlines() == ["one, 30 s left", "two, 10 s left"]
