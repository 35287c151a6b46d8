"""Every command that writes: no input is replaced, nothing half-written is left, and names cannot act."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import soundfile
from support.commands import call, fail, succeed
from support.logged_runs import write_lines, write_run
from support.tiny import CONFIG, make_corpus

from asr_emapl.audio.voice_activity import LevelOnly
from asr_emapl.data import recordings
from asr_emapl.data.manifest import read_manifest

EVIL = "[/x] \x1b[31m\x9b2J"
SHOWN = r"[/x] \x1b[31m\u009b2J"


@dataclass
class Command:
    """Arguments, the option that names what is written and how that has to end, and files that are read."""

    arguments: tuple[Any, ...]
    inputs: tuple[str, ...]
    option: str = "--out"
    ending: str = ""
    needs: tuple[str, ...] = field(default=())

    def writing(self, out: Path) -> tuple[Any, ...]:
        for package in self.needs:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"needs {package}")
        return (*self.arguments, self.option, out)


RUN = ("--checkpoint", "run")
COMMANDS = {
    "tokenizer": Command(
        ("tokenizer", "--kind", "bpe", "--size", 13, "--manifest", "labelled.jsonl"), ("labelled.jsonl",)
    ),
    "inspect": Command(
        ("inspect", "dev.jsonl", "--config", "tiny.yaml", "--tokenizer", "letters.json"),
        ("dev.jsonl", "tiny.yaml", "letters.json"),
        option="--png",
        ending=".png",
    ),
    "segment": Command(
        ("segment", "labelled.jsonl", "talk.flac", "--min-seconds", 0.4),
        ("labelled.jsonl", "labelled-00.flac", "talk.flac"),
    ),
    "decode": Command(
        ("decode", *RUN, "--manifest", "dev.jsonl"),
        ("dev.jsonl", "dev-01.flac", "run/config.yaml", "run/checkpoints/best.pt"),
    ),
    "lm": Command(
        ("lm", "--text", "text", "--held-out", "more", "--order", 2, "--prune", 0),
        ("text", "more"),
        ending=".arpa",
        needs=("kenlm", "kaldingram"),
    ),
    "tune-lm": Command(
        ("tune-lm", *RUN, "--manifest", "dev.jsonl", "--lm", "lm.arpa", "--lexicon", "words"),
        ("dev.jsonl", "dev-01.flac", "lm.arpa", "words"),
    ),
    "score": Command(
        ("score", "dev.jsonl", "dev.jsonl", "--vocabulary", "words"),
        ("dev.jsonl", "words"),
        option="--alignments",
        ending=".txt",
    ),
    "plot": Command(("plot", "run"), ("run/log.jsonl", "run/config.yaml"), ending=".svg"),
    "report": Command(
        ("report", "run", "--manifest", "dev.jsonl", "--hypotheses", "dev.jsonl"),
        ("run/log.jsonl", "run/speed.jsonl", "dev.jsonl"),
        ending=".html",
    ),
    "average": Command(("average", "--end", "run/checkpoints/best.pt"), ("run/checkpoints/best.pt",)),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus, a run on it, and texts."""
    root = tmp_path_factory.mktemp("corpus")
    make_corpus(root)
    (root / "tiny.yaml").write_text(CONFIG.format(root=root))
    succeed("train", "--config", root / "tiny.yaml", "checkpoint.running_mean=true", "hours=0.005")
    texts = [u.text or "" for u in read_manifest(root / "labelled.jsonl")]
    for name in ("text", "more"):
        (root / name).write_text("".join(f"{text}\n" for text in texts))
    (root / "words").write_text("ADA\nBOB\nCLIO\nDAN\n")
    shutil.copy(root / "labelled-00.flac", root / "talk.flac")
    (root / "lm.arpa").write_text("no model: nothing gets so far as to read it")
    return root


@pytest.fixture
def project(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the corpus that is the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(corpus, folder, symlinks=True)
    for manifest in folder.glob("*.jsonl"):
        manifest.write_text(manifest.read_text().replace(str(corpus), str(folder)))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(recordings, "VoiceActivity", LevelOnly)  # chords are no speech to the other one
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_replaces_what_it_reads(project, tmp_path, name):
    """Not even where it is told to overwrite, nor by way of a link."""
    command = COMMANDS[name]
    overwrite = ("--overwrite",) if name in ("decode", "average") else ()
    before = contents(project)
    for number, read in enumerate(command.inputs):
        alias = tmp_path / f"alias-{number}{command.ending}"
        alias.symlink_to(project / read)
        told = fail(*command.writing(alias), *overwrite)
        assert f"{alias.name}: is read by this command" in told
    if not command.ending:
        assert "is read by this command" in fail(*command.writing(Path(command.inputs[0])), *overwrite)
    assert contents(project) == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "tune-lm"])
