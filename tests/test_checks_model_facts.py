"""What check-model says of a model's size, frame rate, context and memory."""

from __future__ import annotations

import pytest
import torch
from support.broken_models import Bare, OnWaveforms, Sound

from asr_emapl.checks.model_facts import measure
from asr_emapl.models.contract import ModelConfig


def facts(model: type):
    return measure(ModelConfig(f"{model.__module__}:{model.__name__}"))


def test_a_convolution() -> None:
    found = facts(Sound)
    assert found.parameters == sum(p.numel() for p in Sound(29).parameters())
    assert (found.input_frame_seconds, found.output_frame_seconds) == (0.01, 0.02)
    assert found.context_seconds == pytest.approx(0.03)  # a kernel of three frames
    assert found.forward > found.backward > 0.0


def test_waveforms() -> None:
    found = facts(OnWaveforms)
    assert found.input_frame_seconds == 1 / 16_000
    assert found.output_frame_seconds == pytest.approx(0.01)


def test_memory_is_that_of_the_tensors_kept_for_the_backward_pass() -> None:
    """A linear layer keeps its input (80 floats per frame); log-softmax and loss keep their output (29)."""
    found = facts(Bare)
    assert 100 * 4 * (80 + 29) <= found.megabytes_per_second * 1e6 <= 100 * 4 * (80 + 4 * 29)


def test_attention_depends_on_the_whole_utterance() -> None:
    options = {"dim": 16, "heads": 2, "layers": 1}
    config = ModelConfig("asr_emapl.models.transformer:TransformerCtc", options=options)
    before = torch.get_rng_state()
    found = measure(config)
    assert found.context_seconds is None
    assert "the whole utterance" in str(found)
    assert torch.equal(before, torch.get_rng_state())
