"""The command label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from asr_emapl.cli.options import TrustOption, positive, share, workers_option
from asr_emapl.cli.recognizer import open_recognizer, open_search
from asr_emapl.errors import UserError, counted
from asr_emapl.runs.reader import run_files
from asr_emapl.storage import check_outputs, write
from asr_emapl.terminal import say, warn

if TYPE_CHECKING:
    from asr_emapl.ctc import Confidence
    from asr_emapl.decoding.labellers import LabellingConfig, ModelLabeller
    from asr_emapl.distributed.process_group import ProcessGroup
    from asr_emapl.pseudo_labels.config import PseudoLabelConfig
    from asr_emapl.pseudo_labels.joined_labels import FilterMode
    from asr_emapl.pseudo_labels.label_parts import LabelParts
    from asr_emapl.pseudo_labels.labelling import LabelledAudio, PartLabeller

commands = typer.Typer()


_Checkpoints = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        help="Checkpoint, or run directory (its newest checkpoint is used). If repeated, the mean of the "
        "log-probabilities is decoded.",
    ),
]
_Hypotheses = Annotated[
    Path | None, typer.Option(help="Hypotheses of another recogniser, instead of a checkpoint.")
]
_LmConfig = Annotated[
    Path | None, typer.Option(help="Output of tune-lm. If given, decode by beam search with its weights.")
]
_Confidence = Annotated[
    str,
    typer.Option(
        help="frames: mean over frames of the highest probability; tokens: mean over the label's tokens."
    ),
]
_Filter = Annotated[
    str,
    typer.Option(help="drop: remove labels that fail a filter; record: keep them and write the reason."),
]
_Workers = Annotated[int | None, workers_option("Threads that decode audio.", show_default="one per CPU")]
_MaxUndecodable = Annotated[
    float, share("Stop if more than this share of a part, and more than 20 utterances, cannot be decoded.")
]


@commands.command()
def label(
    manifest: Annotated[str, typer.Argument(help="Utterances to label: path or URL.")],
    out: Annotated[Path, typer.Option(help="Folder for the labels.")],
    checkpoints: _Checkpoints = None,
    hypotheses: _Hypotheses = None,
    model: Annotated[str, typer.Option(help="teacher or student.")] = "teacher",
    lm_config: _LmConfig = None,
    times: Annotated[
        bool, typer.Option("--times", help="Write the start and end time of each word.")
    ] = False,
    confidence: _Confidence = "frames",
    filter: _Filter = "drop",
    min_confidence: Annotated[float, share("Drop labels of lower confidence.")] = 0.0,
    tokens_per_second: Annotated[
        tuple[float, float] | None,
        typer.Option(help="LOW HIGH: drop labels with fewer or more tokens per second."),
    ] = None,
    part_hours: Annotated[float, positive("Hours of audio per part.")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    max_seconds: Annotated[float, positive("Padded seconds of audio in one batch.")] = 120.0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    workers: _Workers = None,
    max_undecodable: _MaxUndecodable = 0.01,
    trust: TrustOption = None,
) -> None:
    """Label a manifest with pseudo-labels. The labels are written in parts; rerun to resume.

    Runs under torchrun on any number of processes and hosts that share the output folder. A rerun may use a
    different number. The filters are applied when the parts are joined: to change a limit, rerun the command;
    the audio is not labelled again. Utterances that cannot be decoded are listed in the parts with the
    reason, and left out of the manifest.

    Example: `asr-emapl label data/unlabelled.jsonl --checkpoint runs/mini --out labels`

    Example: `torchrun --nproc-per-node 8 -m asr_emapl label data/unlabelled.jsonl --checkpoint runs/mini
    --out labels --precision bf16`
    """
    from asr_emapl.decoding.labellers import LabellingConfig
    from asr_emapl.distributed.process_group import available_cpus
    from asr_emapl.pseudo_labels.config import PseudoLabelConfig

    _require_one_of("--filter", filter, ("drop", "record"))
    _require_one_of("--precision", precision, ("fp32", "bf16"))
    _require_one_of("--confidence", confidence, ("frames", "tokens"))
    rates = list(tokens_per_second) if tokens_per_second else None
    limits = PseudoLabelConfig(min_confidence=min_confidence, tokens_per_second=rates)
    _ = limits.token_rates  # an empty range is an error before anything is labelled
    threads = workers or available_cpus()
    config = LabellingConfig(
        times=times,
        confidence=cast("Confidence", confidence),
        max_seconds=max_seconds,
        bf16=precision == "bf16",
        threads=threads,
        max_undecodable=max_undecodable,
    )
    source = _Source(checkpoints or [], hypotheses, model, lm_config, trust)
    with _processes(device, out) as world:
        _label(manifest, out, part_hours, source, config, limits, cast("FilterMode", filter), world)


@dataclass(frozen=True)
class _Source:
    """The source of the labels: checkpoints, or a file of hypotheses.

    Raises:
        UserError: both or neither are given, or the language model has no effect.
    """

    checkpoints: list[Path]
    hypotheses: Path | None
    model: str
    lm_config: Path | None
    trust: list[str] | None

    def __post_init__(self) -> None:
        if bool(self.checkpoints) == (self.hypotheses is not None):
            raise UserError("pass either --checkpoint or --hypotheses")
        if self.hypotheses is not None and self.lm_config is not None:
            raise UserError("--lm-config has no effect on --hypotheses; omit it")

    @property
    def files(self) -> list[str | Path | None]:
        """All files that are read."""
        return [self.lm_config, self.hypotheses, *(f for path in self.checkpoints for f in run_files(path))]


def _label(
    manifest: str,
    out: Path,
    part_hours: float,
    source: _Source,
    config: LabellingConfig,
    limits: PseudoLabelConfig,
    apply: FilterMode,
    world: ProcessGroup,
) -> None:
    """Label the missing parts on all processes, then join all parts on the first process."""
    from asr_emapl.data.manifest import open_manifest
    from asr_emapl.decoding.labellers import HypothesisLabeller
    from asr_emapl.pseudo_labels.joined_labels import MANIFEST, SUMMARY
    from asr_emapl.pseudo_labels.label_parts import LabelParts
    from asr_emapl.pseudo_labels.labelling import PLAN, label_manifest

    utterances = open_manifest(manifest)
    if world.is_first:
        check_outputs([out / name for name in (PLAN, MANIFEST, SUMMARY)], [manifest, *source.files])
    labeller: PartLabeller
    if source.hypotheses is not None:
        labeller = HypothesisLabeller(source.hypotheses, needs_confidence=limits.min_confidence > 0.0)
    else:
        labeller = _model_labeller(source, config, world)
    parts = LabelParts.of(utterances.samples, part_hours)
    labelled = label_manifest(utterances, parts, out, labeller, world)
    if world.is_first:
        _join(out, parts, limits, apply, labelled)
    world.barrier()


def _join(
    out: Path, parts: LabelParts, limits: PseudoLabelConfig, apply: FilterMode, labelled: LabelledAudio
) -> None:
    """Write the manifest and the summary, and print their contents."""
    from asr_emapl.pseudo_labels.joined_labels import MANIFEST, SUMMARY, join_parts, summary

    joined = join_parts(out, parts, limits, apply)
    start = {
        "hours": round(labelled.audio_seconds / 3600.0, 6),
        "seconds": round(labelled.seconds, 3),
        "hours_per_hour": round(labelled.speed, 1) if labelled.audio_seconds else None,
    }
    write(out / SUMMARY, json.dumps(summary(joined, limits, apply) | {"start": start}, indent=2) + "\n")
    if joined.left_out:
        many = counted(joined.left_out, "utterance")
        warn(f"left out: {many} without a label (left_out in {out}/parts); the first: {joined.example}")
    if joined.dropped:
        verb = "dropped" if apply == "drop" else "recorded"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in joined.dropped.most_common())
        say(f"{verb}: {reasons}")
    say(f"{out / MANIFEST}: {counted(joined.kept, 'utterance')}, {joined.kept_seconds / 3600.0:.2f} h")
    if labelled.audio_seconds:
        hours = labelled.audio_seconds / 3600.0
        speed = f"{labelled.speed:,.0f} hours of audio per hour"
        say(f"labelled {hours:.2f} h in {labelled.seconds:.0f} s: {speed}")
    else:
        say("all parts are already labelled")


@contextmanager
def _processes(device: str, out: Path) -> Iterator[ProcessGroup]:
    """Start the process group of torchrun and lock the folder; release both on exit."""
    from asr_emapl.distributed.heartbeat import Heartbeat
    from asr_emapl.distributed.process_group import DeviceConfig, ProcessGroup
    from asr_emapl.runs.lock import run_lock

    # No timeout: a process may finish its parts hours before the others.
    world = ProcessGroup.join(DeviceConfig(name=device, timeout_seconds=None))
    try:
        with Heartbeat(world, 0.0), run_lock(out, world, "--out"):
            yield world
    finally:
        world.close()


def _model_labeller(source: _Source, config: LabellingConfig, world: ProcessGroup) -> ModelLabeller:
    """The labeller of checkpoints; process 0 chooses the newest one of a run for all processes."""
    from asr_emapl.decoding.beam import BeamSearch
    from asr_emapl.decoding.labellers import ModelLabeller, model_provenance
    from asr_emapl.decoding.tuning import read_config

    beam = read_config(source.lm_config) if source.lm_config else None
    model, trust, device, is_first = source.model, source.trust, str(world.device), world.is_first
    found = [open_recognizer(path, model, device, trust) for path in source.checkpoints if is_first]
    chosen = world.gather([recognizer.path for recognizer in found])[0]
    if not is_first:
        found = [open_recognizer(path, model, device, trust) for path in chosen if path is not None]
    tokenizer, search = found[0].tokenizer, None
    if beam is not None:
        search = open_search(tokenizer, beam) if is_first else BeamSearch(tokenizer, beam)
    provenance = world.gather(model_provenance(found, model, beam, config) if is_first else {})[0]
    return ModelLabeller(found, search, config, provenance)


def _require_one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{option} {value!r} is not one of {', '.join(allowed)}")
