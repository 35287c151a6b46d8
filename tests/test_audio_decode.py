"""Decoding: values, lengths and rates of waveforms; a UserError for everything that is not audio."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe, probe_whole, read_audio, read_blocks
from asr_emapl.audio.source import Source
from asr_emapl.errors import UserError

CORPUS = os.environ.get("ASR_EMAPL_LIBRISPEECH")


def ramp(samples: int) -> np.ndarray:
    """Distinct int16 values, so that every shift by a sample shows."""
    return np.arange(samples, dtype=np.int16)


def sine(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def test_flac_comes_out_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, ramp(8000), SAMPLE_RATE_HZ)
    waveform = read_audio(path)
    assert waveform.dtype == torch.float32
    assert torch.equal(waveform, torch.arange(8000) / 32768)
    assert probe(path) == (0.5, SAMPLE_RATE_HZ, 1)
    assert torch.equal(read_audio(str(path)), waveform)


def test_offset_and_duration_cut_to_the_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, ramp(16000), SAMPLE_RATE_HZ)
    whole = read_audio(path)
    assert torch.equal(read_audio(path, offset=0.25), whole[4000:])
    assert torch.equal(read_audio(path, duration=0.5), whole[:8000])
    assert torch.equal(read_audio(path, offset=0.25, duration=0.5), whole[4000:12000])
    assert len(read_audio(path, offset=0.5, duration=1e-9)) == 1


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_adjacent_excerpts_join_without_gap(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "joined.wav"
    samples = 3000
    soundfile.write(path, ramp(samples), SAMPLE_RATE_HZ)
    cut = data.draw(st.integers(1, samples - 1)) / SAMPLE_RATE_HZ
    joined = torch.cat([read_audio(path, duration=cut), read_audio(path, offset=cut)])
    assert torch.equal(joined, read_audio(path))


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_one_channel_is_read(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.tile([0.25, -0.5], (4 * rate, 1)), rate)
    for channel, level in ((0, 0.25), (1, -0.5)):
        source = Source(str(path), channel=channel)
        assert read_audio(source)[2_000:-2_000].numpy() == pytest.approx(level, abs=1e-2)
        blocks = np.concatenate(list(read_blocks(source, block_seconds=1.0)))
        assert blocks[2_000:-2_000] == pytest.approx(level, abs=1e-2)


def test_a_channel_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mono.wav"
    soundfile.write(path, np.zeros(1_600), 16_000)
    with pytest.raises(UserError, match=r"mono\.wav: has 1 channel, but channel 1"):
        read_audio(Source(str(path), channel=1))


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = sine(0.1, SAMPLE_RATE_HZ), sine(0.1, SAMPLE_RATE_HZ, 1000)
    soundfile.write(path, np.stack([left, right], axis=1), SAMPLE_RATE_HZ, subtype="FLOAT")
    torch.testing.assert_close(read_audio(path), torch.tensor((left + right) / 2, dtype=torch.float32))
    assert probe(path) == (0.1, SAMPLE_RATE_HZ, 2)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(0.5, rate), rate, subtype="FLOAT")
    waveform = read_audio(path)
    assert abs(len(waveform) - 8000) <= 1
    # The filter rings at the ends; in between it is the same tone.
    expected = torch.tensor(sine(0.5, SAMPLE_RATE_HZ), dtype=torch.float32)
    torch.testing.assert_close(waveform[800:7200], expected[800:7200], atol=2e-3, rtol=0)
    assert len(read_audio(path, sample_rate=rate)) == round(0.5 * rate)


def test_rates_without_common_divisor_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(0.1, 15_991), 15_991)
    with pytest.raises(UserError, match=r"a\.wav: 15991 Hz.*convert"):
        read_audio(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_samples_are_refused(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "a.wav"
    samples = sine(0.1, SAMPLE_RATE_HZ)
    samples[700] = bad
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    with pytest.raises(UserError, match=r"a\.wav: has NaN"):
        read_audio(path)
    # Outside the excerpt that is read, they have no effect.
    assert len(read_audio(path, offset=0.05)) == 800


def test_other_files_are_named(tmp_path: Path) -> None:
    text = tmp_path / "text.flac"
    text.write_text("this is no FLAC")
    nothing = tmp_path / "nothing.wav"
    nothing.write_bytes(b"")
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), SAMPLE_RATE_HZ)
    raw = tmp_path / "headerless.raw"
    raw.write_bytes(bytes(100))
    cases = {
        tmp_path / "absent.flac": "no such audio file",
        tmp_path: "is a folder",
        text: "not decodable",
        nothing: "0 bytes",
        empty: "has no samples",
        raw: "not decodable",
    }
    for path, fault in cases.items():
        for read in (read_audio, probe):
            with pytest.raises(UserError) as error:
                read(path)
            assert str(error.value).startswith(f"{path}: {fault}")
            assert str(error.value).endswith(")"), "the remedy is missing"


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, ramp(100), SAMPLE_RATE_HZ)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root can read every file
    try:
        for read in (read_audio, probe):
            with pytest.raises(UserError, match=r"a\.wav: cannot be read: .*Permission denied.*\(specify a"):
                read(path)
    finally:
        os.seteuid(user)


def test_samples_beyond_full_scale_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, [0.5, 1.5, -3.0, 1.0], SAMPLE_RATE_HZ, subtype="FLOAT")
    assert read_audio(path).tolist() == [0.5, 1.5, -3.0, 1.0]


def test_truncated_flac_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE_HZ)
    soundfile.write(path, noise, SAMPLE_RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"a\.flac: (ends|decoding failed)"):
        read_audio(path)


def test_beyond_the_end_is_refused_past_the_tolerance(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, ramp(16000), SAMPLE_RATE_HZ)
    assert len(read_audio(path, duration=1 + LENGTH_TOLERANCE_S / 2)) == 16000
    for offset, duration in [(0.0, 1 + 2 * LENGTH_TOLERANCE_S), (0.5, 0.6), (1.0, None), (7.0, 1.0)]:
        with pytest.raises(UserError, match=r"a\.flac: 1\.00 s long"):
            read_audio(path, offset=offset, duration=duration)


@pytest.mark.parametrize(
    "arguments",
    [{"offset": -0.1}, {"offset": math.nan}, {"duration": 0.0}, {"duration": math.inf}, {"sample_rate": 0}],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, float]) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, ramp(1600), SAMPLE_RATE_HZ)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        read_audio(path, **arguments)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=200),
    position=st.integers(0, 60),
    name=st.sampled_from(["f.flac", "f.wav", "f.ogg"]),
)
def test_damaged_headers_raise_nothing_but_user_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, position: int, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    soundfile.write(path, ramp(500), SAMPLE_RATE_HZ)
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + content + whole[position + len(content) :])
    try:
        waveform = read_audio(path)
    except UserError as error:
        message = str(error)
    else:
        assert waveform.dtype == torch.float32
        assert waveform.dim() == 1
        assert len(waveform) > 0
        return
    assert message.startswith(f"{path}: ")


@settings(max_examples=40)
@given(
    rate=st.sampled_from([8000, 11025, 16000, 44100, 48000, 96000]),
    samples=st.integers(1, 30_000),
    block_seconds=st.floats(1e-5, 2.0),
    begin=st.floats(0.0, 0.9),
    share=st.none() | st.floats(0.01, 1.0),
)
def test_blocks_join_to_what_is_read_at_once(tmp_path_factory, rate, samples, block_seconds, begin, share):
    path = tmp_path_factory.getbasetemp() / "blocks.wav"
    stereo = np.random.default_rng(samples).uniform(-1.0, 1.0, (samples, 2))
    soundfile.write(path, stereo, rate, subtype="FLOAT")
    length = samples / rate
    stretch = {"offset": begin * length, "duration": share and share * (1.0 - begin) * length}
    # Blocks are not too short, because a test has no time for a million of them.
    blocks = list(read_blocks(path, **stretch, block_seconds=max(block_seconds, length / 50)))
    whole = read_audio(path, **stretch).numpy()
    assert all(len(block) for block in blocks)
    joined = np.concatenate(blocks)
    assert joined.dtype == np.float32
    assert joined.shape == whole.shape
    np.testing.assert_allclose(joined, whole, atol=0.0 if rate == SAMPLE_RATE_HZ else 2e-6)


def test_blocks_of_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE_HZ)
    soundfile.write(path, noise, SAMPLE_RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    blocks = read_blocks(path, block_seconds=0.25)
    assert len(next(blocks)) == 4000
    with pytest.raises(UserError, match=r"a\.flac: (ends|decoding failed)"):
        list(blocks)
    soundfile.write(tmp_path / "nan.wav", np.full(800, math.nan), SAMPLE_RATE_HZ, subtype="FLOAT")
    with pytest.raises(UserError, match=r"nan\.wav: has NaN"):
        list(read_blocks(tmp_path / "nan.wav"))
    with pytest.raises(UserError, match=r"a\.flac: 2\.00 s long"):
        list(read_blocks(path, offset=1.0, duration=5.0))


def test_headers_are_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, ramp(1600), SAMPLE_RATE_HZ)
    code = (
        "import sys; from asr_emapl.audio.decode import probe, read_audio; print(probe(sys.argv[1])[0]);"
        "assert 'torch' not in sys.modules; read_audio(sys.argv[1]); assert 'torchaudio' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "0.1\n"), done.stderr


@pytest.mark.skipif(CORPUS is None, reason="ASR_EMAPL_LIBRISPEECH names no folder with LibriSpeech/")
def test_real_speech_is_as_long_as_its_header_says() -> None:
    paths = sorted(Path(str(CORPUS)).glob("LibriSpeech/*/*/*/*.flac"))[:20]
    assert paths, "the folder has no LibriSpeech/<part>/<speaker>/<chapter>/*.flac"
    for path in paths:
        waveform = read_audio(path)
        assert len(waveform) == round(probe(path)[0] * SAMPLE_RATE_HZ)
        assert 0 < float(waveform.abs().max()) <= 1


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.ogg", "a.mp3", "a.aiff"])
def test_probe_whole_equals_probe_for_complete_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    soundfile.write(path, sine(0.5, 8000), 8000)
    assert probe_whole(path) == probe(path)


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.mp3"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.95])
def test_probe_whole_detects_truncated_files(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(48000), 16000)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    probe(path)  # the header alone does not show it
    with pytest.raises(UserError, match=r"is shorter than its header states \(the copy is incomplete"):
        probe_whole(path)


def test_a_wav_without_a_stated_size_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(0.5, 16000), 16000)
    content = path.read_bytes()
    for stated in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"):
        path.write_bytes(content[:4] + stated + content[8:])
        assert probe_whole(path) == (0.5, 16000, 1)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no audio at all"])
def test_probe_whole_of_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match="not decodable" if content else "0 bytes"):
        probe_whole(tmp_path / "a.wav")
    with pytest.raises(UserError, match="no such audio file"):
        probe_whole(tmp_path / "b.wav")


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for place in (tmp_path / "pipe.wav", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a file"):
            probe(place)
