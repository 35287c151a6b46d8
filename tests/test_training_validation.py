"""Saved before validated: signals, kills and lost files during validation change no number."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support.runs import finish, launch, read_log
from support.tiny import make_corpus, tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints import manager as checkpoint_manager
from asr_emapl.runs.reader import logged_validation
from asr_emapl.training import validation
from asr_emapl.training.trainer import train

# Validations at .005 h, .01 h, and at the end.
HOURS = ("hours=0.012",)
SETTINGS = {"checkpoints due": HOURS, "only validations due": (*HOURS, "checkpoint.every_hours=null")}


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> dict[str, Path]:
    """Uninterrupted runs."""
    runs = {}
    for name, overrides in SETTINGS.items():
        runs[name] = tmp_path_factory.mktemp("whole")
        train(tiny_config(corpus, f"run_dir={runs[name]}", *overrides))
    return runs


def validations(run: Path) -> list[dict]:
    return [line for line in read_log(run) if line["event"] == "validation"]


def best(run: Path) -> str:
    return (run / "checkpoints" / "best.pt").resolve().name


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*.pt"))


def at_batch(monkeypatch: pytest.MonkeyPatch, number: int, act) -> None:
    """Have `act` called when the validation batch of this number, over all validations, has been decoded."""
    posteriors, count = validation.posteriors, [0]

    def counted(*arguments, **options):
        for batch in posteriors(*arguments, **options):
            count[0] += 1
            if count[0] == number:
                act()
            yield batch

    monkeypatch.setattr(validation, "posteriors", counted)


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Names of the checkpoints that are written, in their order."""
    names, save = [], checkpoint_manager.save

    def noted(path, state):
        names.append(path.name)
        save(path, state)

    monkeypatch.setattr(checkpoint_manager, "save", noted)
    return names


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("batch", [1, 2])  # of two
def test_a_signal_during_validation_ends_it_and_it_is_made_on_resume(
    corpus, tmp_path, monkeypatch, capsys, whole, written, settings, batch
):
    run = tmp_path / "run"
    config = tiny_config(corpus, f"run_dir={run}", *SETTINGS[settings])
    with monkeypatch.context() as patched:
        at_batch(patched, batch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        last = train(config)
    assert "stopped as requested" in capsys.readouterr().out
    assert validations(run) == []
    assert last is not None
    assert checkpoint.load(last)["step"] == read_log(run)[-1]["step"]
    assert checkpoint.load(last)["validation_due"]
    train(config)
    assert (run / "log.jsonl").read_text() == (whole[settings] / "log.jsonl").read_text()
    assert best(run) == best(whole[settings])
    assert len(written) == len(set(written))


class Killed(BaseException):
    """In place of kill -9: no handler of the package's takes it for an error."""


@pytest.mark.parametrize("settings", SETTINGS)
def test_whatever_is_lost_after_the_save_is_made_again(corpus, tmp_path, monkeypatch, whole, settings):
    """Killed in the second validation; what had been written after the last checkpoint is then cut off."""
    run = tmp_path / "run"
    config = tiny_config(corpus, f"run_dir={run}", *SETTINGS[settings])
    with monkeypatch.context() as patched:
        at_batch(patched, 3, _kill)
        with pytest.raises(Killed):
            train(config)
    assert len(validations(run)) == 1
    train(config)
    assert (run / "log.jsonl").read_text() == (whole[settings] / "log.jsonl").read_text()
    assert best(run) == best(whole[settings])
    expected = checkpoints(whole[settings])
    assert checkpoints(run)[-1] == expected[-1]


def _kill() -> None:
    raise Killed


def test_a_validation_that_is_in_the_log_is_not_made_again(corpus, tmp_path, monkeypatch, whole):
    """A run that ended right after it, or was killed before its next checkpoint, goes on from there."""
    overrides = SETTINGS["checkpoints due"]
    run = tmp_path / "run"
    first = train(tiny_config(corpus, f"run_dir={run}", *overrides, "hours=0.005"))
    assert first is not None
    (line,) = validations(run)
    assert checkpoint.load(first)["log_lines"] == len(read_log(run)) - 1
    assert logged_validation(run, line["step"], line["step"]) == line["wer"]
    (run / "checkpoints" / "best.pt").unlink()
    calls: list[None] = []
    at_batch(monkeypatch, 1, lambda: calls.append(None))
    before = (run / "log.jsonl").read_text()
    train(tiny_config(corpus, f"run_dir={run}", *overrides, "hours=0.005"))
    assert calls == []
    assert (run / "log.jsonl").read_text() == before
    assert best(run) == first.name
    train(tiny_config(corpus, f"run_dir={run}", *overrides))
    assert (run / "log.jsonl").read_text() == (whole["checkpoints due"] / "log.jsonl").read_text()
    # A last validation that a signal cut off is made although the hours are used up.
    log = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(log[:-1]) + log[-1][:20])
    train(tiny_config(corpus, f"run_dir={run}", *overrides))
    assert (run / "log.jsonl").read_text() == "".join(log)


