"""Digital silence: which output frames it covers, and that nothing is recognised there."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.audio.silence import PEAK, SHORTEST_SECONDS, blank_silence, silent_frames

FRAME = 0.04
SAMPLES = 640


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_frames_against_a_plain_search(quiet):
    wave = torch.cat([torch.full((SAMPLES,), 0.0 if silent else 0.01) for silent in quiet])
    run = round(SHORTEST_SECONDS / FRAME)
    expected = [
        any(
            all(quiet[start : start + run]) and start + run <= len(quiet)
            for start in range(max(0, t - run + 1), t + 1)
        )
        for t in range(len(quiet))
    ]
    assert silent_frames(wave[None], len(quiet), FRAME)[0].tolist() == expected


def test_one_sample_above_the_peak_is_sound():
    wave = torch.zeros(10 * SAMPLES)
    assert silent_frames(wave[None], 10, FRAME).all()
    wave[5 * SAMPLES + 3] = 2 * PEAK
    assert silent_frames(wave[None], 10, FRAME)[0].tolist() == [True] * 5 + [False] + [True] * 4


def test_blank_is_certain_in_silence_and_the_rest_unchanged():
    torch.manual_seed(0)
    log_probs_BTV = torch.randn(1, 10, 5).log_softmax(-1)
    wave_BN = torch.cat([torch.zeros(1, 5 * SAMPLES), torch.ones(1, 5 * SAMPLES)], dim=1)
    found_BTV = blank_silence(log_probs_BTV, wave_BN, FRAME)
    assert found_BTV[0, :5].argmax(-1).tolist() == [0] * 5
    torch.testing.assert_close(found_BTV.exp().sum(-1), torch.ones(1, 10))
    assert torch.equal(found_BTV[0, 5:], log_probs_BTV[0, 5:])
