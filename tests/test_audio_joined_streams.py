"""Files of several recordings, of which a decoder reads only the first, are detected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_emapl.audio.decode import probe, probe_whole
from asr_emapl.audio.joined_streams import has_another_stream
from asr_emapl.errors import UserError

ID3 = b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128)
FORMS = [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]


def encoded(folder: Path, seconds: float, form: str, subtype: str) -> bytes:
    path = folder / f"{seconds}.{form.lower()}"
    noise = np.random.default_rng(0).normal(0.0, 0.1, round(16000 * seconds))
    soundfile.write(path, noise, 16000, format=form, subtype=subtype)
    return path.read_bytes()


@pytest.mark.parametrize(("form", "subtype"), FORMS)
def test_joined_files_are_refused(tmp_path: Path, form: str, subtype: str) -> None:
    joined = tmp_path / f"joined.{form.lower()}"
    joined.write_bytes(encoded(tmp_path, 1.0, form, subtype) + encoded(tmp_path, 3.0, form, subtype))
    for look in (probe, probe_whole):
        with pytest.raises(UserError, match=r"joined\.\w+: consists of several audio files"):
            look(joined)


def test_an_mp3_joined_to_one_with_tags(tmp_path: Path) -> None:
    joined = tmp_path / "joined.mp3"
    first, second = (encoded(tmp_path, seconds, *FORMS[0]) for seconds in (1.0, 3.0))
    joined.write_bytes(ID3 + first + ID3 + second)
    assert has_another_stream(joined)


@pytest.mark.parametrize(("form", "subtype"), [*FORMS, ("FLAC", "PCM_16"), ("WAV", "PCM_16")])
@pytest.mark.parametrize("seconds", [0.1, 1.0, 20.0])
def test_single_files_are_not(tmp_path: Path, form: str, subtype: str, seconds: float) -> None:
    content = encoded(tmp_path, seconds, form, subtype)
    path = tmp_path / "whole"
    path.write_bytes(content)
    assert not has_another_stream(path)
    if form == "MP3":
        # Tags at both ends, the one behind as large as one with a picture.
        path.write_bytes(ID3 + content + b"APETAGEX" + bytes(50_000) + b"TAG" + bytes(125))
        assert not has_another_stream(path)


@pytest.mark.parametrize("content", [b"", b"OggS", b"OggS\x00\x02" + bytes(30), b"ID3", b"\xff\xfb"])
def test_fragments(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not has_another_stream(tmp_path / "x")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.flac: 0 bytes"):
        probe(tmp_path / "a.flac")
