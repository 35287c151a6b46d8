"""What reaches a terminal cannot act on it; what a program reads stays as it is."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.terminal import (
    RUN_LOGGER,
    print_log,
    print_table,
    put,
    say,
    say_written,
    time_text,
    visible,
    warn,
)

EVIL = "[/x] \x1b[31m\x9b2J\x07\r\x7f\u202e\u2028\ud800 :smile: [bold]"
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_escapes_are_readable_and_other_text_is_left_alone():
    assert visible("\x1b[2J\x9b\u202e\x7f") == r"\x1b[2J\u009b\u202e\u007f"
    ordinary = "D\u00fcrer \u65e5\u672c\u8a9e \u0915\u094d\u200d\u0937 \U0001f468\u200d\U0001f469 [x] :y:\t\n"
    assert visible(ordinary) == ordinary
    assert visible("a\tb\n", keep="") == r"a\x09b\x0a"


@given(st.text(st.characters()))
def test_nothing_active_remains(text):
    shown = visible(text)
    assert not ACTIVE.search(shown)
    shown.encode("utf-8")
    assert visible(shown) == shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_stays_json(text):
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert json.loads(visible(line)) == {"text": text}


def test_lines_and_tables(capsys):
    say(f"a {EVIL}\nb")
    warn(EVIL)
    print_table(["", EVIL], [["[/y]", EVIL + "\n"], ["[red]a", "b"]])
    told = capsys.readouterr()
    for text in told:
        assert not ACTIVE.search(text)
        assert r"[/x] \x1b[31m" in text
        assert ":smile: [bold]" in text
    assert told.out.count("\n") == 2 + 3
    assert "[red]a" in told.out


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(io.StringIO, False), (_Terminal, True)])
def test_data_is_exact_unless_a_person_reads_it(monkeypatch, stream, shown):
    monkeypatch.setattr(sys, "stdout", stream())
    put("a\x1b[2J\tb\r\n")
    assert sys.stdout.getvalue() == ("a\\x1b[2J\tb\\x0d\n" if shown else "a\x1b[2J\tb\r\n")


def test_a_result_on_standard_output_is_not_mixed_with_words_about_it(capsys):
    say_written("/dev/stdout", "written")
    assert capsys.readouterr() == ("", "written\n")
    say_written("out", "written")
    assert capsys.readouterr() == ("written\n", "")


def test_only_the_lines_of_a_run_are_output(capsys):
    """What the library says meanwhile must not get into the JSON of a command."""
    print_log()
    logging.getLogger(RUN_LOGGER).info("a line of the run")
    logging.getLogger("asr_emapl.data.manifest").info("indexing")
    logging.getLogger("asr_emapl.data.manifest").warning("damaged")
    out, err = capsys.readouterr()
    assert out == "a line of the run\n"
    assert err == "indexing\nwarning: damaged\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99.0, "99 s"), (100.0, "2 min"), (5900.0, "98 min"), (6000.0, "1.7 h"), (1e5, "27.8 h")],
)
def test_wall_clock_times_have_a_natural_unit(seconds, text):
    assert time_text(seconds) == text


def test_percentages_are_written_with_a_space():
    """Python's format "%" writes 12.3%; messages and pages have 12.3 %."""
    root = Path(__file__).parent.parent
    files = [file for part in ("asr_emapl", "data_prep", "recipes") for file in (root / part).rglob("*.py")]
    assert files
    assert not [file for file in files if re.search(r":[,.\d]*%\}", file.read_text(encoding="utf-8"))]
