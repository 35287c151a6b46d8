"""Acoustic models: the contract, the transformer CTC model, and checks for models of your own."""

from asr_emapl.models.contract import CtcModel, ModelConfig, build_model

__all__ = ["CtcModel", "ModelConfig", "build_model"]
