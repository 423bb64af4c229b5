import io
import sys
import time

import pytest

from eru.training import Progress, counted


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
        progress.show(epoch=1.25, figures="loss 5.123", rate=9876.5)
        progress.advance()
        progress.expect(1000)
    text = screen.getvalue()
    assert "401/1000, epoch 1.25, loss 5.123, 9,876 samples/s" in text
    assert text.endswith("\r")
    assert "\n" not in text


def test_lines_of_epochs_stay_above_the_bar():
    screen = Terminal()
    with Progress(total_steps=3, stream=screen) as progress:
        progress.advance()
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
                progress.show(epoch=epoch, figures="loss 5", rate=1.0)
            progress.end_epoch(f"epoch {epoch}: loss 5")
    # 2 s a step, this run's own steps alone: 5000 and 4000 are left
    assert log.getvalue().splitlines() == [
        "epoch 1: loss 5, 2 h 46 min left",
        "epoch 2: loss 5, 2 h 13 min left",
    ]


@pytest.mark.parametrize(("seconds", "left"), [(0.1, "3 s"), (2.0, "1 min 00 s"), (119.99, "1 h 00 min")])
def test_time_left_is_readable(clock, seconds, left):
    log = io.StringIO()
    with Progress(total_steps=32, stream=log) as progress:
        progress.advance()
        clock[0] += seconds
        progress.advance()
        progress.end_epoch("done")
    assert log.getvalue() == f"done, {left} left\n"


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_no_time_is_promised_before_the_second_step_and_after_the_last(clock, steps):
    log = io.StringIO()
    with Progress(total_steps=5, stream=log) as progress:
        for _ in range(steps):
            clock[0] += 9.0
            progress.advance()
        progress.end_epoch("epoch 1")
    assert log.getvalue() == "epoch 1\n"


def test_the_first_step_which_warms_up_does_not_count(clock):
    screen = Terminal()
    with Progress(total_steps=100, stream=screen) as progress:
        for seconds in (3600.0, 0.1, 0.1):
            clock[0] += seconds
            progress.advance()
        progress.end_epoch("epoch 1")
    assert "epoch 1, 10 s left" in screen.getvalue()
    assert " h " not in screen.getvalue()


def test_a_validation_is_shown_where_the_figures_were():
    screen = Terminal()
    with Progress(total_steps=2, stream=screen) as progress:
        progress.advance()
        progress.advance()
        progress.show(epoch=1.0, figures="loss 5", rate=1.0)
        count = progress.validating(8)
        for _ in range(4):
            count(2)
        during = screen.getvalue()
        progress.end_epoch("epoch 1")
    for share in ("25%", "50%", "75%", "100%"):
        assert f"2/2, validating {share}" in during
    assert "\n" not in during
    assert screen.getvalue().rpartition("epoch 1")[2].count("validating") == 0


def test_a_line_that_is_said_has_no_time_left(clock):
    log = io.StringIO()
    with Progress(total_steps=9, stream=log) as progress:
        for _ in range(3):
            clock[0] += 1.0
            progress.advance()
        progress.say("stopped in epoch 1")
    assert log.getvalue() == "stopped in epoch 1\n"


@pytest.mark.parametrize(
    ("stream_type", "quiet", "shown"), [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)]
)
def test_counted_work_is_shown_on_a_terminal_and_leaves_no_line(monkeypatch, stream_type, quiet, shown):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", stream_type())
    with counted(40, "reading", unit="tokens", quiet=quiet) as count:
        for _ in range(4):
            now[0] += 2.0
            count(10)
    text = sys.stderr.getvalue()
    assert ("reading" in text and "20/40" in text and "00:04<00:04" in text and "tokens/s" in text) == shown
    assert "\n" not in text
    assert bool(text) == shown


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
    assert written == "" if stream_type is io.StringIO else written.endswith("\r")
    progress.advance()
    assert stream.getvalue() == written


@pytest.mark.parametrize("stream_type", [Terminal, io.StringIO])
def test_quiet_writes_nothing(stream_type):
    stream = stream_type()
    with Progress(total_steps=5, quiet=True, stream=stream) as progress:
        progress.advance()
        progress.show(epoch=1.0, figures="loss 5", rate=1.0)
        progress.validating(1)(1)
        progress.end_epoch("epoch 1")
        progress.say("stopped")
    assert stream.getvalue() == ""


def test_default_is_stderr_and_stdout_stays_empty(capsys):
    with Progress(total_steps=1) as progress:
        progress.advance()
        progress.end_epoch("epoch 1")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("epoch 1")


def test_the_steps_that_are_expected_change_the_time_left(clock):
    log = io.StringIO()
    with Progress(stream=log) as progress:
        progress.expect(5)
        for _ in range(2):
            clock[0] += 10.0
            progress.advance()
        progress.end_epoch("one")
        progress.expect(4)
        clock[0] += 10.0
        progress.advance()
        progress.end_epoch("two")
    assert log.getvalue().splitlines() == ["one, 30 s left", "two, 10 s left"]
