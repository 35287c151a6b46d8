"""Features that were computed once and are stored in shards instead of audio. Axes: T frames, F features.

A shard NAME-000000.FINGERPRINT.features.tar has one NumPy array per utterance, float16 [T, F]. The
fingerprint identifies the feature extractor, so that features of another one are never used by mistake. The
manifest beside the shards has the durations of the audio, which remains the clock of a run.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.data.read_ahead import read_ahead
from asr_emapl.data.shard_writer import ShardFile
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


@dataclass(frozen=True)
class StoredBatch:
    """What is known of a batch of stored features.

    Attributes:
        fingerprint: of the extractor that made them.
        seconds: audio of each utterance.
    """

    fingerprint: str
    seconds: list[float]


def stored_by(utterance: Utterance) -> str | None:
    """The fingerprint of the extractor whose features are stored; None: the utterance is audio."""
    return utterance.source.stored_by


def read_features(utterance: Utterance) -> Tensor:
    """Stored features, float32 [T, F].

    Raises:
        UserError: the shard cannot be read, or its bytes are not the features that were stored.
        UnreachableError: a server cannot be reached.
    """
    source = utterance.source
    try:
        found = np.load(io.BytesIO(source.content()), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{source}: not stored features ({error}; extract them again)") from error
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error} (correct the path, or copy the shard)") from error
    if found.ndim != 2 or found.dtype != np.float16 or not len(found):
        raise UserError(f"{source}: not stored features, float16 [T, F] (extract them again)")
    return torch.from_numpy(found.astype(np.float32))


def input_features(
    extractor: FeatureExtractor, inputs: Tensor, lengths_B: Tensor, stored: StoredBatch | None
) -> tuple[Tensor, Tensor]:
    """Features [B, T, F] and lengths [B] of a batch, which is waveforms [B, N] or stored features [B, T, F].

    Raises:
        UserError: the features were stored by another extractor.
    """
    if stored is None:
        features: tuple[Tensor, Tensor] = extractor(inputs, lengths_B)
        return features
    _require_same(stored.fingerprint, extractor, "a batch")
    return inputs, lengths_B


def require_extractor(utterance: Utterance, extractor: FeatureExtractor, place: str) -> None:
    """Check that an utterance is audio, or stored features of an extractor; `place` names it in errors.

    Raises:
        UserError: the features were stored by another extractor.
    """
    fingerprint = stored_by(utterance)
    if fingerprint is not None:
        _require_same(fingerprint, extractor, place)


def _require_same(fingerprint: str, extractor: FeatureExtractor, place: str) -> None:
    if fingerprint != extractor.fingerprint:
        raise UserError(
            f"{place} has stored features of extractor {fingerprint}, but the model's extractor is "
            f"{extractor.fingerprint}; set features as for the extraction, or extract them again"
        )


class FeatureFiles:
    """Stored features as the content of shards; see `ShardContent`.

    Each utterance is a batch of its own, so that its features do not depend on the others, nor on where an
    interrupted call resumes.

    Args:
        workers: number of utterances that are processed in parallel.

    Raises:
        UserError: the extractor returns waveforms.
    """

    whole = False

    def __init__(self, extractor: FeatureExtractor, device: torch.device, workers: int) -> None:
        if extractor.size is None:
            raise UserError("the input is the waveform; there are no features to store (use asr-emapl shard)")
        self.extractor, self.device, self.workers = extractor, device, workers
        self.identity = f"features {extractor.fingerprint}"
        self.suffix = f".{extractor.fingerprint}.features.tar"

    def files(self, utterances: Sequence[Utterance]) -> Generator[ShardFile, None, None]:
        """See `ShardContent.files`."""
        for _, file in read_ahead(utterances, self._file, threads=self.workers):
            yield file

    def _file(self, utterance: Utterance) -> ShardFile:
        if stored_by(utterance) is not None:
            raise UserError(f"{utterance.source}: already stored features (use the manifest of the audio)")
        waveform = read_audio(utterance.source, offset=utterance.offset, duration=utterance.duration)
        samples_B = torch.tensor([len(waveform)], device=self.device)
        features_BTF, (frames,) = self.extractor(waveform[None].to(self.device), samples_B)
        features_TF = features_BTF[0, : int(frames)].to(torch.float16).cpu()
        if not bool(features_TF.isfinite().all()):
            raise UserError(f"{utterance.source}: features are not finite in float16 (remove the utterance)")
        file = io.BytesIO()
        np.save(file, features_TF.numpy(), allow_pickle=False)
        return ShardFile(file.getvalue(), "npy")
