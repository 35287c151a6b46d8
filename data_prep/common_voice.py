"""One language of Mozilla Common Voice: sentences in <split>.tsv, audio in clips/*.mp3."""

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
"""The default splits. `validated` contains all three, so training on it includes the test split."""


def download() -> NoReturn:
    """Raise a UserError with the download page, where users must accept the terms."""
    raise UserError(
        "Common Voice cannot be downloaded automatically: get the archive of your language from "
        "https://datacollective.mozillafoundation.org (requires an account), extract it, and pass the "
        "folder that contains clips/"
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

    Checks that each row has a complete clip and that the preset accepts each sentence. The corpus also
    contains rows without a sentence, empty clips and numbers in digits; they are reported, or skipped and
    counted. All manifests are written together at the end.

    Args:
        source: the folder with the .tsv files and clips/ (cv-corpus-<version>/<language>).
        destination: folder of the manifests; created if missing.
        splits: names of .tsv files without extension: train, dev, test, validated, other, invalidated.
        text: the preset of `asr_emapl.text.normalise`; `common-voice` is for English, `words` for others.
        leave_out: skip invalid utterances instead of raising.
        workers: threads that read headers.

    Raises:
        UserError: the corpus or a split is missing or has faults. The first faults are listed, the others
            counted.
    """
    source, destination = Path(source), Path(destination)
    if not (source / "clips").is_dir():
        raise UserError(
            f"{source}: contains no clips/ (pass the folder of one language, for example cv-corpus/en)"
        )
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
        there = ", ".join(sorted(path.stem for path in source.glob("*.tsv")))
        raise UserError(f"{table}: no such split ({f'choose from: {there}' if there else 'no .tsv files'})")
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
