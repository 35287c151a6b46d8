"""decode by beam search, tune-lm, lm, transcribe: what they write, and what they say to wrong input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import soundfile
from click.testing import Result
from support.tiny import CONFIG, make_corpus
from typer.testing import CliRunner

from asr_emapl.cli import app
from asr_emapl.data.manifest import read_manifest
from asr_emapl.decoding import audio_files
from asr_emapl.errors import UserError

needs_extra = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("kenlm", "kaldingram"))), reason="needs the extra lm"
)


def run(*arguments: object, **options: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], **options)


def succeed(*arguments: object, **options: object) -> str:
    result = run(*arguments, **options)
    assert result.exit_code == 0, (result.exception, result.output)
    return result.stdout


def fail(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, UserError), result.exception
    return str(result.exception)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with the tiny corpus, a run on it, and a text."""
    root = tmp_path_factory.mktemp("project")
    make_corpus(root)
    (root / "tiny.yaml").write_text(CONFIG.format(root=root))
    succeed("train", "--config", root / "tiny.yaml")
    texts = [u.text or "" for u in read_manifest(root / "labelled.jsonl")]
    (root / "text").write_text("".join(f"{text}\n" for text in texts))
    return root


@pytest.fixture(scope="module")
def lm(project) -> Path:
    path = project / "lm.arpa"
    told = succeed(
        "lm", "--text", project / "text", "--out", path, "--order", 2, "--held-out", project / "text"
    )
    assert "2-gram trained on 16 lines" in told
    assert "0 of " in told
    return path


def decoding(project: Path, tmp_path: Path) -> tuple[object, ...]:
    """The command that decodes dev into tmp_path/h."""
    manifest = project / "dev.jsonl"
    return ("decode", "--checkpoint", project / "run", "--manifest", manifest, "--out", tmp_path / "h")


@needs_extra
def test_tuned_weights_are_used_by_decode_and_transcribe(project, lm, tmp_path):
    common = ("--checkpoint", project / "run", "--manifest", project / "dev.jsonl")
    out = tmp_path / "lm.json"
    told = succeed(
        "tune-lm", *common, "--lm", lm, "--lexicon", lm, "--beam", 20, "--weights", "0,1", "--bonuses", "0,2",
        "--out", out,
    )  # fmt: skip
    best = json.loads(out.read_text())
    assert f"WER {best['wer_percent']:.2f} %" in told
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    succeed("decode", *common, "--out", tmp_path / "a", "--lm-config", out)
    weights = ("--lm-weight", best["lm_weight"], "--word-bonus", best["word_bonus"])
    succeed("decode", *common, "--out", tmp_path / "b", "--beam", 20, "--lm", lm, "--lexicon", lm, *weights)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    words = {
        word
        for line in (tmp_path / "a").read_text().splitlines()
        for word in json.loads(line)["text"].split()
    }
    assert words <= {"ADA", "BOB", "CLIO", "DAN"}

    first = read_manifest(project / "dev.jsonl")[0]
    told = succeed("transcribe", first.audio, "--checkpoint", project / "run", "--lm-config", out)
    hypotheses = {h["id"]: h["text"] for h in map(json.loads, (tmp_path / "a").read_text().splitlines())}
    assert told.split() == hypotheses[first.id].split()


@needs_extra
def test_decode_with_options_that_contradict(project, lm, tmp_path):
    common = decoding(project, tmp_path)
    for option, value in (("--lm", lm), ("--lexicon", lm), ("--lm-weight", 1), ("--word-bonus", 0)):
        assert f"{option} requires beam search; set --beam" in fail(*common, option, value)
    for option in ("--lm-weight", "--word-bonus"):
        assert f"{option} has no effect without a language model" in fail(*common, "--beam", 5, option, 1)
    assert "omit --beam" in fail(*common, "--beam", 5, "--lm-config", tmp_path / "lm.json")
    assert "omit --lm-weight" in fail(*common, "--lm-weight", 5, "--lm-config", tmp_path / "lm.json")
    assert "pass --lexicon" in fail(*common, "--beam", 5, "--lm", project / "lm.arpa")
    assert "beam size 1000000" in fail(*common, "--beam", 1_000_000)
    assert not (tmp_path / "h").exists()
    for weights in ("0;1", "0,nan", "inf", ""):
        assert "comma-separated numbers" in fail(
            "tune-lm", *common[1:5], "--out", tmp_path / "o.json", "--lm", lm, "--weights", weights
        )


