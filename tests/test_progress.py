"""Progress on a terminal and in a log."""

from __future__ import annotations

import pytest

from asr_emapl import progress as module
from asr_emapl.progress import Progress


@pytest.fixture
def on_a_terminal(monkeypatch):
    console = module.Console
    monkeypatch.setattr(module, "Console", lambda **options: console(force_terminal=True, **options))


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_name_that_rich_takes_for_markup_cannot_act(on_a_terminal, capsys):
    with Progress("reading", 2.0) as progress:
        progress.at("folder/[red]\x1b]0;title\x07.wav")
    shown = capsys.readouterr().err
    assert r"[red]\x1b]0;title\x07.wav" in shown
    assert "\x1b]0;" not in shown


def test_a_log_gets_a_line_every_30_seconds(clock, capsys):
    """20 s of audio in each 10 s; 200 s remain after 100 s of work."""
    with Progress("decoding dev", 400.0) as progress:
        for _ in range(10):
            clock.now += 10.0
            progress.advance(20.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "decoding dev: 60 of 400 s of audio, 2 x real time, 3 min left"
    assert [line.split()[2] for line in lines] == ["60", "120", "180"]


def test_short_work_prints_nothing(clock, capsys):
    with Progress("decoding dev", 400.0) as progress:
        clock.now += 29.0
        progress.advance(400.0)
    assert capsys.readouterr().err == ""


def test_output_goes_to_standard_output(on_a_terminal, capsys):
    with Progress("transcribing", 1.0) as progress:
        progress.print("A LINE\n")
    assert capsys.readouterr().out == "A LINE\n"
