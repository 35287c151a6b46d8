"""The rendered corpus: layout, reproducibility, sound, interrupted runs, and folders of other corpora."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")

from asr_emapl.errors import UserError
from data_prep import espeak, rendered
from data_prep.rendered import CorpusSize, download

TINY = CorpusSize(
    labelled_seconds=6,
    labelled_speakers=2,
    unlabelled_seconds=16,
    unlabelled_speakers=4,
    dev_seconds=24,
    dev_speakers=3,
)
PARTS = {"train-labelled": 6, "train-unlabelled": 16, "dev-clean": 24, "dev-other": 24}  # seconds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus, rendered in this process."""
    return download(tmp_path_factory.mktemp("rendered"), size=TINY, workers=1)


def transcripts(part: Path) -> dict[str, str]:
    """{utterance's name: words} of a part."""
    files = sorted(part.glob("*/*/*.trans.txt"))
    lines = [line.split(" ", 1) for file in files for line in file.read_text().splitlines()]
    assert len({name for name, _ in lines}) == len(lines)
    return dict(lines)


def waves(part: Path) -> list[np.ndarray]:
    """The waveforms of a part, each float64 [samples]."""
    return [soundfile.read(file)[0] for file in sorted(part.rglob("*.flac"))]


def checksums(root: Path) -> dict[str, str]:
    """{path under root: checksum of the file}."""
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    return {str(file.relative_to(root)): hashlib.md5(file.read_bytes()).hexdigest() for file in files}


def test_layout_is_that_of_librispeech(corpus: Path) -> None:
    assert corpus.name == "LibriSpeech"
    assert {folder.name for folder in corpus.iterdir() if folder.is_dir()} == set(PARTS)
    for part in PARTS:
        words = transcripts(corpus / part)
        files = list((corpus / part).rglob("*.flac"))
        assert {file.stem for file in files} == set(words)
        for file in files:
            speaker, chapter, index = file.stem.split("-")
            assert file.parts[-3:-1] == (speaker, chapter)
            assert index.isdigit()
            assert len(index) == 4


def test_speakers_table_lists_every_speaker(corpus: Path) -> None:
    lines = (corpus / "SPEAKERS.TXT").read_text().splitlines()
    listed = {(fields[2].strip(), fields[0].strip()) for fields in (line.split("|") for line in lines[1:])}
    found = {(part, folder.name) for part in PARTS for folder in (corpus / part).iterdir() if folder.is_dir()}
    assert listed == found
    assert all(line.split("|")[1].strip() in "MF" for line in lines[1:])


def test_speakers_of_the_parts() -> None:
    parts = {part.name: part for part in rendered.parts()}
    voices = {name: {speaker.voice for speaker in part.speakers} for name, part in parts.items()}
    assert len(parts["train-unlabelled"].speakers) == 32
    assert set(parts["train-labelled"].speakers) < set(parts["train-unlabelled"].speakers)
    assert voices["dev-clean"] <= voices["train-labelled"]
    assert not voices["dev-other"] & voices["train-unlabelled"]
    dev = {*parts["dev-clean"].speakers, *parts["dev-other"].speakers}
    assert not {s.number for s in dev} & {s.number for s in parts["train-unlabelled"].speakers}


def test_audio_is_16_bit_mono_and_as_long_as_asked(corpus: Path) -> None:
    for part, asked in PARTS.items():
        infos = [soundfile.info(file) for file in (corpus / part).rglob("*.flac")]
        assert {(i.samplerate, i.channels, i.subtype) for i in infos} == {(16_000, 1, "PCM_16")}
        assert all(1.0 <= info.duration <= 4.0 for info in infos)
        # Each speaker has at most one utterance more than needed.
        assert asked <= sum(info.duration for info in infos) <= asked + 4 * 4


def test_levels_are_sane(corpus: Path) -> None:
    for part in PARTS:
        for wave in waves(corpus / part):
            assert 10 ** (-30 / 20) < wave.std() < 10 ** (-18 / 20)
            assert np.abs(wave).max() < 0.96
            assert abs(wave.mean()) < 1e-3


def test_words_are_those_of_the_vocabulary(corpus: Path) -> None:
    for part in PARTS:
        for text in transcripts(corpus / part).values():
            assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
            assert 2 <= len(text.split()) <= 6
            assert set(text.split()) <= set(rendered.VOCABULARY)


def test_strings_of_the_splits_are_disjoint_and_have_every_word(corpus: Path) -> None:
    of = {part: {s for rule in rendered.sentences(part) for s in rule} for part in PARTS}
    assert of["train-labelled"] == of["train-unlabelled"]
    assert not of["dev-clean"] & of["dev-other"]
    assert not (of["dev-clean"] | of["dev-other"]) & of["train-labelled"]
    for part, strings in of.items():
        assert {word for s in strings for word in s.split()} == set(rendered.VOCABULARY)
        assert set(transcripts(corpus / part).values()) <= strings


