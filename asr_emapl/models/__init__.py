"""Acoustic models: the interface, the transformer CTC model, and the import of custom models."""

from asr_emapl.models.contract import CtcModel, ModelConfig, build_model

__all__ = ["CtcModel", "ModelConfig", "build_model"]
