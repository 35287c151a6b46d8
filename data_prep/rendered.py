"""The corpus of the quickstart: synthetic speech, rendered on this machine.

eSpeak NG (wheel `espeakng-loader`) speaks short sentences of a small grammar in many voices. The audio is
resampled to 16 kHz and trimmed; some utterances get noise and reverberation. The layout is LibriSpeech's:

    DEST/LibriSpeech/SPEAKERS.TXT
    DEST/LibriSpeech/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<NNNN>.flac   16 kHz, mono, 16 bit
    DEST/LibriSpeech/<part>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt     "ID WORDS IN CAPITALS"

    train-labelled     a few minutes, few speakers, some noisy utterances
    train-unlabelled   an hour, the same speakers and others, half noisy (transcripts used only by the oracle)
    dev-clean          new speakers with the voices of train-labelled, clean
    dev-other          voice-accent pairs unseen in training, all noisy, many reverberant

No sentence of a dev part occurs in training or in the other dev part. Waveforms are float64 [samples] in
-1..1 until written to disk. Rates are in Hz, levels in dB, durations in seconds.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from asr_emapl.errors import UserError
from asr_emapl.processes import serve_parent
from asr_emapl.progress import track
from asr_emapl.storage import read_document, read_object, write, writing
from data_prep.espeak import Engine, engine_paths

VERSION = 8  # version of the corpus; parts of another version are rendered again
SAMPLE_RATE = 16_000

# fmt: off
VERBS, COLOURS = ("BRING", "REMEMBER", "DISCOVER", "FOLLOW"), ("YELLOW", "PURPLE", "ORANGE", "SILVER")
ANOTHER, THINGS = ("ANOTHER",), ("UMBRELLA", "LETTER", "COFFEE", "GUITAR")
RELATIONS, PLACES = ("BEHIND", "TOWARD"), ("WINDOW", "GARDEN", "HOSPITAL")
NUMBERS = ("ZERO", "SEVEN", "SIX", "HUNDRED", "NINE", "TWENTY")
VOCABULARY = (*VERBS, *ANOTHER, *COLOURS, *THINGS, *RELATIONS, *PLACES, *NUMBERS)
GRAMMAR: tuple[tuple[tuple[str, ...], ...], ...] = (
    (THINGS, NUMBERS),
    (VERBS, ANOTHER, COLOURS, THINGS),
    (VERBS, NUMBERS, COLOURS, THINGS),
    (THINGS, RELATIONS, PLACES, NUMBERS),
    (COLOURS, THINGS, NUMBERS, NUMBERS),
    (NUMBERS, COLOURS, THINGS, RELATIONS, PLACES),
    (VERBS, ANOTHER, COLOURS, THINGS, RELATIONS, PLACES),
    (VERBS, COLOURS, THINGS, RELATIONS, PLACES, NUMBERS),
)
# Voices are named accent+variant, as in eSpeak ("en" is British: the engine finds no "en-gb").
ACCENTS = (
    "en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc", "en-gb-x-gbclan",
)
LABELLED_VOICES = (
    "en-us+m3", "en-us+f2", "en+m1", "en+f4", "en-gb-scotland+m7", "en-gb-x-rp+f3", "en-us-nyc+m1",
    "en-us-nyc+f4", "en-gb-x-gbclan+m3", "en-gb-scotland+f2", "en-gb-x-rp+m2", "en-us+f1",
)
UNLABELLED_VARIANTS = (
    "m2", "f1", "Alex", "f5", "m4", "belinda", "Andy", "m5", "Denis", "aunty", "m8", "grandma", "Hugo",
    "Michael", "Mike", "adam", "boris", "ed", "quincy", "victor",
)
HELD_OUT_VARIANTS = ("m6", "linda", "michel", "steph", "grandpa", "Annie", "robert", "pablo")
FEMALE = {"f1", "f2", "f3", "f4", "f5", "belinda", "shelby", "Alicia", "aunty", "grandma"}
FEMALE |= {"linda", "steph", "Annie"}
# fmt: on
# Cycle through the accents, shifting by one per cycle, so that each accent gets voices of both sexes.
UNLABELLED_VOICES = [f"{ACCENTS[(i + i // 6) % 6]}+{name}" for i, name in enumerate(UNLABELLED_VARIANTS)]
HELD_OUT_VOICES = [f"{ACCENTS[i % 6]}+{name}" for i, name in enumerate(HELD_OUT_VARIANTS)]

Limits = tuple[tuple[float, ...], tuple[float, ...]]
# Lower and upper limits of a speaker's pitch, pitch range, words per minute, formant shift and tilt: near
# eSpeak's default voice, or the full natural-sounding range.
NEAR: Limits = ((42.0, 40.0, 130.0, 0.96, -0.1), (58.0, 60.0, 165.0, 1.04, 0.1))
ANY: Limits = ((38.0, 35.0, 128.0, 0.95, -0.2), (64.0, 70.0, 168.0, 1.06, 0.2))

UTTERANCES_PER_CHAPTER = 25
SHORTEST, EDGE = 1.0, (0.05, 0.15)  # seconds: minimum utterance length; range of silence at each end
SPEECH_THRESHOLD = 0.02  # relative to the peak; leading and trailing samples below it are trimmed
LEVEL_DB = (-27.0, -19.0)  # RMS of an utterance, relative to full scale
FLOOR_DB = (-40.0, -25.0)  # noise floor of clean utterances, relative to the speech
PEAK = 0.95
REVERBERATION = (0.15, 0.35)  # seconds until the sound decays by 60 dB
DIRECT_TO_REVERBERANT_DB = (4.0, 12.0)
BABBLE_VOICES = 4
LOWEST = 40  # Hz; lower frequencies contain only engine drift
NOISES = ("white", "pink", "babble")

MARKER = "rendered.json"
SPEAKERS_HEADER = ";ID  |SEX| SUBSET           |MINUTES| NAME (accent+variant, rendered by eSpeak NG)"


@dataclass(frozen=True)
class CorpusSize:
    """Seconds of audio and number of speakers of each part.

    The quickstart uses the default: 4 minutes labelled, an hour unlabelled, 8 minutes per dev part; 100 MB.
    The speakers of train-labelled also occur in train-unlabelled.
    """

    labelled_seconds: float = 240.0
    labelled_speakers: int = 12
    unlabelled_seconds: float = 3600.0
    unlabelled_speakers: int = 32
    dev_seconds: float = 480.0
    dev_speakers: int = 8


DEFAULT = CorpusSize()


@dataclass(frozen=True)
class Speaker:
    """eSpeak settings of one speaker, and the processing of its audio."""

    number: int
    voice: str  # accent+variant, as in eSpeak
    pitch: int  # on eSpeak's scale 0..99; 50 is the default of the variant
    pitch_range: int  # variation of the pitch, on the same scale
    words_per_minute: float
    formant_shift: float  # frequency scaling factor; the speech rate is unchanged
    tilt: float  # microphone filter: y[n] = x[n] + tilt * x[n - 1]


@dataclass(frozen=True)
class Part:
    """One part of the corpus: speakers, length, noise and reverberation."""

    name: str
    seconds: float
    speakers: tuple[Speaker, ...]
    first_chapter: int  # differs between parts that share speakers
    p_noise: float = 0.0
    snr_db: tuple[float, float] = (8.0, 20.0)
    p_room: float = 0.0  # probability of reverberation of a noisy utterance


def download(
    destination: Path, *, size: CorpusSize = DEFAULT, seed: int = 0, workers: int | None = None
) -> Path:
    """Render the corpus into `destination`/LibriSpeech and return that folder.

    The output depends only on size and seed. Parts are renamed when complete; complete parts are kept.

    Args:
        workers: number of processes; None: one per core.

    Raises:
        UserError: the engine is not installed, a size is invalid, or the folder contains another corpus or
            cannot be written.
    """
    if min(asdict(size).values()) <= 0 or size.unlabelled_speakers < size.labelled_speakers:
        raise UserError(
            "the corpus: all sizes must be above zero, and there must be at least as many unlabelled as "
            f"labelled speakers, not {size.unlabelled_speakers} and {size.labelled_speakers}"
        )
    root = destination / "LibriSpeech"
    corpus_parts = parts(size, seed)
    marker: dict[str, object] = {"version": VERSION, "seed": seed, "size": asdict(size)}
    pending = [part for part in corpus_parts if not _is_complete(root, part, marker)]
    speakers_file = root / "SPEAKERS.TXT"
    if speakers_file.exists() and not read_document(speakers_file).startswith(SPEAKERS_HEADER):
        raise UserError(f"{speakers_file}: belongs to another corpus; choose another folder")
    if pending:
        engine_paths()  # reports a missing package before workers start
        write(speakers_file, _speakers_table(corpus_parts))
        with writing(root):
            _render_parts(root, pending, marker, seed, workers or os.cpu_count() or 1)
    return root


def parts(size: CorpusSize = DEFAULT, seed: int = 0) -> tuple[Part, ...]:
    """Return the four parts and their speakers, drawn from the seed."""
    rng = np.random.default_rng([seed, 0])

    def cast(count: int, first: int, voices: Sequence[str], limits: Limits) -> tuple[Speaker, ...]:
        return tuple(_speaker(rng, first + i, voices[i % len(voices)], limits) for i in range(count))

    labelled = cast(size.labelled_speakers, 100, LABELLED_VOICES, NEAR)
    others = cast(size.unlabelled_speakers - size.labelled_speakers, 200, UNLABELLED_VOICES, ANY)
    clean = cast(size.dev_speakers, 300, LABELLED_VOICES[: size.labelled_speakers], NEAR)
    other = cast(size.dev_speakers, 400, HELD_OUT_VOICES, ANY)
    return (
        Part("train-labelled", size.labelled_seconds, labelled, 1000, 0.4, (15.0, 28.0), 0.3),
        Part("train-unlabelled", size.unlabelled_seconds, labelled + others, 2000, 0.5, (15.0, 28.0), 0.4),
        Part("dev-clean", size.dev_seconds, clean, 3000),
        Part("dev-other", size.dev_seconds, other, 4000, 1.0, (15.0, 25.0), 0.4),
    )


def sentences(part: str) -> list[list[str]]:
    """Return the sentences of a part, one list per grammar rule, without empty lists.

    A checksum assigns a tenth of the sentences to each dev part, and the others to both training parts.
    """
    wanted = {"dev-clean": {0}, "dev-other": {1}}.get(part, set(range(2, 10)))
    rules = [[" ".join(words) for words in itertools.product(*rule)] for rule in GRAMMAR]
    # The low bits of the checksum are linear in the characters; the multiplication mixes them.
    hashes = [[(s, zlib.crc32(s.encode()) * 2_654_435_761 >> 16) for s in rule] for rule in rules]
    dealt = [[s for s, number in rule if number % 10 in wanted] for rule in hashes]
    return [rule for rule in dealt if rule]


def _speaker(rng: np.random.Generator, number: int, voice: str, limits: Limits) -> Speaker:
    pitch, melody, rate, shift, tilt = (float(v) for v in rng.uniform(*limits))
    return Speaker(number, voice, round(pitch), round(melody), rate, shift, tilt)


def _is_complete(root: Path, part: Part, marker: dict[str, object]) -> bool:
    """Return whether the part exists with this marker; raise UserError for a folder of another corpus."""
    folder = root / part.name
    if not folder.exists():
        return False
    if not (folder / MARKER).exists():
        raise UserError(f"{folder}: was not rendered by this recipe; choose another folder")
    return bool(read_object(folder / MARKER, "the marker of a rendered part (remove the folder)") == marker)


def _speakers_table(corpus_parts: tuple[Part, ...]) -> str:
    """Return the content of SPEAKERS.TXT: one line per speaker and part, with the requested minutes."""
    lines = [SPEAKERS_HEADER]
    for part in corpus_parts:
        minutes = part.seconds / len(part.speakers) / 60
        for speaker in part.speakers:
            sex = "F" if speaker.voice.split("+")[1] in FEMALE else "M"
            lines.append(f"{speaker.number:<4} | {sex} | {part.name:<16} | {minutes:5.2f} | {speaker.voice}")
    return "\n".join(lines) + "\n"


def _render_parts(
    root: Path, pending: list[Part], marker: dict[str, object], seed: int, workers: int
) -> None:
    """Render each part under a temporary name, and rename it when it is complete."""
    # Use spawn, because fork copies locks held by other threads (for example, torch's).
    context = multiprocessing.get_context("spawn")
    pool = context.Pool(workers, serve_parent, (signal.SIGINT,)) if workers > 1 else None
    with pool or contextlib.nullcontext():
        for part in pending:
            partial, final = root / f".{part.name}.partial", root / part.name
            shutil.rmtree(partial, ignore_errors=True)
            jobs = [(part, speaker, partial, seed) for speaker in part.speakers]
            rendered = (pool.imap if pool else map)(_render_job, jobs)
            list(track(rendered, f"rendering {part.name}", len(jobs), "speakers"))
            write(partial / MARKER, json.dumps(marker, indent=1))
            if final.exists():  # of another seed, size or version
                shutil.rmtree(final)
            partial.rename(final)


def _render_job(job: tuple[Part, Speaker, Path, int]) -> None:
    _render_speaker(*job)


def _render_speaker(part: Part, speaker: Speaker, directory: Path, seed: int) -> None:
    """Render one speaker's chapters until they reach the speaker's share of the part's audio."""
    rng = np.random.default_rng([seed, part.first_chapter, speaker.number])
    rules = sentences(part.name)
    seconds, count = 0.0, 0
    with Engine() as engine:
        babble = _babble(engine, rng, rules) if part.p_noise > 0 else np.zeros(1)
        while seconds < part.seconds / len(part.speakers):
            rule = rules[rng.integers(len(rules))]  # long rules contain most sentences
            text = rule[rng.integers(len(rule))]
            wave = _trimmed(_spoken(engine, rng, text, speaker), rng)
            wave[1:] += speaker.tilt * wave[:-1].copy()
            wave = _recorded(wave, rng, part, babble)
            chapter, index = divmod(count, UTTERANCES_PER_CHAPTER)
            name = f"{speaker.number}-{part.first_chapter + chapter}"
            folder = directory / str(speaker.number) / str(part.first_chapter + chapter)
            folder.mkdir(parents=True, exist_ok=True)
            # Encode in memory, because libsndfile does not report why a write failed.
            encoded = io.BytesIO()
            soundfile.write(encoded, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            (folder / f"{name}-{index:04d}.flac").write_bytes(encoded.getvalue())
            with (folder / f"{name}.trans.txt").open("a", encoding="utf-8") as transcripts:
                transcripts.write(f"{name}-{index:04d} {text}\n")
            seconds, count = seconds + wave.size / SAMPLE_RATE, count + 1


def _spoken(engine: Engine, rng: np.random.Generator, text: str, speaker: Speaker) -> np.ndarray:
    """Return the sentence in the speaker's voice [samples], with small random variations."""
    # Resampling by 320 / d is 22.05 -> 16 kHz at d = 441. Other values of d shift formants and speech rate;
    # the engine's rate setting compensates for the latter.
    denominator = round(441 * speaker.formant_shift)
    rate = speaker.words_per_minute * rng.uniform(0.93, 1.07) * 441 / denominator
    pitch = speaker.pitch + int(rng.integers(-5, 6))
    gap = int(rng.integers(1, 8))  # between words, in units of 10 ms
    samples = engine.speak(text.lower(), speaker.voice, round(rate), pitch, speaker.pitch_range, gap)
    # Resample in the frequency domain. The edges are silent, so nothing wraps around.
    blocks = math.ceil(samples.size / (16 * denominator))  # exact ratio and fast FFT
    n_in, n_out = blocks * 16 * denominator, blocks * 16 * 320
    spectrum = np.fft.rfft(samples, n_in)[: n_out // 2 + 1]
    spectrum[: round(LOWEST * n_out / SAMPLE_RATE)] = 0
    return np.fft.irfft(spectrum, n_out) * (n_out / n_in)


def _trimmed(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Trim to the first and last sound, add silence at both ends, and pad to at least SHORTEST."""
    loud = np.flatnonzero(np.abs(wave) > SPEECH_THRESHOLD * np.abs(wave).max())
    wave = wave[loud[0] : loud[-1] + 1]
    before, after = (round(float(s) * SAMPLE_RATE) for s in rng.uniform(*EDGE, size=2))
    missing = max(0, round(SHORTEST * SAMPLE_RATE) - before - wave.size - after)
    return np.pad(wave, (before + missing // 2, after + missing - missing // 2))


def _recorded(wave: np.ndarray, rng: np.random.Generator, part: Part, babble: np.ndarray) -> np.ndarray:
    """Add the part's noise and reverberation and a faint noise floor, then set the level."""
    if rng.random() < part.p_noise:
        if rng.random() < part.p_room:
            wave = _in_room(wave, rng)
        noise = _noise(str(rng.choice(NOISES)), wave.size, rng, babble)
        level = wave.std() * 10 ** (-rng.uniform(*part.snr_db) / 20)
        wave = wave + (noise - noise.mean()) * (level / noise.std())
    wave = wave + rng.standard_normal(wave.size) * wave.std() * 10 ** (rng.uniform(*FLOOR_DB) / 20)
    gain = 10 ** (rng.uniform(*LEVEL_DB) / 20) / wave.std()
    return wave * min(gain, PEAK / np.abs(wave).max())


def _in_room(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolve with a direct path and an exponentially decaying tail of noise; keeps the length."""
    decay = rng.uniform(*REVERBERATION)
    time = np.arange(round(decay * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(time.size) * 10 ** (-3 * time / decay)
    tail[: SAMPLE_RATE // 500] = 0  # the first reflection comes 2 ms after the direct sound
    tail *= 10 ** (-rng.uniform(*DIRECT_TO_REVERBERANT_DB) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    length = 1 << (wave.size + tail.size - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(wave, length) * np.fft.rfft(tail, length), length)[: wave.size]


def _noise(kind: str, size: int, rng: np.random.Generator, babble: np.ndarray) -> np.ndarray:
    """Return noise [size] of the given kind (see NOISES), with arbitrary level."""
    if kind == "babble":
        return np.roll(np.resize(babble, max(size, babble.size)), int(rng.integers(babble.size)))[:size]
    white = rng.standard_normal(1 << (size - 1).bit_length())
    if kind == "white":
        return white[:size]
    spectrum = np.fft.rfft(white)
    return np.fft.irfft(spectrum / np.sqrt(np.arange(1, spectrum.size + 1)))[:size]  # power ~ 1/f


def _babble(engine: Engine, rng: np.random.Generator, rules: list[list[str]]) -> np.ndarray:
    """Return a few seconds of BABBLE_VOICES overlapping speakers, [samples]."""
    voices = []
    for i in range(BABBLE_VOICES):
        speaker = _speaker(rng, i, UNLABELLED_VOICES[rng.integers(len(UNLABELLED_VOICES))], ANY)
        spoken = [_spoken(engine, rng, str(rng.choice(rules[-1])), speaker) for _ in range(2)]
        wave = np.concatenate([_trimmed(s, rng) for s in spoken])
        voices.append(wave / wave.std())
    shortest = min(wave.size for wave in voices)
    return np.sum([wave[:shortest] for wave in voices], axis=0)
