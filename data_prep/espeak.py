"""The speech synthesiser eSpeak NG, through its C library."""

from __future__ import annotations

import _ctypes
import ctypes

import numpy as np

from asr_emapl.errors import UserError, require_package

ENGINE_RATE = 22_050  # sample rate in Hz


def engine_paths() -> tuple[str, str]:
    """Return the paths of the shared library and of its data.

    Raises:
        UserError: they are not installed.
    """
    require_package("espeakng_loader", "quickstart")
    import espeakng_loader

    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


class Engine:
    """Context manager that loads eSpeak NG on entry and unloads it on exit.

    The library keeps the phase of its pitch flutter in static variables that espeak_Terminate does not reset,
    so its audio depends on everything spoken before. Reloading it for each speaker makes the audio depend
    only on the seed (unless something else in the process has loaded the library).
    """

    # From espeak-ng/speak_lib.h.
    _SYNCHRONOUS, _DO_NOT_EXIT, _UTF8, _BY_CHARACTER = 2, 0x8000, 1, 1
    _VOLUME = 35  # at the default of 100, some voices clip inside the engine

    def __enter__(self) -> Engine:
        library, data = engine_paths()
        self._library = ctypes.CDLL(library)
        rate = self._library.espeak_Initialize(self._SYNCHRONOUS, 0, data.encode(), self._DO_NOT_EXIT)
        if rate != ENGINE_RATE:
            raise UserError(f"eSpeak NG failed to initialise with data folder {data} (returned {rate})")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._chunks: list[bytes] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = prototype(self._collect)  # keep a reference: the engine calls it
        self._library.espeak_SetSynthCallback(self._callback)
        return self

    def __exit__(self, *exception: object) -> None:
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)

    def _collect(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # continue

    def speak(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int, gap: int) -> np.ndarray:
        """Return speech, float64 [samples] in -1..1 at ENGINE_RATE; `rate` is in words per minute."""
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"eSpeak NG has no voice {voice!r}")
        settings = ((1, rate), (2, self._VOLUME), (3, pitch), (4, pitch_range), (7, gap))
        for parameter, value in settings:  # espeak_PARAMETER's numbers
            self._library.espeak_SetParameter(parameter, value, 0)
        buffer, size = text.encode() + b"\0", ctypes.c_size_t(len(text.encode()) + 1)
        self._library.espeak_Synth(buffer, size, 0, self._BY_CHARACTER, 0, self._UTF8, None, None)
        return np.frombuffer(b"".join(self._chunks), np.int16) / 32768.0
