"""asr_emapl: semi-supervised speech recognition that trains the same at any batch size."""

__version__ = "0.1.0"
