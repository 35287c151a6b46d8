"""Good inputs of every kind, in one folder that can be copied: all paths in them are relative to it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import soundfile
import yaml
from support.tiny import CONFIG, make_corpus

from asr_emapl.cli import main
from data_prep.espeak import Engine
from data_prep.rendered import LABELLED_VOICES


def make_inputs(root: Path) -> None:
    """Fill the folder `root`, which must not be there; a run is trained in it."""
    root.mkdir(parents=True)
    with _inside(root):
        make_corpus(root)
        for manifest in root.glob("*.jsonl"):
            manifest.write_text(manifest.read_text().replace(f"{root}/", ""))
        config = yaml.safe_load(CONFIG.format(root="in"))
        Path("config.yaml").write_text(yaml.safe_dump(config | {"run_dir": "out/run", "hours": 0.004}))
        _corpora()
        _texts()
    with _inside(root.parent):
        _command("train", "--config", "in/config.yaml", "run_dir=in/run", "hours=0.015", *_TRAINED_WITH)
        shutil.rmtree("in/run/tensorboard", ignore_errors=True)
        checkpoints = sorted(Path("in/run/checkpoints").glob("step-*.pt"))
        shutil.copy(checkpoints[0], "in/start.pt")
        shutil.copy(checkpoints[-1], "in/end.pt")
        _command(
            "tokenizer",
            "--kind",
            "unigram",
            "--size",
            "14",
            "--manifest",
            "in/labelled.jsonl",
            "--out",
            "in/pieces.json",
        )
        _command("decode", "--checkpoint", "in/end.pt", "--manifest", "in/dev.jsonl", "--out", "in/hyp.jsonl")
        if all(map(importlib.util.find_spec, ("kenlm", "kaldingram"))):
            _command("lm", "--text", "in/text.txt", "--order", "2", "--out", "in/lm.arpa")
            search = {
                "beam": 5,
                "lm": "in/lm.arpa",
                "lexicon": "in/lm.arpa",
                "lm_weight": 1.0,
                "word_bonus": 0.0,
                "tokenizer": "",
            }
            Path("in/lm.json").write_text(json.dumps(search))


_TRAINED_WITH = ("checkpoint.running_mean=true", "checkpoint.keep=9", "optimizer.noise_every_steps=2")


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _command(*arguments: str) -> None:
    with mock.patch.object(sys, "argv", ["asr-emapl", *arguments]):
        try:
            main()
        except SystemExit as exit_:
            if exit_.code:
                raise RuntimeError(f"{arguments} ends with {exit_.code}") from None


def _corpora() -> None:
    """Folders that `prepare` reads; each with a few files of audio."""
    audio = sorted(Path().glob("labelled-*.flac"))[:3]
    texts = [json.loads(line)["text"] for line in Path("labelled.jsonl").read_text().splitlines()][:3]
    chapter = Path("librispeech/LibriSpeech/dev-clean/1/2")
    light, clips, talks, kaldi = Path("light/small/1/book"), Path("voice/clips"), Path("talks"), Path("kaldi")
    for folder in (chapter, light, clips, talks, kaldi):
        folder.mkdir(parents=True)
    for i, (path, text) in enumerate(zip(audio, texts, strict=True)):
        shutil.copy(path, chapter / f"1-2-{i:04d}.flac")
        shutil.copy(path, light / f"{i}.flac")
        seconds = soundfile.info(path).duration
        (light / f"{i}.json").write_text(
            json.dumps({"voice_activity": [[0.0, seconds / 2], [seconds / 2, seconds]]})
        )
        shutil.copy(path, clips / f"{i}.flac")
        shutil.copy(path, talks / f"{i}.flac")
        (talks / f"{i}.txt").write_text(f"{text}\n")
    names = [f"1-2-{i:04d}" for i in range(3)]
    (chapter / "1-2.trans.txt").write_text("".join(f"{n} {t}\n" for n, t in zip(names, texts, strict=True)))
    rows = "".join(f"{i}.flac\t{t}\tann\n" for i, t in enumerate(texts))
    for split in ("train", "dev", "test"):
        Path(f"voice/{split}.tsv").write_text("path\tsentence\tclient_id\n" + rows)
    (talks / "table.csv").write_text("path,text\n" + "".join(f"{i}.flac,{t}\n" for i, t in enumerate(texts)))
    (kaldi / "wav.scp").write_text("".join(f"r{i} in/talks/{i}.flac\n" for i in range(3)))
    (kaldi / "segments").write_text("".join(f"u{i} r{i} 0.0 0.3\n" for i in range(3)))
    (kaldi / "text").write_text("".join(f"u{i} {t}\n" for i, t in enumerate(texts)))
    (kaldi / "utt2spk").write_text("".join(f"u{i} ann\n" for i in range(3)))
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * 44_100)
    soundfile.write("long.wav", noise, 44_100)
    if importlib.util.find_spec("espeakng_loader"):
        with Engine() as engine:
            speech = [
                engine.speak("good morning everybody", LABELLED_VOICES[0], 150, 50, 50, 1) for _ in range(2)
            ]
        soundfile.write("talk.wav", np.concatenate([*speech, np.zeros(22_050), *speech]), 22_050)


def _texts() -> None:
    """References and hypotheses in every format, lists of words, a manifest of each other toolkit."""
    dev = [json.loads(line) for line in Path("dev.jsonl").read_text().splitlines()]
    Path("ref.trn").write_text("".join(f"{u['text']} ({u['id']})\n" for u in dev))
    Path("hyp.trn").write_text("".join(f"{u['text'].lower()} ({u['id']})\n" for u in dev))
    Path("ref.txt").write_text("".join(f"{u['id']} {u['text']}\n" for u in dev))
    Path("ref.stm").write_text("".join(f"{u['id']} 1 ann 0.0 {u['duration']} <o> {u['text']}\n" for u in dev))
    words = [(u["id"], i, word) for u in dev for i, word in enumerate(u["text"].split())]
    Path("hyp.ctm").write_text("".join(f"{id_} 1 {0.2 * i:.2f} 0.1 {word} 0.9\n" for id_, i, word in words))
    Path("words.txt").write_text("ADA\nBOB\nCLIO\nDAN\n")
    sentences = [json.loads(line)["text"] for line in Path("labelled.jsonl").read_text().splitlines()]
    Path("text.txt").write_text("".join(f"{s}\n" for s in 4 * sentences))
    Path("text.txt.gz").write_bytes(gzip.compress(Path("text.txt").read_bytes(), mtime=0))
    nemo = [
        {"audio_filepath": u["audio"], "duration": u["duration"], "text": u["text"], "pred_text": "ADA"}
        for u in dev
    ]
    Path("nemo.json").write_text("".join(json.dumps(line) + "\n" for line in nemo))
    Path("cuts.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(_cut(u)) + "\n" for u in dev).encode(), mtime=0)
    )


def _cut(utterance: dict) -> dict:
    source = {"type": "file", "channels": [0], "source": f"in/{utterance['audio']}"}
    return {
        "id": utterance["id"],
        "type": "MonoCut",
        "start": 0.0,
        "duration": utterance["duration"],
        "channel": 0,
        "recording": {"id": utterance["id"], "sources": [source]},
        "supervisions": [
            {
                "id": "s",
                "start": 0.0,
                "duration": utterance["duration"],
                "channel": 0,
                "text": utterance["text"],
            }
        ],
    }