def test_a_full_disk_is_one_line(project, tmp_path, name):
    command = COMMANDS[name]
    out = tmp_path / f"out{command.ending}"
    out.symlink_to("/dev/full")
    before = contents(project)
    # A checkpoint is renamed into its place, which a device may not lose.
    reason = "not a regular file" if name == "average" else "No space left on device"
    assert re.search(rf"{out.name}: cannot be written \(.*{reason}\)", fail(*command.writing(out)))
    assert contents(project) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "project"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_is_no_file_to_write(project, tmp_path, name):
    command = COMMANDS[name]
    out = tmp_path / f"out{command.ending}"
    out.mkdir()
    assert "Is a directory" in fail(*command.writing(out))
    assert not list(out.iterdir())


@pytest.mark.parametrize("name", ["tokenizer", "inspect", "segment", "lm", "score", "plot", "report"])
def test_what_is_made_again_replaces_what_was_made_before(project, tmp_path, name):
    command = COMMANDS[name]
    out = tmp_path / f"out{command.ending}"
    succeed(*command.writing(out))
    made = out.read_bytes()
    out.write_bytes(b"old")
    succeed(*command.writing(out))
    assert out.read_bytes() == made
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "project"]


@pytest.mark.parametrize("name", ["decode", "average"])
def test_what_may_have_cost_days_is_replaced_only_if_asked_for(project, tmp_path, name):
    command = COMMANDS[name]
    out = tmp_path / "out"
    out.write_bytes(b"by hand")
    assert "already exists" in fail(*command.writing(out))
    assert out.read_bytes() == b"by hand"
    succeed(*command.writing(out), "--overwrite")
    assert out.read_bytes() != b"by hand"


def test_transcribe_beside_a_transcript_by_hand(project):
    Path("talk.txt").write_text("by hand")
    before = contents(project)
    told = fail("transcribe", "talk.flac", "dev-00.flac", *RUN, "--out", ".")
    assert "talk.txt: already exists" in told
    assert contents(project) == before
    succeed("transcribe", "talk.flac", "dev-00.flac", *RUN, "--out", ".", "--overwrite")
    assert Path("talk.txt").read_text() != "by hand"


def test_transcribe_does_not_replace_audio_that_is_called_as_a_transcript(project):
    shutil.copy("talk.flac", "talk.txt")
    before = contents(project)
    told = fail("transcribe", "talk.txt", *RUN, "--out", ".", "--overwrite")
    assert "talk.txt: is read by this command" in told
    assert contents(project) == before


def test_the_picture_of_tune_lm_is_an_output_too(project, tmp_path):
    command = COMMANDS["tune-lm"]
    (tmp_path / "lm.png").symlink_to(project / "dev.jsonl")
    assert "lm.png: is read by this command" in fail(*command.writing(tmp_path / "lm.json"))
    assert "lm2.png: would be written twice" in fail(*command.writing(tmp_path / "lm2.png"))


def test_figures_of_a_report_are_outputs_too(project, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "wer.png").symlink_to(project / "run" / "log.jsonl")
    assert "wer.png: is read by this command" in fail("report", "run", "--figures", tmp_path / "figures")


def test_shards_that_are_read_are_not_written_over(project, tmp_path):
    succeed("shard", "dev.jsonl", "--out", "packed")
    # The remedy that the command itself names for packing again.
    shutil.move("packed/dev.jsonl", "dev.jsonl")
    moved = Path("dev.jsonl").read_text().replace('"dev-0', f'"{project}/packed/dev-0')
    Path("dev.jsonl").write_text(moved)
    before = contents(project)
    told = fail("shard", "dev.jsonl", "--out", "packed", "--codec", "flac")
    assert "dev-000000.tar: is read by this command" in told
    assert contents(project) == before