def test_dev_other_is_noisier_than_dev_clean(corpus: Path) -> None:
    def range_db(wave: np.ndarray) -> float:
        """Loud 20 ms frames over quiet ones."""
        energy = (wave[: wave.size // 320 * 320].reshape(-1, 320) ** 2).mean(axis=1)
        return float(10 * np.log10(np.quantile(energy, 0.9) / np.quantile(energy, 0.05)))

    clean = [range_db(wave) for wave in waves(corpus / "dev-clean")]
    other = [range_db(wave) for wave in waves(corpus / "dev-other")]
    assert min(clean) > 25
    assert np.median(clean) - np.median(other) > 10
    assert np.mean(np.array(other) < min(clean)) > 0.75


def test_same_files_from_other_processes(corpus: Path, tmp_path: Path) -> None:
    # Two workers in another interpreter: the result does not depend on earlier speech or on the order.
    code = "\n".join(
        [
            "if __name__ == '__main__':",
            "    from pathlib import Path",
            "    from data_prep.rendered import CorpusSize, download",
            f"    download(Path({str(tmp_path)!r}), size={TINY!r}, workers=2)",
        ]
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    top = Path(rendered.__file__).parents[1]
    subprocess.run([sys.executable, str(script)], check=True, env={"PYTHONPATH": str(top)})
    assert checksums(tmp_path / "LibriSpeech") == checksums(corpus)


def test_second_run_renders_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(rendered, "_render_speaker", refuse)
    assert download(corpus.parent, size=TINY, workers=1) == corpus


def test_an_interrupted_run_resumes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = rendered._render_speaker, 0

    def interrupted(*job: object) -> None:
        nonlocal calls
        calls += 1
        original(*job)  # type: ignore[arg-type]
        if calls == TINY.labelled_speakers + 2:  # in the midst of the second part
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rendered, "_render_speaker", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download(tmp_path, size=TINY, workers=1)
    root = tmp_path / "LibriSpeech"
    assert {folder.name for folder in root.iterdir() if folder.is_dir()} == {
        "train-labelled",
        ".train-unlabelled.partial",
    }
    done = (root / "train-labelled" / rendered.MARKER).stat().st_mtime_ns
    download(tmp_path, size=TINY, workers=1)
    assert (root / "train-labelled" / rendered.MARKER).stat().st_mtime_ns == done
    assert checksums(root) == checksums(corpus)


def test_another_seed_replaces_the_corpus(corpus: Path, tmp_path: Path) -> None:
    size = CorpusSize(1, 1, 1, 1, 1, 1)
    root = download(tmp_path, size=size, seed=0, workers=1)
    before = checksums(root)
    download(tmp_path, size=size, seed=1, workers=1)
    after = checksums(root)
    flacs = {name for name in before if name.endswith(".flac")}
    assert all(after.get(name) != before[name] for name in flacs)
    marker = json.loads((root / "dev-clean" / rendered.MARKER).read_text())
    assert marker["seed"] == 1
    assert not list(root.glob(".*.partial"))


def test_other_folders_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech" / "dev-clean" / "84").mkdir(parents=True)
    with pytest.raises(UserError, match="not rendered by this recipe"):
        download(tmp_path, size=TINY, workers=1)
    assert (tmp_path / "LibriSpeech" / "dev-clean" / "84").exists()


def test_another_speakers_table_is_not_changed(tmp_path: Path) -> None:
    table = tmp_path / "LibriSpeech" / "SPEAKERS.TXT"
    table.parent.mkdir()
    table.write_text("; Some pieces of information about all the speakers\n")
    with pytest.raises(UserError, match=r"SPEAKERS\.TXT: belongs to another corpus"):
        download(tmp_path, size=TINY, workers=1)
    assert table.read_text().startswith("; Some pieces")


def test_missing_engine_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError) as caught:
        download(tmp_path, size=TINY, workers=1)
    assert "pip install '.[quickstart]'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "LibriSpeech").exists()


@pytest.mark.parametrize("size", [CorpusSize(labelled_speakers=40), CorpusSize(dev_seconds=0)])
def test_impossible_size(tmp_path: Path, size: CorpusSize) -> None:
    with pytest.raises(UserError, match="must be above zero"):
        download(tmp_path, size=size)


def test_unknown_voice_is_an_error() -> None:
    with espeak.Engine() as engine, pytest.raises(UserError, match="no voice 'xx-nowhere'"):
        engine.speak("red box", "xx-nowhere", 160, 50, 50, 0)


def test_every_voice_exists_and_speaks() -> None:
    _, data = espeak.engine_paths()
    with espeak.Engine() as engine:
        for speaker in {speaker for part in rendered.parts() for speaker in part.speakers}:
            assert (Path(data) / "voices" / "!v" / speaker.voice.split("+")[1]).exists()
            assert np.abs(engine.speak("red box", speaker.voice, 160, 50, 50, 0)).max() < 0.99
