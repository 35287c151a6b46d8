"""The audio of an utterance on the page, or why there is none."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError

# Longer recordings are truncated to this length to limit the page size.
LONGEST_S = 30.0


@dataclass(frozen=True)
class Player:
    """The audio of an utterance. Reports are often made on a machine that does not have it.

    Attributes:
        audio: a `data:` URI of an MP3, the compressed format with the widest browser support; "": none.
        problem: why there is no audio.
        cut: whether the audio is truncated.
    """

    audio: str = ""
    problem: str = ""
    cut: bool = False

    @staticmethod
    def of(utterance: Utterance) -> Player:
        """Read and compress the audio.

        Raises:
            UnreachableError: a server cannot be reached; it need not be asked again.
        """
        try:
            return Player(_embedded(utterance), cut=utterance.duration > LONGEST_S)
        except UnreachableError:
            raise
        except UserError as error:
            return Player(problem=str(error))


def _embedded(utterance: Utterance) -> str:
    import soundfile

    from asr_emapl.audio import SAMPLE_RATE_HZ
    from asr_emapl.audio.decode import read_audio

    seconds = min(utterance.duration, LONGEST_S)
    wave = read_audio(utterance.source, offset=utterance.offset, duration=seconds)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.numpy(), SAMPLE_RATE_HZ, format="MP3")
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
