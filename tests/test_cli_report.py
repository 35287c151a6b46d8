"""The command report: tables without --out, a page with it, and what is asked for wrongly."""

from __future__ import annotations

import json

import pytest
from support.logged_runs import write_lines, write_run
from support.tiny import make_corpus, tiny_config
from typer.testing import CliRunner

from asr_emapl.cli import app
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", [40.0], config="")


@pytest.fixture
def timed(run):
    """A run of which is known what its time went to."""
    phases = ("data", "features", "teacher", "student", "communication", "optimizer")
    times = {**dict.fromkeys(phases, 1.0), "audio": 60.0, "padded": 80.0}
    write_lines(run / "speed.jsonl", [{"step": 2, "hours": 1.0, "ranks": [times]}])
    return run


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "dev.jsonl"
    write_manifest(path, [Utterance("a", str(tmp_path / "a.wav"), 1.0, "ONE TWO")])
    return path


def report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def refused(*arguments) -> str:
    result = report(*arguments)
    assert isinstance(result.exception, UserError)
    return str(result.exception)


def test_a_table_and_json(timed):
    assert "throughput, x real time  10" in report(timed).output
    found = json.loads(report(f"mine={timed}", "--json").output)
    assert found["mine"]["speed"] == pytest.approx(10.0)


def test_the_page_comes_with_the_table(timed, tmp_path):
    out = tmp_path / "page.html"
    result = report(timed, "--out", out)
    assert "throughput, x real time  10" in result.output
    assert str(out) in result.output.replace("\n", "")
    assert "Time and audio" in out.read_text()


def test_without_times_there_is_the_page(run, tmp_path):
    assert "has no times yet" in refused(run)
    out = tmp_path / "page.html"
    assert report(run, "--out", out).exit_code == 0
    assert "Time and audio" not in out.read_text()


def test_curves_for_papers_need_no_times_and_no_page(run, tmp_path):
    result = report(run, "--figures", tmp_path / "figures")
    assert result.exit_code == 0
    assert (tmp_path / "figures" / "scaling.svg").exists()
    assert "scaling.svg" in result.output.replace("\n", "")


def test_hypotheses_of_each_run(run, manifest, tmp_path):
    write_lines(tmp_path / "hyp.jsonl", [{"id": "a", "text": "ONE"}])
    out = tmp_path / "page.html"
    result = report(run, "--out", out, "--manifest", manifest, "--hypotheses", tmp_path / "hyp.jsonl")
    assert result.exit_code == 0, result.output
    assert "<del>TWO</del>" in out.read_text()


def test_what_is_asked_for_wrongly(run, manifest, tmp_path):
    out = ("--out", tmp_path / "page.html")
    some = ("--hypotheses", tmp_path / "hyp.jsonl")
    assert "require --manifest" in refused(run, *out, "--decode")
    assert "either" in refused(run, *out, "--manifest", manifest)
    assert "either" in refused(run, *out, "--manifest", manifest, "--decode", *some)
    assert "2 --hypotheses for 1 runs" in refused(run, *out, "--manifest", manifest, *some, *some)
    assert "has no checkpoint" in refused(run, *out, "--manifest", manifest, "--decode")
    assert "--out" in refused(run, "--manifest", manifest, *some)
    assert not (tmp_path / "page.html").exists()


def test_decoding_by_each_runs_last_checkpoint(tmp_path):
    make_corpus(tmp_path)
    train(tiny_config(tmp_path, "hours=0.002", "validation.every_hours=null"))
    out = tmp_path / "page.html"
    wanted = ("--manifest", tmp_path / "dev.jsonl", "--decode", "--model", "student", "--worst", 2)
    result = report(tmp_path / "run", "--out", out, *wanted)
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "dev.jsonl, decoded with the student" in page
    assert page.count("<audio") == 2
    assert page.count("data:audio/mpeg") == 2
