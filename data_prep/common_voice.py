"""Mozilla Common Voice, one language of it: <split>.tsv with the sentences, clips/*.mp3 with the audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from asr_emapl.data.manifest_writer import write_manifests
from asr_emapl.errors import UserError
from asr_emapl.storage import check_outputs
from data_prep.candidates import Candidate, Prepared, check, preset, settle
from data_prep.table import read_table

SPLITS = ("train", "dev", "test")
"""What is prepared unless splits are named. `validated` contains all three: train on it, and test is seen."""


def download() -> NoReturn:
    """Common Voice is given only to those who accept its terms: a UserError tells where."""
    raise UserError(
        "Common Voice has no public address: get your language's archive from "
        "https://datacollective.mozillafoundation.org (an account, its terms), extract it, and name the "
        "folder that holds clips/"
    )


def prepare(
    source: Path,
    destination: Path,
    splits: Sequence[str] = SPLITS,
    *,
    text: str = "common-voice",
    leave_out: bool = False,
    workers: int = 2,
) -> Prepared:
    """Verify splits of one language and write a manifest for each, destination/<split>.jsonl.

    Every row has its clip, whole and decodable; every sentence, once normalised, is spelled as the preset
    asks. Rows without a sentence, clips of no length and numbers in digits do occur in the corpus: they are
    reported, or left out and counted. Manifests appear all together.

    Args:
        source: the folder with the .tsv files and clips/ (cv-corpus-<version>/<language>).
        destination: where the manifests go; made if missing.
        splits: names of .tsv files without the ending: train, dev, test, validated, other, invalidated.
        text: the preset of `asr_emapl.text.normalise`; `common-voice` is for English, `words` for others.
        leave_out: leave utterances with faults out instead of raising.
        workers: threads that read headers.

    Raises:
        UserError: no such corpus or split; or faults, the first of them listed, the rest counted.
    """
    source, destination = Path(source), Path(destination)
    if not (source / "clips").is_dir():
        raise UserError(f"{source}: has no clips/ (name the folder of one language, like cv-corpus/en)")
    spelling = preset(text)
    paths = {split: destination / f"{split}.jsonl" for split in dict.fromkeys(splits)}
    check_outputs(list(paths.values()), [source / f"{split}.tsv" for split in paths])
    notes: list[str] = []
    manifests = {}
    for split in paths:
        found = check(_candidates(source, split), spelling, workers)
        notes.extend(settle(split, found, leave_out))
        manifests[split] = found.utterances
    write_manifests({paths[split]: utterances for split, utterances in manifests.items()})
    return Prepared(paths, notes)


def _candidates(source: Path, split: str) -> list[Candidate]:
    table = source / f"{split}.tsv"
    if not table.is_file():
        there = ", ".join(sorted(path.stem for path in source.glob("*.tsv"))) or "(there is none)"
        raise UserError(f"{table}: no such split (choose among: {there})")
    clips = (source / "clips").absolute()
    return [
        Candidate(
            id=Path(row.cells["path"]).stem or row.place,
            audio=str(clips / row.cells["path"]),
            place=row.place,
            text=row.cells["sentence"],
            speaker=row.cells.get("client_id") or None,
        )
        for row in read_table(table, ["path", "sentence"])
    ]