def test_a_table_is_not_replaced_by_its_manifest(project):
    Path("talks").mkdir()
    shutil.move("talk.flac", "talks")
    Path("talks/talks.jsonl").write_text("path\ttext\ntalk.flac\tADA\n")
    before = contents(project)
    told = fail("prepare", "folder", "--data", "talks", "--out", "talks", "--table", "talks/talks.jsonl")
    assert "talks.jsonl: is read by this command" in told
    assert contents(project) == before


def test_a_manifest_does_not_replace_audio_that_it_names(project):
    Path("talks").mkdir()
    shutil.move("talk.flac", "talks")
    Path("data").mkdir()
    Path("data/talks.jsonl").symlink_to(project / "talks" / "talk.flac")
    before = contents(project)
    assert "is read by this command" in fail("prepare", "folder", "--data", "talks", "--out", "data")
    assert contents(project) == before


def test_hypotheses_to_standard_output(project):
    succeed("decode", *RUN, "--manifest", "dev.jsonl", "--out", "hyp.jsonl")
    command = [sys.executable, "-m", "asr_emapl", "decode", *RUN, "--manifest", "dev.jsonl"]
    done = subprocess.run([*command, "--out", "/dev/stdout"], capture_output=True, check=True)
    assert done.stdout == Path("hyp.jsonl").read_bytes()
    assert b"4 utterances" in done.stderr


# Names that would act on a terminal, on rich or on a spreadsheet.


def test_names_in_tables_and_pictures_of_runs_cannot_act(tmp_path):
    run = write_run(tmp_path / "run", [40.0, 30.0], splits=(f"{EVIL} $\\frac$",), config="")
    phases = ("data", "features", "teacher", "student", "communication", "optimizer")
    times = {**dict.fromkeys(phases, 1.0), "audio": 60.0, "padded": 80.0}
    write_lines(run / "speed.jsonl", [{"step": 2, "hours": 1.0, "ranks": [times]}])
    label = f"{EVIL}<script>$x_={run}"
    told = succeed("report", label, "--out", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert SHOWN in told
    assert "\x1b" not in told
    assert "<script>" not in (tmp_path / "page.html").read_text()
    succeed("plot", label, "--out", tmp_path / "curves.svg")
    from xml.etree import ElementTree

    for picture in (tmp_path / "curves.svg", *(tmp_path / "figures").glob("*.svg")):
        ElementTree.parse(picture)  # control characters would make it no XML


def test_ids_and_speakers_cannot_act(project):
    record = json.loads(Path("dev.jsonl").read_text().splitlines()[0])
    for name, speaker in (("evil", EVIL), ("sum", "=1+1"), ("at", "@x"), ("ordinary", "84")):
        record |= {"id": f"{EVIL} {name}", "speaker": speaker}
        with Path("evil.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    for arguments in (
        ("score", "evil.jsonl", "evil.jsonl", "--by", "speaker", "--alignments", "a.txt"),
        ("score", "evil.jsonl", "evil.jsonl", "--alignments", "a.pra"),
        ("inspect", "evil.jsonl"),
        ("inspect", "evil.jsonl", "--json"),
    ):
        outcome = call(*arguments)
        assert outcome.status == 0, outcome
        assert "\x1b" not in outcome.out
    assert SHOWN in succeed("score", "evil.jsonl", "evil.jsonl", "--by", "speaker")
    for name in ("a.txt", "a.pra"):
        assert SHOWN in Path(name).read_text()
        assert "\x1b" not in Path(name).read_text()
    rows = succeed("score", "evil.jsonl", "evil.jsonl", "--csv").splitlines()
    assert {"speaker,'=1+1", "speaker,'@x", "speaker,84"} <= {row[: row.find(",WER")] for row in rows}


def test_an_error_about_a_name_cannot_act(tmp_path):
    told = fail("inspect", tmp_path / f"{EVIL}.jsonl")
    assert SHOWN in told
    assert "\x1b" not in told


def test_transcripts_for_programs_are_exact(project):
    """A file whose name has a control character comes back as it is in JSON, and as text into a file."""
    name = "a\x1b.wav"
    soundfile.write(name, soundfile.read("talk.flac")[0], 16_000)
    assert json.loads(succeed("transcribe", name, *RUN, "--format", "json"))["audio"] == name
    assert f"# {name}\n" in succeed("transcribe", name, "talk.flac", *RUN)
