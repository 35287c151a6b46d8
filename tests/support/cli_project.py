"""A corpus on disk and a trained run, for tests of commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from support.commands import succeed
from support.tiny import CONFIG, make_corpus

OVERRIDES = (
    *("hours=0.08", "optimizer.lr=0.01", "validation.every_hours=null"),
    *("checkpoint.every_hours=0.02", "checkpoint.keep=9"),
)


@dataclass
class Project:
    """The files of a project."""

    root: Path
    config: Path
    checkpoints: list[Path]

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def dev(self) -> Path:
        return self.root / "dev.jsonl"


def librispeech(root: Path, target: Path) -> None:
    """The tiny corpus as LibriSpeech/<part>/1/<chapter>/1-<chapter>-<utterance>.flac."""
    for chapter, part in enumerate(("labelled", "unlabelled", "dev"), start=1):
        folder = target / "LibriSpeech" / part / "1" / str(chapter)
        folder.mkdir(parents=True)
        texts = []
        for i, line in enumerate((root / f"{part}.jsonl").read_text().splitlines()):
            utterance = json.loads(line)
            name = f"1-{chapter}-{i:04d}"
            shutil.copy(utterance["audio"], folder / f"{name}.flac")
            texts.append(f"{name} {utterance['text']}\n")
        (folder / f"1-{chapter}.trans.txt").write_text("".join(texts))


def texts(path: Path) -> dict[str, str]:
    return {line["id"]: line["text"] for line in map(json.loads, path.read_text().splitlines())}


def make_project(source: Path, root: Path) -> Project:
    """Prepare a corpus, create a tokenizer and train, using only commands."""
    make_corpus(source)
    librispeech(source, root / "corpora")
    lines = succeed("prepare", "librispeech", "--data", root / "corpora", "--out", root).splitlines()
    for line, part in zip(lines, ("dev", "labelled", "unlabelled"), strict=True):
        assert line.startswith(f"{part}: {root}/{part}.jsonl: ")
        assert "1 speaker, " in line
    assert "character tokenizer with 29 tokens" in succeed("tokenizer", "--out", root / "letters.json")
    config = root / "tiny.yaml"
    config.write_text(CONFIG.format(root=root), encoding="utf-8")
    told = succeed("train", "--config", config, *OVERRIDES)
    checkpoints = sorted((root / "run" / "checkpoints").glob("step-*.pt"))
    assert told.splitlines()[-1] == f"last checkpoint: {checkpoints[-1]}"
    return Project(root, config, checkpoints)
