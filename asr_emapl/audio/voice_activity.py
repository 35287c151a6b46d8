"""Voice activity: probability of speech and level of each frame, computed block by block.

The probabilities are Silero VAD's (Silero Team 2024, github.com/snakers4/silero-vad, MIT): a small recurrent
network trained on speech in noise. The weights come with the package `silero-vad` (extra `segment`), as an
ONNX model that processes many frames per call.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.errors import UserError, require_package

FRAME_SAMPLES = 512
"""Number of 16 kHz samples per frame (one network output)."""

FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE_HZ
"""32 ms. Utterances begin and end on this grid."""

_CONTEXT_SAMPLES = 64  # context samples from the previous frame
_STATE_SHAPE = (1, 1, 128)
_SILENCE_DB = -80.0  # recorded silence is louder
# Frames per call of the network. Constant, so that results do not depend on the blocks.
_CALL_FRAMES = 512

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Activity:
    """Speech probability and level of each frame of a recording.

    Attributes:
        speech: probability that there is speech, float32 [frames].
        level_db: root mean square in dB re full scale, float32 [frames]; -120 for digital silence.
    """

    speech: Floats
    level_db: Floats


class Detector(Protocol):
    """Computes the `Activity` of consecutive blocks of 16 kHz samples; zeros pad the last frame."""

    def __call__(self, blocks: Iterable[Floats]) -> Activity: ...


class VoiceActivity:
    """Silero VAD on one thread.

    Raises:
        UserError: silero-vad or onnxruntime is not installed, or silero-vad lacks the model.
    """

    def __init__(self) -> None:
        require_package("onnxruntime", "segment")
        require_package("silero_vad", "segment")
        import onnxruntime

        # Not imported, because silero_vad sets the number of torch's threads to one.
        package = importlib.util.find_spec("silero_vad")
        folder = Path(package.origin or "").parent if package else Path()
        model = folder / "data" / "silero_vad_16k_sequence.onnx"
        if not model.is_file():
            raise UserError(
                "silero_vad lacks the expected model; run pip install -U '.[segment]' in the checkout"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(model), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, blocks: Iterable[Floats]) -> Activity:
        """See `Detector`."""
        speech, levels = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        context = np.zeros((1, _CONTEXT_SAMPLES), np.float32)
        hidden = cell = np.zeros(_STATE_SHAPE, np.float32)
        for frames in _frames(blocks):
            tails = np.concatenate([context, frames[:-1, -_CONTEXT_SAMPLES:]])
            feed = {"input": np.concatenate([tails, frames], axis=1), "h": hidden, "c": cell}
            probabilities, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], feed)
            context = frames[-1:, -_CONTEXT_SAMPLES:]
            speech.append(probabilities)
            levels.append(_level_db(frames))
        return Activity(np.concatenate(speech), np.concatenate(levels))


class LevelOnly:
    """Reports speech except in digital silence, so that other audio is cut where it is quietest.

    Requires no additional package.
    """

    def __call__(self, blocks: Iterable[Floats]) -> Activity:
        """See `Detector`."""
        level = np.concatenate([np.zeros(0, np.float32), *map(_level_db, _frames(blocks))])
        return Activity((level > _SILENCE_DB).astype(np.float32), level)


def _level_db(frames: Floats) -> Floats:
    level: Floats = 10.0 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    return level


def _frames(blocks: Iterable[Floats]) -> Iterator[Floats]:
    """Yield frames [at most _CALL_FRAMES, FRAME_SAMPLES] from blocks of any length, padded with zeros."""
    size = _CALL_FRAMES * FRAME_SAMPLES
    held: list[Floats] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(held)
            whole = count - count % size
            yield from joined[:whole].reshape(-1, _CALL_FRAMES, FRAME_SAMPLES)
            held, count = [joined[whole:]], count - whole
    if count:
        rest = np.concatenate(held)
        yield np.pad(rest, (0, -count % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
