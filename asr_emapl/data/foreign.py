"""Lhotse's cut sets (JSON lines), read as manifests.

A cut is an utterance if it is one stretch of one channel of one file: a MonoCut, its recording a single file
of one channel that nothing transforms. The texts of its supervisions are joined in the order of their starts.
Relative paths are taken from the current folder, as lhotse takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def is_cut(fields: Mapping[str, object]) -> bool:
    """Whether a line of JSON is a cut of any of lhotse's kinds."""
    return fields.get("type") in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")


def from_cut(cut: Mapping[str, object]) -> dict[str, object]:
    """A cut in the fields of `Utterance`, as far as it has them; the reader sees whether they are sound.

    Raises:
        ValueError: the cut is no stretch of one channel of one file.
    """
    if cut["type"] != "MonoCut":
        raise ValueError(
            f"a {cut['type']}, not a stretch of one file (save mixed audio to files, and cut these)"
        )
    supervisions = sorted(_mappings(cut.get("supervisions") or [], "supervisions"), key=_start)
    texts = [supervision.get("text") for supervision in supervisions]
    spoken = [text for text in texts if isinstance(text, str)]
    if len(spoken) < len(texts) - texts.count(None):
        raise ValueError("the text of a supervision is not a string (write the cut set again)")
    speakers = [supervision.get("speaker") for supervision in supervisions]
    return {
        "id": cut.get("id"),
        "audio": _audio(cut.get("recording")),
        "duration": cut.get("duration"),
        "offset": cut.get("start"),
        "text": " ".join(spoken) if spoken else None,
        "speaker": speakers[0] if speakers and speakers.count(speakers[0]) == len(speakers) else None,
    }


def _audio(recording: object) -> str:
    """The path of the one file that a recording is."""
    (fields,) = _mappings([recording], "recording")
    if fields.get("transforms"):
        raise ValueError("its recording is transformed when it is read (save the audio to files)")
    sources = _mappings(fields.get("sources"), "sources of its recording")
    if len(sources) != 1 or sources[0].get("type") != "file":
        kinds = ", ".join(sorted({str(source.get("type")) for source in sources}))
        raise ValueError(
            f"its recording comes from {len(sources)} sources ({kinds}), not one file (save it to a file)"
        )
    (source,) = sources
    channels, path = source.get("channels"), source.get("source")
    if isinstance(channels, list) and len(channels) > 1:
        raise ValueError(
            f"it is one of {len(channels)} channels of its recording (give each channel a file of its own)"
        )
    if not isinstance(path, str) or not path.strip():
        raise ValueError("the source of its recording is no path (write the cut set again)")
    return str(Path(path).absolute())


def _mappings(value: object, name: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"a cut without {name} as lhotse writes them (write the cut set again)")
    return value


def _start(supervision: Mapping[str, object]) -> float:
    start = supervision.get("start")
    return start if isinstance(start, int | float) else 0.0
