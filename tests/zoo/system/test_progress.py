from __future__ import annotations

import io

import pytest

from zoo.system.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_tell_how_far_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    stream = io.StringIO()
    with Progress("images", stream=stream) as progress:
        progress.start(100, done=20)
        for _ in range(5):
            clock += 4
            progress.advance(10, loss=0.123456, failed=1)
        clock += 4
    assert stream.getvalue().splitlines() == [
        "50 of 100 images, 2.5 images/s, about 20 s left, loss 0.1235, failed 1",
        "70 of 100 images, 2.1 images/s, about 14 s left, loss 0.1235, failed 1",
    ]


def test_a_run_that_did_nothing_prints_what_was_said_and_no_more() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress("images", stream=stream) as progress:
            progress.say("nothing left to do in [bold]out[/bold]")
        text = stream.getvalue()
        assert "nothing left to do in [bold]out[/bold]" in text
        assert "0/" not in text


def test_a_terminal_gets_a_bar_that_ends_full() -> None:
    stream = Terminal()
    with Progress("steps", stream=stream) as progress:
        progress.start(30)
        for _ in range(3):
            progress.advance(10, loss=1.5)
    assert "30/30" in stream.getvalue()
    assert "steps/s, loss 1.5" in stream.getvalue()


def test_without_a_total_it_counts() -> None:
    stream = io.StringIO()
    with Progress("images", stream=stream) as progress:
        progress.advance(7)
    assert stream.getvalue().startswith("7 images, ")
