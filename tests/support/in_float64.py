"""`asr-emapl` with float64 instead of float32, so that two runs do not differ by rounding."""

from __future__ import annotations

import torch

from asr_emapl import cli
from asr_emapl.data import loader

_read_audio = loader.read_audio


def _read_audio_in_float64(*args, **options) -> torch.Tensor:
    return _read_audio(*args, **options).double()


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.nn.Module.float = torch.nn.Module.double
    loader.read_audio = _read_audio_in_float64
    cli.main()