@needs_extra
def test_files_that_are_something_else(project, lm, tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    common = decoding(project, tmp_path)
    told = fail(*common, "--beam", 5, "--lm", picture, "--lexicon", lm)
    assert "picture.png:1: not a language model" in told
    told = fail(*common, "--lm-config", picture)
    assert "expected the output of asr-emapl tune-lm" in told
    assert len(told) < 400


@needs_extra
def test_a_model_of_tokens_is_not_pruned_unless_asked(project, tmp_path):
    (tmp_path / "text").write_text("ADA SAW BOB\nBOB RAN\nA DOG RAN\n")
    letters = ("--tokenizer", project / "letters.json", "--text", tmp_path / "text")
    succeed("lm", *letters, "--out", tmp_path / "lm.arpa")
    assert "cannot be pruned" in fail("lm", *letters, "--out", tmp_path / "no.arpa", "--prune", "1e-8")


def greedy_texts(project: Path, tmp_path: Path) -> dict[str, str]:
    succeed(*decoding(project, tmp_path))
    return {h["id"]: h["text"] for h in map(json.loads, (tmp_path / "h").read_text().splitlines())}


def test_transcribe_writes_what_decode_does(project, tmp_path):
    expected = greedy_texts(project, tmp_path)
    audio = {u.id: u.audio for u in read_manifest(project / "dev.jsonl")}
    out = tmp_path / "out"
    succeed("transcribe", *audio.values(), "--checkpoint", project / "run", "--format", "json", "--out", out)
    found = {path.stem: json.loads(path.read_text()) for path in out.iterdir()}
    assert {name: transcript["text"] for name, transcript in found.items()} == expected
    assert {name: transcript["audio"] for name, transcript in found.items()} == audio
    told = succeed("transcribe", *audio.values(), "--checkpoint", project / "run")
    assert [line for line in told.splitlines() if line.startswith("#")] == [f"# {a}" for a in audio.values()]


def test_transcribe_standard_input_and_go_on_after_a_fault(project, tmp_path):
    first = read_manifest(project / "dev.jsonl")[0]
    text = greedy_texts(project, tmp_path)[first.id]
    result = run(
        "transcribe", tmp_path / "gone.wav", "-", "--checkpoint", project / "run", "--format", "json",
        input=Path(first.audio).read_bytes(),
    )  # fmt: skip
    assert result.exit_code == 1
    assert "skipped: " in result.stderr
    assert "gone.wav" in result.stderr
    assert (json.loads(result.stdout)["audio"], json.loads(result.stdout)["text"]) == ("-", text)
    result = run("transcribe", "-", "--checkpoint", project / "run", input=b"no audio")
    assert result.exit_code == 1
    assert result.stderr.startswith("skipped: -: not decodable")


def test_transcribe_without_a_detector_says_so(project, tmp_path, monkeypatch):
    def absent():
        raise UserError("silero-vad is not installed: pip install '.[segment]'")

    monkeypatch.setattr(audio_files, "VoiceActivity", absent)
    waves = [soundfile.read(u.audio)[0] for u in read_manifest(project / "labelled.jsonl")[:4]]
    long = tmp_path / "long.wav"
    soundfile.write(long, [x for wave in waves for x in wave], 16_000)
    result = run("transcribe", long, "--checkpoint", project / "run", "--max-seconds", 2, "--format", "json")
    assert result.exit_code == 0
    assert "silero-vad is not installed" in result.stderr
    assert "cut where it is quietest" in result.stderr
    segments = json.loads(result.stdout)["segments"]
    assert all(segment["end"] - segment["begin"] <= 2.0 for segment in segments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.wav", "--format", "doc"], "not one of text, json, srt, vtt"),
        (["a.wav", "b.wav", "--format", "srt"], "pass --out"),
        (["x/a.wav", "y/a.flac", "--out", "o"], "that of x/a.wav"),
        (["a.wav", "--max-seconds", "0.5"], "--max-seconds 0.5"),
    ],
)
def test_transcribe_with_wrong_options(arguments, said):
    assert said in fail("transcribe", *arguments, "--checkpoint", "nowhere")


@pytest.fixture
def lossy(project, tmp_path) -> Path:
    """The dev manifest with an utterance whose audio is absent, and one whose audio is broken."""
    lines = (project / "dev.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    (tmp_path / "broken.flac").write_bytes(b"fLaC and then nothing")
    entries.insert(1, entries[0] | {"id": "absent", "audio": str(tmp_path / "absent.flac")})
    entries.insert(3, entries[0] | {"id": "broken", "audio": str(tmp_path / "broken.flac")})
    manifest = tmp_path / "lossy.jsonl"
    manifest.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return manifest


@pytest.mark.parametrize("beam", [0, pytest.param(4, marks=needs_extra)])
def test_decode_leaves_out_what_cannot_be_decoded_and_says_so(project, lossy, tmp_path, beam):
    def decoded(manifest: Path, out: Path) -> Result:
        return run(
            "decode", "--checkpoint", project / "run", "--manifest", manifest, "--out", out, "--beam", beam
        )

    whole, out = tmp_path / "whole.jsonl", tmp_path / "hyp.jsonl"
    assert decoded(project / "dev.jsonl", whole).exit_code == 0
    result = decoded(lossy, out)
    assert result.exit_code == 1
    assert out.read_text() == whole.read_text()
    assert "skipped: absent: " in result.stderr
    assert "skipped: broken: " in result.stderr
    assert "2 utterances were skipped" in result.stderr
    # What has no hypothesis is not taken for one without words.
    assert "2 of 6 references have no hypothesis: absent, broken" in fail("score", lossy, out)
    succeed("score", lossy, out, "--allow-missing")


def test_report_leaves_them_out_too(project, lossy, tmp_path):
    page = tmp_path / "report.html"
    result = run("report", project / "run", "--out", page, "--manifest", lossy, "--decode")
    assert result.exit_code == 0, result.exception
    assert "2 utterances were skipped" in result.stderr
    assert "excluding 2 unreadable utterances" in page.read_text()


@needs_extra
def test_tune_lm_leaves_them_out_too(project, lossy, lm, tmp_path):
    grid = ("--weights", "0,1", "--bonuses", "0", "--lexicon", lm, "--beam", 4, "--lm", lm)
    common = ("tune-lm", "--checkpoint", project / "run", *grid)
    told = succeed(*common, "--manifest", project / "dev.jsonl", "--out", tmp_path / "whole.json")
    result = run(*common, "--manifest", lossy, "--out", tmp_path / "lossy.json")
    assert result.exit_code == 1
    assert "2 utterances were skipped" in result.stderr
    assert result.stdout.replace("lossy.json", "whole.json") == told


@needs_extra
def test_an_output_without_a_name_is_refused(project, lm):
    told = fail("tune-lm", *decoding(project, Path("unused"))[1:5], "--out", "", "--lm", lm, "--lexicon", lm)
    assert "cannot be written" in told
