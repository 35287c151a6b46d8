"""Shared by tests/test_training_trainer.py and tests/test_training_trainer_resume.py."""

from __future__ import annotations

from asr_emapl.training.selection import TrainingAudio


def step_audio(config):
    """kappa as the run has it: by the mean unpadded audio of a step."""
    return TrainingAudio.measure(config, 1)
