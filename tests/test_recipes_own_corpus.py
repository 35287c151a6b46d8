"""The recipe for a user's own audio: from folders as users have them to a model, its scores and a report."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.tiny_whisper import write_openai

from asr_emapl.config import load_config
from asr_emapl.runs.reader import read_log

ROOT = Path(__file__).parent.parent
RUN = ROOT / "recipes" / "own_corpus" / "run.sh"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
MORE_WORDS = [
    "apple",
    "river",
    "stone",
    "window",
    "garden",
    "silver",
    "morning",
    "yellow",
    "kitchen",
    "bottle",
]
FEW_STEPS = ("--hours", "0.02", "--size", "tiny")
FAST = (
    *("validation.every_hours=null", "checkpoint.every_hours=null", "data.workers=0"),
    *("model.options.dim=16", "model.options.layers=1"),
)


def recipe(*arguments: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(RUN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def speak(folder: Path, count: int, begin: int = 0, vocabulary: Sequence[str] = WORDS) -> None:
    """Stereo MP3 at 44.1 kHz, with a sentence beside each file."""
    pytest.importorskip("espeakng_loader")
    from data_prep.espeak import ENGINE_RATE, Engine

    with Engine() as engine:
        for number in range(begin, begin + count):
            words = [vocabulary[(number + k * (1 + number % 3)) % len(vocabulary)] for k in range(5)]
            wave = np.repeat(engine.speak(" ".join(words), "en-us", 170, 50, 50, 0), 44_100 // ENGINE_RATE)
            path = folder / f"s{number}.mp3"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.stack([wave, wave], 1), 44_100, format="MP3")
            path.with_suffix(".txt").write_text(f"{' '.join(words).capitalize()}.\n")


@pytest.fixture
def corpus(tmp_path: Path) -> list[object]:
    """The options that name the three folders; two labelled files are bad, one unlabelled file is long."""
    speak(tmp_path / "labelled", 8)
    speak(tmp_path / "dev", 3, begin=20)
    speak(tmp_path / "more", 4, begin=30)
    (tmp_path / "labelled" / "bad.mp3").write_bytes(b"not audio")
    (tmp_path / "labelled" / "bad.txt").write_text("One.")
    (tmp_path / "labelled" / "empty.wav").write_bytes(b"")
    (tmp_path / "labelled" / "empty.txt").write_text("Two.")
    waves = [soundfile.read(path)[0] for path in sorted((tmp_path / "more").glob("*.mp3"))]
    pause = np.zeros((44_100 * 3 // 2, 2))
    (tmp_path / "unlabelled").mkdir()
    long = np.concatenate([part for wave in waves for part in (wave, pause)])
    soundfile.write(tmp_path / "unlabelled" / "talk.flac", long, 44_100)
    names = ("labelled", "unlabelled", "dev")
    return [part for name in names for part in (f"--{name}", tmp_path / name)]


def run_suggested(output: str, folder: Path) -> list[str]:
    """Run the commands that a recipe ends with."""
    suggested = output.partition("To continue, from any folder:")[2]
    assert shlex.split(suggested.partition("cd ")[2].splitlines()[0]) == [str(folder)]
    commands = [line.strip() for line in suggested.splitlines() if line.strip().startswith("asr-emapl ")]
    for command in commands:
        line = command.replace("asr-emapl", f"{sys.executable} -m asr_emapl", 1)
        done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return commands


def hours_of(log: Path) -> Sequence[float]:
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [r["hours"] for r in records if r["event"] == "step"]


def texts(manifest: Path) -> list[str | None]:
    return [json.loads(line).get("text") for line in manifest.read_text().splitlines()]


def test_from_folders_of_audio_to_a_report(tmp_path, corpus):
    exp = tmp_path / "with space"
    options = [*corpus, "--exp", exp, "--baseline", *FEW_STEPS]
    done = recipe(*options, "--", *FAST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 skipped" in done.stderr
    assert "8 of 8 transcripts changed: 8 capitalised; removed or replaced '.' in 8" in done.stderr
    assert "labelled: data/labelled.jsonl: 8 utterances" in done.stdout
    assert len((exp / "data" / "unlabelled.jsonl").read_text().splitlines()) > 1
    assert "x real time unlabelled" in done.stdout
    assert re.search(r"seed's teacher has \d+ % WER; .*--init", done.stderr)
    # The seed is where both begin.
    seed, ema = (hours_of(exp / "runs" / name / "log.jsonl") for name in ("seed", "ema"))
    assert ema[0] > seed[-1]
    # Nothing is said twice. Short lines are rows of histograms; both runs have a checkpoint of the same step.
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    said = [line for line in lines if len(line.split()) > 8 and not line.startswith("checkpoint of step")]
    repeated = {line for line in said if said.count(line) > 1}
    assert not repeated
    assert sum("has audio of 44100 Hz" in line for line in lines) == 2
    (row,) = [line for line in lines if line.startswith("ema ")]
    rate = json.loads((exp / "runs/ema/scores/dev.teacher.json").read_text())["words"]["rate"]
    assert f"{100 * rate:.1f}" in row
    assert "<svg" in (exp / "report.html").read_text()
    assert len(run_suggested(done.stdout, exp)) == 3
    # Rerun: nothing is done twice.
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("scores/*")}
    again = recipe(*options, "--", *FAST)
    assert again.returncode == 0, again.stderr
    assert "lengths in" in done.stdout
    assert "lengths in" not in again.stdout
    assert "used as it is" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in exp.rglob("scores/*")} == before
    # The seed is trained longer: what began from the earlier one begins again.
    longer = recipe(*options, "--", *FAST, "pseudo_labels.start_hours=0.015")
    assert longer.returncode == 0, longer.stderr
    assert "runs/ema starts again; the earlier run is in runs/earlier/ema-1" in longer.stdout
    assert hours_of(exp / "runs/earlier/ema-1/log.jsonl") == ema
    assert hours_of(exp / "runs/ema/log.jsonl")[0] > 0.015
    assert "almost nothing: the lowest WER" in longer.stdout
    # Another corpus with the model of this one.
    tuned = tmp_path / "tuned"
    done = recipe(*corpus, "--exp", tuned, "--init", exp / "runs/ema", "--hours", "0.02", "--", *FAST[:3])
    assert done.returncode == 0, done.stdout + done.stderr
    config = (tuned / "runs/seed/config.yaml").read_text()
    assert "dim: 16" in config
    assert "keep: weights" in config


def test_a_frozen_encoder_and_a_language_model_of_text(tmp_path, corpus):
    pytest.importorskip("kenlm")
    # Text for 100 pieces.
    speak(tmp_path / "labelled", 6, begin=100, vocabulary=MORE_WORDS)
    weights, text = tmp_path / "encoder.pt", tmp_path / "text.txt"
    write_openai(weights)
    text.write_text("".join(f"{' '.join(WORDS[i : i + 3])}\n".upper() for i in range(8)))
    options = [*corpus, "--exp", tmp_path / "exp", "--encoder", weights, f"--lm-text={text}"]
    done = recipe(*options, "--hours", "0.05", "--", *FAST)
    assert done.returncode == 0, done.stdout + done.stderr
    exp = tmp_path / "exp"
    config = load_config(exp / "runs/ema/config.yaml")
    assert config.pseudo_labels.lm_config == str(exp / "data/lm.json")
    assert config.teacher.half_life_hours == pytest.approx(360 * 40 / 3600)
    assert config.data.unlabelled == [str(exp / "features/unlabelled.jsonl")]
    seen = [r for r in read_log(exp / "runs/ema/log.jsonl") if r.get("kind") == "unlabelled"]
    assert seen
    assert len(run_suggested(done.stdout, exp)) == 3
    # Rerun: no features are computed again.
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("features/*")}
    assert recipe(*options, "--stop-stage", "2", "--", *FAST).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in exp.rglob("features/*")} == before
    # Another dev manifest: its features are computed again, and only they.
    lines = (exp / "data/dev.jsonl").read_text().splitlines(keepends=True)
    (exp / "data/dev.jsonl").write_text("".join(lines[1:]))
    assert recipe(*options, "--stop-stage", "2", "--", *FAST).returncode == 0
    assert len(texts(exp / "features/dev.jsonl")) == len(lines) - 1
    changed = {path.name.partition("-")[0] for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {"dev", "dev.jsonl"}


def test_manifests_are_made_again_if_their_inputs_are_newer(tmp_path):
    for name, begin, count in (("labelled", 0, 2), ("dev", 2, 1), ("unlabelled", 3, 1)):
        speak(tmp_path / name, count, begin)
    (tmp_path / "dev" / "s2.txt").write_text("One caf\u00e9.")
    folders = [part for name in ("labelled", "unlabelled", "dev") for part in (f"--{name}", tmp_path / name)]
    data = tmp_path / "exp" / "data"

    def stage_1(*options: object) -> subprocess.CompletedProcess[str]:
        done = recipe(*folders, "--exp", tmp_path / "exp", "--stop-stage", "1", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    stage_1()
    assert texts(data / "dev.jsonl") == ["ONE CAFE"], "the labelled transcripts have no accents"
    before = len(texts(data / "unlabelled.jsonl"))
    speak(tmp_path / "unlabelled", 1, begin=4)
    (data / "unlabelled-files.jsonl").unlink()
    stage_1()
    assert len(texts(data / "unlabelled.jsonl")) > before
    stage_1("--text", "words")
    assert texts(data / "dev.jsonl") == ["ONE CAF\u00c9"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--labelled is missing"),
        (["--labelled", ".", "--unlabelled", "."], "--dev is missing"),
        (["--labelled", "absent", "--unlabelled", ".", "--dev", "."], "absent: no such file or folder"),
        (["--frobnicate"], "--frobnicate"),
        (["--labelled", ".", "--unlabelled", ".", "--dev", ".", "--nproc", "0"], "--nproc '0'"),
        (["--labelled", ".", "--unlabelled", ".", "--dev", ".", "--", "hour=3"], "did you mean 'hours'"),
        *(
            (["--labelled", ".", "--unlabelled", ".", "--dev", ".", *wrong, "--"], named)
            for wrong, named in (
                (["--hours", "abc"], "--hours 'abc': not a positive number"),
                (["--hours", "0.0"], "--hours '0.0'"),
                (["--size", "huge"], "--size 'huge' is not one of tiny"),
                (["--text", "none"], "--text 'none'"),
                (["--encoder", "absent.pt"], "absent.pt: no such file"),
                (["--encoder", "tiny.en", "--size", "tiny"], "--encoder determines the model"),
                (["--lm-text", "absent.txt"], "--lm-text absent.txt: no such file"),
            )
        ),
    ],
)
def test_usage_errors_are_one_line(tmp_path, arguments, named):
    exp = [] if not arguments or "--" not in arguments else ["--exp", tmp_path / "exp"]
    done = recipe(*exp, *arguments, timeout=60)
    assert not (tmp_path / "exp").exists(), "nothing was prepared"
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert line.startswith("error:")
    assert named in line


@pytest.mark.parametrize("role", ["labelled", "dev"])
def test_a_folder_without_transcripts_is_refused_at_once(tmp_path, role):
    for name in ("labelled", "unlabelled", "dev"):
        (tmp_path / name).mkdir()
        wave = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000)
        for number in range(3):
            path = tmp_path / name / f"{number}.wav"
            soundfile.write(path, wave, 16_000)
            if name not in ("unlabelled", role):
                path.with_suffix(".txt").write_text("ONE TWO")
    folders = [part for name in ("labelled", "unlabelled", "dev") for part in (f"--{name}", tmp_path / name)]
    done = recipe(*folders, "--exp", tmp_path / "exp", timeout=100)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {tmp_path / role}: 3 audio files, but no transcripts (put a .txt")
    assert "data/unlabelled.jsonl" not in done.stdout
