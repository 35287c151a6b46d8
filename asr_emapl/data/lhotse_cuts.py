"""Lhotse's cut sets (JSON lines), read as manifests.

A cut is an utterance if it is one stretch of one channel of one file: a MonoCut, its recording a single file
that nothing transforms, its supervisions within the cut and of its channel. The texts of its supervisions are
joined in the order of their starts. Relative paths are taken from the current folder, as lhotse takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

# Seconds by which a supervision may reach beyond its cut: rounding, and the silence at either end.
_TOLERANCE_S = 0.05


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
    """Refuse supervisions whose text is not the cut's: they reach beyond it, or are of another channel."""
    length, channel = cut.get("duration"), cut.get("channel", 0)
    for supervision in supervisions:
        if supervision.get("text") is None:
            continue
        theirs = supervision.get("channel", channel)
        if theirs not in (channel, [channel]):
            raise ValueError(
                f"a supervision of channel {theirs} in a cut of channel {channel} "
                "(make cuts of each channel: CutSet.trim_to_supervisions())"
            )
        start, duration = _start(supervision), supervision.get("duration")
        if not isinstance(duration, int | float) or not isinstance(length, int | float) or length <= 0:
            continue  # the reader reports what is wrong with these
        if start < -_TOLERANCE_S or start + duration > length + _TOLERANCE_S:
            raise ValueError(
                f"a supervision from {start:.2f} to {start + duration:.2f} s in a cut of {length:.2f} s, "
                "whose text it is not (cut at the supervisions: CutSet.trim_to_supervisions())"
            )


def _audio(recording: object, channel: object) -> dict[str, object]:
    """The path of the one file that a recording is, and the channel of it unless it has only one."""
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
    if not isinstance(path, str) or not path.strip():
        raise ValueError("the source of its recording is no path (write the cut set again)")
    audio = str(Path(path).absolute())
    if not isinstance(channels, list) or len(channels) < 2:
        return {"audio": audio}
    if channel not in channels:
        raise ValueError(f"channel {channel} is not among those of its recording, {channels} (cut it again)")
    return {"audio": audio, "channel": channels.index(channel)}


def _mappings(value: object, name: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"a cut without {name} as lhotse writes them (write the cut set again)")
    return value


def _start(supervision: Mapping[str, object]) -> float:
    start = supervision.get("start")
    return start if isinstance(start, int | float) else 0.0
