"""asr_emapl: semi-supervised speech recognition, with the same learning curve at any batch size."""

__version__ = "0.1.0"
