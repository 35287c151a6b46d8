"""Read lhotse cut sets (JSON lines) as manifests.

A cut is supported if it is a segment of one channel of one file: a MonoCut whose recording is a single file
without transforms, and whose supervisions are within the cut and on its channel. The texts of the
supervisions are joined in order of their start. Relative paths are resolved against the current folder, as in
lhotse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

# Seconds by which a supervision may extend beyond its cut, for rounding and silence at the ends.
_TOLERANCE_S = 0.05


def is_cut(fields: Mapping[str, object]) -> bool:
    """Whether a line of JSON is a lhotse cut of any type."""
    return fields.get("type") in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")


def from_cut(cut: Mapping[str, object]) -> dict[str, object]:
    """Convert a cut to the fields of `Utterance`, which the reader validates.

    Raises:
        ValueError: the cut is not a segment of one channel of one file.
    """
    if cut["type"] != "MonoCut":
        raise ValueError(
            f"a {cut['type']} is not a segment of one file (save mixed audio to files, and cut these)"
        )
    supervisions = sorted(_mappings(cut.get("supervisions") or [], "supervisions"), key=_start)
    texts = [supervision.get("text") for supervision in supervisions]
    spoken = [text for text in texts if isinstance(text, str)]
    if spoken:
        _require_within(cut, supervisions)
    if len(spoken) < len(texts) - texts.count(None):
        raise ValueError("the text of a supervision is not a string (write the cut set again)")
    speakers = [supervision.get("speaker") for supervision in supervisions]
    return {
        "id": cut.get("id"),
        **_audio(cut.get("recording"), cut.get("channel")),
        "duration": cut.get("duration"),
        "offset": cut.get("start"),
        "text": " ".join(spoken) if spoken else None,
        "speaker": speakers[0] if speakers and speakers.count(speakers[0]) == len(speakers) else None,
    }


def _require_within(cut: Mapping[str, object], supervisions: Sequence[Mapping[str, object]]) -> None:
    """Check that supervisions with a text are within the cut and on its channel."""
    length, channel = cut.get("duration"), cut.get("channel", 0)
    for supervision in supervisions:
        if supervision.get("text") is None:
            continue
        theirs = supervision.get("channel", channel)
        if theirs not in (channel, [channel]):
            raise ValueError(
                f"a supervision of channel {theirs} in a cut of channel {channel} "
                "(cut each channel: CutSet.trim_to_supervisions())"
            )
        start, duration = _start(supervision), supervision.get("duration")
        if not isinstance(duration, int | float) or not isinstance(length, int | float) or length <= 0:
            continue  # the reader reports what is wrong with these
        if start < -_TOLERANCE_S or start + duration > length + _TOLERANCE_S:
            raise ValueError(
                f"a supervision from {start:.2f} to {start + duration:.2f} s extends beyond a cut of "
                f"{length:.2f} s (cut at the supervisions: CutSet.trim_to_supervisions())"
            )


def _audio(recording: object, channel: object) -> dict[str, object]:
    """The path of a recording's only file, and the channel if it has several."""
    (fields,) = _mappings([recording], "recording")
    if fields.get("transforms"):
        raise ValueError("its recording has transforms (save the audio to files)")
    sources = _mappings(fields.get("sources"), "sources of its recording")
    if len(sources) != 1 or sources[0].get("type") != "file":
        kinds = ", ".join(sorted({str(source.get("type")) for source in sources}))
        raise ValueError(
            f"its recording comes from {len(sources)} sources ({kinds}), not one file (save it to a file)"
        )
    (source,) = sources
    channels, path = source.get("channels"), source.get("source")
    if not isinstance(path, str) or not path.strip():
        raise ValueError("the source of its recording is not a path (write the cut set again)")
    audio = str(Path(path).absolute())
    if not isinstance(channels, list) or len(channels) < 2:
        return {"audio": audio}
    if channel not in channels:
        raise ValueError(f"channel {channel} is not a channel of its recording, {channels} (cut it again)")
    return {"audio": audio, "channel": channels.index(channel)}


def _mappings(value: object, name: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"a cut has no valid {name} (write the cut set again)")
    return value


def _start(supervision: Mapping[str, object]) -> float:
    start = supervision.get("start")
    return start if isinstance(start, int | float) else 0.0
