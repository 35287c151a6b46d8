"""Summarise manifests and report problems for training, without opening audio files."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.checks.inspection_result import Contents, Finding, Inspection
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.shared_audio import shared_audio
from asr_emapl.data.stored_features import stored_by
from asr_emapl.data.utterance import Utterance
from asr_emapl.data.verify import verify
from asr_emapl.errors import UserError, counted, listing
from asr_emapl.text.tokenizer import Tokenizer

MAX_EXAMPLES = 5
"""Maximum number of example ids per finding."""

_MAX_CHARACTERS = 20
_BIN_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
_MAX_BINS = 20
# Limits on the speaking rate relative to the median. Read speech rarely exceeds them; mismatched transcripts
# do.
_FAST, _SLOW = 2.0, 3.0
# Seconds of silence ignored when checking for a slow speaking rate.
_SILENCE_SECONDS = 1.0
_FEWEST_FOR_RATE = 20


@dataclass(frozen=True)
class Requirements:
    """Constraints of a run on its utterances.

    Attributes:
        tokenizer: defines the allowed characters.
        min_seconds, max_seconds: utterances outside this range are skipped.
        batch_seconds: padded seconds of audio in a step.
        batch: batching configuration.
        alignable: returns for each utterance whether CTC can align its transcript to the model's output
            frames. Transcripts must contain only known characters. None if the model is unknown.
    """

    tokenizer: Tokenizer
    min_seconds: float
    max_seconds: float
    batch_seconds: float
    batch: BatchConfig
    alignable: Callable[[Sequence[Utterance]], Sequence[bool]] | None = None


@dataclass(frozen=True, slots=True)
class _Placed:
    """An utterance, its manifest, and its name in findings."""

    manifest: str
    utterance: Utterance
    name: str

    @property
    def text(self) -> str:
        return self.utterance.text or ""


def inspect_manifests(manifests: Mapping[str, Sequence[Utterance]], demands: Requirements) -> Inspection:
    """Summarise the manifests (path -> utterances), and find problems for training."""
    longest = max(u.duration for utterances in manifests.values() for u in utterances)
    bin_seconds = next((b for b in _BIN_SECONDS if longest / b < _MAX_BINS), longest)
    bins = math.floor(longest / bin_seconds) + 1
    contents = [_contents(name, us, demands, bin_seconds, bins) for name, us in manifests.items()]
    placed = [
        _Placed(manifest, u, u.id if len(manifests) == 1 else f"{u.id} ({manifest})")
        for manifest, utterances in manifests.items()
        for u in utterances
    ]
    findings = [
        *_text_findings(placed),
        *_character_findings(placed, demands),
        *_length_findings(placed, demands),
        *_rate_findings(placed),
        *_duplicates(placed),
        *_shared(manifests),
    ]
    return Inspection(contents, bin_seconds, demands.batch_seconds, findings)


def with_audio(inspection: Inspection, manifests: Mapping[str, Sequence[Utterance]]) -> Inspection:
    """Add the findings of `verify`, which reads the headers of the audio files, not stored features."""
    audio = {name: [u for u in found if stored_by(u) is None] for name, found in manifests.items()}
    faults = {name: verify(utterances, None) for name, utterances in audio.items()}
    findings = [
        _finding(
            f"audio files that contradict {name}: {len(lines)}",
            lines,
            "copy the files again, or fix the manifest",
        )
        for name, lines in faults.items()
        if lines
    ]
    return replace(inspection, findings=[*inspection.findings, *findings])


def _finding(problem: str, examples: Iterable[str], remedy: str, *, is_fault: bool = True) -> Finding:
    """A finding with at most `MAX_EXAMPLES` examples."""
    return Finding(problem, list(examples)[:MAX_EXAMPLES], remedy, is_fault)


def _contents(
    manifest: str, utterances: Sequence[Utterance], demands: Requirements, bin_seconds: float, bins: int
) -> Contents:
    seconds = np.array([u.duration for u in utterances])
    of_speaker: defaultdict[str, float] = defaultdict(float)
    for u in utterances:
        if u.speaker is not None:
            of_speaker[u.speaker] += u.duration / 3600.0
    ranked = sorted(of_speaker.items(), key=lambda item: item[1])
    within = (demands.min_seconds <= seconds) & (seconds <= demands.max_seconds)
    samples = np.array([u.samples for u in utterances], dtype=np.int64)[within]
    steps, padding = _plan(samples, demands)
    return Contents(
        manifest=manifest,
        utterances=len(utterances),
        hours=float(seconds.sum()) / 3600.0,
        with_text=sum(u.text is not None for u in utterances),
        speakers=len(ranked),
        most=ranked[-1] if ranked else None,
        least=ranked[0] if ranked else None,
        shortest_seconds=float(seconds.min()),
        median_seconds=float(np.median(seconds)),
        longest_seconds=float(seconds.max()),
        histogram=np.bincount((seconds / bin_seconds).astype(np.int64), minlength=bins).tolist(),
        steps=steps,
        padding=padding,
    )


def _plan(samples: NDArray[np.int64], demands: Requirements) -> tuple[int, float]:
    """Steps of one epoch, and the share of padding in it."""
    batch_samples = round(demands.batch_seconds * SAMPLE_RATE_HZ)
    samples = samples[samples <= batch_samples]
    if len(samples) == 0:
        return 0, 0.0
    plan = demands.batch.plan(samples, batch_samples)
    padded = [n for number in range(plan.chunks) for n in plan.chunk(0, number).padded]
    return len(padded), 1.0 - int(samples.sum()) / sum(padded)


def _text_findings(placed: list[_Placed]) -> list[Finding]:
    """Find transcripts that are empty, or missing in a manifest that has others."""
    findings = []
    with_text = [p for p in placed if p.utterance.text is not None]
    empty = [p for p in with_text if not p.text.strip()]
    if empty:
        findings.append(
            _finding(
                f"{_utterances(empty)} an empty transcript",
                _names(empty),
                "add the transcript, or omit the field `text` and use the manifest as unlabelled",
            )
        )
    mixed = {p.manifest for p in with_text}
    without = [p for p in placed if p.utterance.text is None and p.manifest in mixed]
    if without:
        findings.append(
            _finding(
                f"{_utterances(without)} no transcript, in a manifest with transcripts",
                _names(without),
                "split the manifest: data.labelled requires transcripts, data.unlabelled does not",
            )
        )
    return findings


def _character_findings(placed: list[_Placed], demands: Requirements) -> list[Finding]:
    """Find characters unknown to the tokenizer, and transcripts that CTC cannot align."""
    known = [p for p in placed if p.utterance.text is not None]
    findings = []
    unknown = _unknown(known, demands.tokenizer)
    if unknown:
        pattern = re.compile(f"[{re.escape(''.join(sorted(unknown)))}]")
        strange = [p for p in known if pattern.search(p.text)]
        known = [p for p in known if not pattern.search(p.text)]
        counts = Counter(c for p in strange for c in pattern.findall(p.text))
        shown = listing([f"{c!r} ({n})" for c, n in counts.most_common()], _MAX_CHARACTERS)
        findings.append(
            _finding(
                f"{_utterances(strange)} characters outside the alphabet: {shown}",
                _names(strange),
                "normalise the text, or create a tokenizer that has them and pass it with --tokenizer",
            )
        )
    fits = demands.alignable([p.utterance for p in known]) if demands.alignable else [True] * len(known)
    short = [p for p, fit in zip(known, fits, strict=True) if not fit]
    if short:
        findings.append(
            _finding(
                f"{_utterances(short)} more tokens than the model has frames to align them with (CTC); "
                "training drops them",
                _names(short),
                "check that text and audio match; if they do, use larger tokens or a smaller stride",
            )
        )
    return findings


def _length_findings(placed: list[_Placed], demands: Requirements) -> list[Finding]:
    least, most = demands.min_seconds, demands.max_seconds
    findings = []
    for outside, bound, remedy in (
        ([p for p in placed if p.utterance.duration < least], f"below {least:g} s", "lower data.min_seconds"),
        (
            [p for p in placed if p.utterance.duration > most],
            f"above {most:g} s",
            "cut them with asr-emapl segment (unlabelled), or raise the smallest of data.max_seconds, "
            "device.max_seconds and the batch size",
        ),
    ):
        if outside:
            hours = sum(p.utterance.duration for p in outside) / 3600.0
            findings.append(
                _finding(
                    f"{_utterances(outside)} a length {bound} ({hours:.2f} h); training skips them",
                    _names(outside),
                    f"remove them from the manifest, or {remedy}",
                )
            )
    return findings


def _rate_findings(placed: list[_Placed]) -> list[Finding]:
    spoken = [p for p in placed if p.text.strip()]
    if len(spoken) < _FEWEST_FOR_RATE:
        return []
    seconds = np.array([p.utterance.duration for p in spoken])
    letters = np.array([len(p.text) for p in spoken])
    median = float(np.median(letters / seconds))
    fast, slow = _FAST * median, median / _SLOW
    odd = (letters / seconds > fast) | (letters / np.maximum(seconds - _SILENCE_SECONDS, 1e-3) < slow)
    if not odd.any():
        return []
    # Sort by distance from the median; outliers are most likely wrong.
    distance = np.abs(np.log(letters / seconds / median))
    worst = sorted(np.flatnonzero(odd).tolist(), key=lambda i: -distance[i])
    return [
        _finding(
            f"{_utterances(worst)} a speaking rate below {slow:.1f} or above {fast:.1f} characters per "
            f"second (the median is {median:.1f})",
            [f"{spoken[i].name} ({letters[i] / seconds[i]:.1f})" for i in worst[:MAX_EXAMPLES]],
            "listen to them: text and audio may not match, or one of them may be truncated",
        )
    ]


def _duplicates(placed: list[_Placed]) -> list[Finding]:
    def place(p: _Placed) -> Hashable:  # `_shared` compares manifests with each other
        u = p.utterance
        return p.manifest, u.audio, u.byte_range, u.channel, round(u.offset * SAMPLE_RATE_HZ)

    same_audio = _groups(placed, place)
    known = {id(p) for group in same_audio for p in group}
    others = [p for p in placed if id(p) not in known and p.text.strip()]
    same_text = _groups(others, lambda p: (p.text, p.utterance.samples))
    kinds = (
        (
            same_audio,
            "audio (file and offset)",
            "keep one of each; otherwise training uses them too often",
            True,
        ),
        # Sentences read by many speakers may have equal durations by chance.
        (same_text, "text and length", "listen to them: if they are copies, keep one of each", False),
    )
    return [
        _finding(
            f"the same {what} more than once: "
            f"{counted(sum(len(group) - 1 for group in groups), 'duplicate')}",
            [" = ".join(_names(group)) for group in groups[:MAX_EXAMPLES]],
            remedy,
            is_fault=is_fault,
        )
        for groups, what, remedy, is_fault in kinds
        if groups
    ]


def _shared(manifests: Mapping[str, Sequence[Utterance]]) -> list[Finding]:
    """Find audio, ids and speakers shared between manifests, pair by pair."""
    findings = []
    names = list(manifests)
    texts = {name: {u.id: u.text for u in manifests[name]} for name in names}
    speakers = {name: {u.speaker for u in manifests[name] if u.speaker is not None} for name in names}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if same := shared_audio(manifests[one], manifests[other]):
                findings.append(
                    _finding(
                        f"audio that is in both {one} and {other}: {counted(len(same), 'utterance')}",
                        [
                            pair.training.id
                            if pair.training.id == pair.utterance.id
                            else f"{pair.training.id} = {pair.utterance.id}"
                            for pair in same
                        ],
                        "if one of them is for validation, remove this audio from the other; otherwise, from "
                        "one of them",
                    )
                )
            findings += _shared_ids(f"{one} and {other}", texts[one], texts[other])
            if common := speakers[one] & speakers[other]:
                findings.append(
                    _finding(
                        f"speakers that are in both {one} and {other}: {len(common)}",
                        sorted(common),
                        "if one of them is for validation, remove its speakers from the other",
                        is_fault=False,
                    )
                )
    return findings


def _shared_ids(
    where: str, one: Mapping[str, str | None], other: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Find ids in two manifests (id -> text). Files of two folders may have equal names and other content."""
    both = sorted(one.keys() & other.keys())
    same = [id_ for id_ in both if one[id_] is not None and one[id_] == other[id_]]
    if same:
        remedy = "make ids unique, or remove the utterances from one of the manifests"
        yield _finding(f"ids with the same transcript in both {where}: {len(same)}", same, remedy)
    if len(both) > len(same):
        others = sorted(set(both) - set(same))
        remedy = "nothing, if files of different folders have equal names"
        yield _finding(f"ids that are in both {where}: {len(others)}", others, remedy, is_fault=False)


def _unknown(placed: Sequence[_Placed], tokenizer: Tokenizer) -> set[str]:
    """Return the characters of the transcripts that the tokenizer cannot encode."""
    letters: set[str] = set()
    for p in placed:
        letters.update(p.text)
    return {letter for letter in letters if not _encodes(tokenizer, letter)}


def _encodes(tokenizer: Tokenizer, letter: str) -> bool:
    try:
        tokenizer.encode(letter)
    except UserError:
        return False
    return True


def _groups(placed: Iterable[_Placed], key: Callable[[_Placed], Hashable]) -> list[list[_Placed]]:
    """Group utterances by key; return groups with more than one member."""
    first: dict[Hashable, _Placed] = {}
    groups: dict[Hashable, list[_Placed]] = {}
    for p in placed:
        content = key(p)
        one = first.setdefault(content, p)
        if one is not p:
            groups.setdefault(content, [one]).append(p)
    return list(groups.values())


def _utterances(found: Sequence[object]) -> str:
    return f"{counted(len(found), 'utterance')} {'has' if len(found) == 1 else 'have'}"


def _names(found: Iterable[_Placed]) -> list[str]:
    return [p.name for p in islice(found, MAX_EXAMPLES)]
