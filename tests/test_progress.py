"""Progress on a terminal and in a log."""

from __future__ import annotations

import re
import time

import pytest

from asr_emapl import progress as module
from asr_emapl.progress import Progress, track


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


def test_units_other_than_audio_have_no_speed(clock, capsys):
    with Progress("reading headers", 10, "files") as progress:
        clock.now += 40.0
        progress.advance(4)
    assert capsys.readouterr().err == "reading headers: 4 of 10 files, 60 s left\n"


def test_what_was_done_before_does_not_count_for_the_time_left(clock, capsys):
    with Progress("a.tar", 100.0, "MB", done=60.0) as progress:
        clock.now += 40.0
        progress.advance(20.0)
    assert capsys.readouterr().err == "a.tar: 80 of 100 MB, 40 s left\n"


def test_an_unknown_total(clock, capsys):
    with Progress("a.tar", None, "MB") as progress:
        clock.now += 40.0
        progress.advance(20.0)
    assert capsys.readouterr().err == "a.tar: 20 MB\n"


def test_a_line_is_printed_during_a_step_that_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.02)
    with Progress("measuring", 10, "steps"):
        deadline = time.monotonic() + 30.0
        while not (said := capsys.readouterr().err):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert said.startswith("measuring: 0 of 10 steps\n")


def test_tracked_items_are_counted_when_they_are_made(clock, capsys):
    def made():
        for item in range(3):
            clock.now += 20.0
            yield item

    assert list(track(made(), "segmenting", 3, "recordings")) == [0, 1, 2]
    assert capsys.readouterr().err == "segmenting: 2 of 3 recordings, 20 s left\n"


def test_all_numbers_of_the_bar_have_a_unit(on_a_terminal, clock, capsys):
    with Progress("decoding dev", 400.0) as progress:
        clock.now += 40.0
        progress.advance(80.0)
    *_, shown = re.findall(
        r"decoding dev[^\r\n]*", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    )
    assert shown.split(maxsplit=3)[3].strip() == "80 of 400 s of audio, 2 x real time, 3 min left"


def test_short_work_prints_nothing(clock, capsys):
    with Progress("decoding dev", 400.0) as progress:
        clock.now += 29.0
        progress.advance(400.0)
    assert capsys.readouterr().err == ""


def test_output_goes_to_standard_output(on_a_terminal, capsys):
    with Progress("transcribing", 1.0) as progress:
        progress.print("A LINE\n")
    assert capsys.readouterr().out == "A LINE\n"