@pytest.mark.parametrize("tail", [b"", b'{"event": "step", "step": 7}\n', b'{"event": "validat', b"\xff\n"])
def test_what_is_no_validation_of_that_step_is_none(tmp_path, tail):
    assert logged_validation(tmp_path, 1, 7) is None
    line = b'{"event": "validation", "step": 7, "hours": 1.0, "wer": {"teacher/dev": 12.5}}\n'
    (tmp_path / "log.jsonl").write_bytes(b"{}\n" + tail)
    assert logged_validation(tmp_path, 1, 7) is None
    (tmp_path / "log.jsonl").write_bytes(b"{}\n" + line + tail)
    assert logged_validation(tmp_path, 1, 7) == {"teacher/dev": 12.5}
    assert logged_validation(tmp_path, 1, 8) is None
    (tmp_path / "log.jsonl").write_bytes(b"{}\n" + line[:-1])
    assert logged_validation(tmp_path, 1, 7) is None


# Process 1 alone is told to stop, after the first validation batch.
ONE_OF_TWO = """
import os, signal
from asr_emapl.cli import main
from asr_emapl.training import validation

posteriors = validation.posteriors

def signalled(*arguments, **options):
    for batch in posteriors(*arguments, **options):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch

validation.posteriors = signalled
main()
"""


def test_a_signal_to_one_of_two_processes_ends_the_validation_of_both(corpus, tmp_path):
    script, run = tmp_path / "signalled.py", tmp_path / "run"
    script.write_text(ONE_OF_TWO)
    overrides = (*HOURS, "device.max_seconds=2", "checkpoint.every_hours=null")
    output = finish(launch(corpus, run, *overrides, processes=2, program=(str(script),)))
    assert output.count("stopped as requested") == 1
    assert validations(run) == []
    step = read_log(run)[-1]["step"]
    assert checkpoints(run) == [f"step-{step:09d}.pt"]
    train(tiny_config(corpus, f"run_dir={run}", *HOURS, "device.max_seconds=2"))
    assert validations(run)[0]["step"] == step


def test_a_lost_validation_file_is_left_out_of_the_rate_and_counted(tmp_path, capsys):
    make_corpus(tmp_path)
    lines = (tmp_path / "dev.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rest.jsonl").write_text("".join(lines[::2]))
    (tmp_path / "dev-01.flac").unlink()
    (tmp_path / "dev-03.flac").write_bytes(b"fLaC and then nothing")
    overrides = ("hours=0.008", "data.workers=0", f"data.validation.rest={tmp_path / 'rest.jsonl'}")
    train(tiny_config(tmp_path, f"run_dir={tmp_path / 'run'}", *overrides))
    told = capsys.readouterr().out
    for line in validations(tmp_path / "run"):
        assert line["left_out"] == {"dev": 2}
        for model in ("student", "teacher"):
            assert line["wer"][f"{model}/dev"] == line["wer"][f"{model}/rest"]
    assert told.count("validation split dev: utterance dev-01 is excluded from WER: ") == 1
    assert told.count("validation split dev: utterance dev-03 is excluded from WER: ") == 1
    assert "excluded from dev: 2" in told
    assert best(tmp_path / "run").startswith("step-")


def test_a_split_that_is_lost_has_no_rate_and_makes_nothing_the_best(tmp_path, capsys):
    make_corpus(tmp_path)
    (tmp_path / "lost.jsonl").write_text((tmp_path / "dev.jsonl").read_text().replace("dev-", "lost-"))
    overrides = ("hours=0.006", f"data.validation.lost={tmp_path / 'lost.jsonl'}")
    train(tiny_config(tmp_path, f"run_dir={tmp_path / 'run'}", *overrides))
    for line in validations(tmp_path / "run"):
        assert list(line["wer"]) == ["student/dev", "teacher/dev"]
        assert line["left_out"] == {"lost": 4}
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert "validation split lost: 1 more are excluded" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["wer"]
