"""Commands for runs: train, plan, average, export, scale, gradient-noise, check-model, check-strategy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr_emapl.cli.options import TrustOption, count, non_negative, positive
from asr_emapl.cli.recognizer import CheckpointOption, ModelOption, open_recognizer
from asr_emapl.errors import UserError, counted, listing
from asr_emapl.runs.reader import CHECKPOINTS, run_files
from asr_emapl.storage import check_outputs
from asr_emapl.terminal import print_table, say, say_written, warn

if TYPE_CHECKING:
    from asr_emapl.checks.check import CheckResult
    from asr_emapl.config import RunConfig
    from asr_emapl.scaling import StepAudio

commands = typer.Typer()


@commands.command()
def train(
    config: Annotated[Path, typer.Option(help="YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, overrides the file.")] = None,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Resume even if seed, features, tokenizer, data or reference batch have changed.",
        ),
    ] = False,
) -> None:
    """Start or resume training. Under torchrun, training uses all processes.

    Rerun the same command to resume.

    Example: `asr-emapl train --config conf/mini.yaml run_dir=runs/mini hours=20`

    Example: `torchrun --nproc-per-node 8 -m asr_emapl train --config conf/emapl_100h_860h.yaml`
    """
    from asr_emapl.config import load_config
    from asr_emapl.training.trainer import train as run

    settings = load_config(config, overrides or [])
    _warn_of_model(settings)
    last = run(settings, allow_changes=allow_changes)
    if last is not None:
        say(f"last checkpoint: {last}")


def _warn_of_model(config: RunConfig) -> None:
    """Warn if a custom model fails `check-model`. Runs on rank 0 when training starts."""
    target, is_first = config.model.target, os.environ.get("RANK", "0") == "0"
    if target.startswith("asr_emapl.") or not is_first or Path(config.run_dir, CHECKPOINTS).exists():
        return
    from asr_emapl.checks.conformance import check

    found = check(config.model, config.features)
    failed = [finding.name for finding in found if not finding.passed]
    if failed:
        warn(f"warning: {target} fails {listing(failed, 5)}; run asr-emapl check-model to see what to fix")


@commands.command()
def plan(
    config: Annotated[Path, typer.Option(help="YAML file of a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, overrides the file.")] = None,
    gpus: Annotated[
        int | None,
        typer.Option(min=0, max=1_000_000, help="Number of GPUs.", show_default="those of this machine"),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(help="Memory of each GPU, such as 80GB.", show_default="that of this machine"),
    ] = None,
    throughput: Annotated[
        float | None, positive("Seconds of audio per second on one device.", show_default="measured")
    ] = None,
    find: Annotated[
        bool,
        typer.Option("--find", help="Try device.max_seconds, and lower it until the worst batch fits."),
    ] = False,
) -> None:
    """Estimate memory, steps and time of a run before it is started.

    On the machine that it will run on, a few steps on random audio are measured. For GPUs that this machine
    does not have, the memory is computed from the model's shapes, and the time from --throughput.

    Example: `asr-emapl plan --config conf/mini.yaml --gpus 8 --gpu-memory 80GB --throughput 3000`
    """
    from asr_emapl.checks.estimate import bytes_of, estimate, fitting_seconds
    from asr_emapl.checks.starter import Hardware
    from asr_emapl.config import load_config
    from asr_emapl.distributed.process_group import choose_device

    run = load_config(config, overrides or [])
    limit = None if gpu_memory is None else bytes_of(gpu_memory)
    here = Hardware.here().gpus if choose_device(run.device.name).type == "cuda" else 0
    devices = here if gpus is None else gpus
    elsewhere = devices > 0 and not here
    if find:
        seconds = fitting_seconds(run, limit, say, elsewhere=elsewhere)
        run.device.max_seconds = seconds
    print_table(["", "", ""], estimate(run, max(1, devices), limit, throughput, elsewhere=elsewhere).rows())


@commands.command()
def average(
    end: Annotated[Path, typer.Option(help="Checkpoint where the window ends.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write; its teacher is the average.")],
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint where the window starts (default: start of the run).")
    ] = None,
    is_bias_corrected: Annotated[
        bool,
        typer.Option("--bias-corrected", help="Write the bias-corrected average of the run (BEMA) instead."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Average the student's weights over the steps between two checkpoints of a run.

    The run must have checkpoint.running_mean=true, and checkpoint.keep large enough to keep both checkpoints.
    --bias-corrected requires checkpoint.bias_corrected=true instead.

    Example: `asr-emapl average --start step-000004000.pt --end step-000005000.pt --out average.pt`
    """
    from asr_emapl.checkpoints.files import average as run
    from asr_emapl.checkpoints.files import bias_corrected

    if is_bias_corrected and start is not None:
        raise UserError("--bias-corrected averages the whole run; leave out --start")
    read = [file for path in (end, start) if path is not None for file in run_files(path)]
    check_outputs([out], read, overwrite=overwrite)
    hours = bias_corrected(end, out) if is_bias_corrected else run(start, end, out)
    say_written(out, f"{out}: the teacher is the average of the student over {hours:.3f} h of audio")


@commands.command(no_args_is_help=True)
def scale(
    config: Annotated[Path, typer.Option(help="YAML file of a run.")],
    batch_seconds: Annotated[
        float | None, positive("Batch size to scale to, in seconds of audio over all ranks.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, overrides the file.")] = None,
    wall_clock: Annotated[
        bool,
        typer.Option(
            "--wall-clock",
            help="Show serial steps and time of the config's batches, or of --batch-seconds, instead.",
        ),
    ] = False,
    step_time: Annotated[
        list[str] | None,
        typer.Option(
            help="With --wall-clock: measured time of a step, as SECONDS=MS, padded seconds of the batch and "
            "milliseconds; may be repeated.",
            show_default="the same at every batch",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show how each hyper-parameter changes with the batch size, without training.

    kappa is computed from the training manifests: the mean unpadded audio per step at this batch size,
    divided by that at the reference batch size. If a manifest is missing, kappa is nominal, the ratio of
    padded seconds, and the command prints a warning.

    With --wall-clock, the number of optimizer steps and their time are compared with those at the reference
    batch size. Without measured times, every step takes the same time, which is idealised.

    Example: `asr-emapl scale --config conf/mini.yaml --batch-seconds 480`

    Example: `asr-emapl scale --config conf/mini.yaml --wall-clock --step-time 60=180 --step-time 480=260`
    """
    from asr_emapl.checks.scale import at_batch, scale_table
    from asr_emapl.config import load_config

    run = load_config(config, overrides or [])
    if wall_clock:
        _show_wall_clock(
            run if batch_seconds is None else at_batch(run, batch_seconds), step_time or [], as_json
        )
        return
    if batch_seconds is None or step_time:
        raise UserError("specify --batch-seconds, or --wall-clock, which --step-time belongs to")
    steps, epoch_hours, warning = _step_audio(at_batch(run, batch_seconds))
    rows, warnings = scale_table(run, batch_seconds, steps, epoch_hours)
    if as_json:
        found = {"rows": [vars(row) for row in rows], "warnings": [*warnings, *warning]}
        print(json.dumps(found, indent=2))
        return
    print_table(["", "reference", "scaled", "rule"], [[r.name, r.reference, r.scaled, r.rule] for r in rows])
    for text in [*warnings, *warning]:
        say(f"warning: {text}")


def _show_wall_clock(run: RunConfig, step_times: list[str], as_json: bool) -> None:
    """Print serial steps and time of the batches of a run."""
    from asr_emapl.checks.wall_clock import StepTimes, wall_clock
    from asr_emapl.planning import nominal_step_audio

    times = StepTimes.parse(step_times)
    steps, _, warning = _step_audio(run)
    if run.batch.growth == "noise":
        warning.append(
            "with batch.growth=noise, the batches are known after the run, which prints them as "
            "batch.progressive; this is the account of batch.seconds"
        )
    if run.optimizer.rule == "adascale":
        warning.append(
            "with optimizer.rule=adascale, a step counts as r <= kappa reference steps, so there are more"
        )
    account = wall_clock(nominal_step_audio(run, world_size=1) if steps is None else steps, run.hours, times)
    if as_json:
        print(json.dumps(account.to_dict() | {"warnings": warning}, indent=2))
        return
    print_table(*account.table())
    say(account.summary())
    for text in warning:
        say(f"warning: {text}")


def _step_audio(run: RunConfig) -> tuple[StepAudio | None, float, list[str]]:
    """Audio of steps and hours of the manifests; if manifests are missing, None, 0 and a warning."""
    from asr_emapl.corpora.selection import TrainingAudio, missing_manifests

    missing = missing_manifests(run)
    if not missing:
        audio = TrainingAudio.select(run, world_size=1)
        return audio.step_audio(run, world_size=1), audio.hours, []
    warning = (
        f"kappa is nominal, of padded seconds, because manifests are missing: {listing(missing, 3)}; "
        "relative paths start from the current folder, unless the config sets root"
    )
    return None, 0.0, [warning]


@commands.command("gradient-noise")
def gradient_noise(
    run: Annotated[Path, typer.Argument(help="Run directory of a run with optimizer.noise_every_steps set.")],
    from_hours: Annotated[
        float | None,
        non_negative("Hours of audio to ignore at the start.", show_default="the warm-up"),
    ] = None,
) -> None:
    """Estimate the gradient noise, which indicates how much the batch size can be increased.

    The noise share is averaged over equal parts of the audio after the warm-up, with a 95 % interval.

    Example: `asr-emapl gradient-noise runs/mini --from-hours 20`
    """
    from asr_emapl.checks.gradient_noise import read_gradient_noise

    noise, begin = read_gradient_noise(run, from_hours)
    interval = "unknown: too few steps"
    if noise.interval is not None:
        interval = f"{noise.interval[0]:.3f} to {noise.interval[1]:.3f}"
    batch, reference = noise.batch_seconds, noise.reference_seconds
    rows = [
        ["share of noise in the squared gradient", f"{noise.share:.3f}", f"at {batch:g} s per step"],
        ["95 % interval", interval, f"after {begin:g} h of audio"],
        [
            "gradient noise scale",
            f"{noise.noise_scale_seconds:.4g} s",
            "batch size with as much noise as gradient",
        ],
        ["optimizer.noise_share", f"{noise.reference_share:.3f}", f"at {reference:g} s per step"],
        ["measured steps", f"{noise.steps}", ""],
    ]
    print_table(["", "", ""], rows)


@commands.command("check-model")
def check_model(
    target: Annotated[str, typer.Argument(help="package.module:Class")],
    options: Annotated[list[str] | None, typer.Argument(help="Constructor options, key=value.")] = None,
    weights: Annotated[str | None, typer.Option(help="File of weights, as model.weights.")] = None,
) -> None:
    """Check a custom model: output lengths, padding, gradients, teacher. Prints its size, speed and memory.

    Example: `asr-emapl check-model my_pkg.my_model:MyModel dim=256`
    """
    from asr_emapl.checks.conformance import check
    from asr_emapl.checks.model_facts import measure
    from asr_emapl.models.contract import ModelConfig
    from asr_emapl.storage import BrokenLineError, parse_json

    values: dict[str, Any] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"option {option!r}: write key=value")
        try:
            values[key] = parse_json(value)
        except BrokenLineError:
            values[key] = value
    config = ModelConfig(target, weights, values)
    _report(check(config))
    say(str(measure(config)))


@commands.command()
def export(
    checkpoint: CheckpointOption,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    model: ModelOption = "teacher",
    onnx: Annotated[
        str | None,
        typer.Option(help="Also write model.onnx, whose input is features, or waveforms at 16 kHz."),
    ] = None,
    torch: Annotated[
        str | None,
        typer.Option(help="Also write model.pt2, a torch.export program, whose input is as for --onnx."),
    ] = None,
    average: Annotated[
        int, count("Export the mean weights of the last checkpoints of the run, this many.", least=1)
    ] = 1,
    best: Annotated[
        bool, typer.Option("--best", help="With --average: of those with the lowest WER instead.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    trust: TrustOption = None,
) -> None:
    """Write a trained model with its tokenizer and features to a folder, without the state of its run.

    decode, transcribe and label accept the folder as a checkpoint. Files that the model was started from are
    not needed.

    Example: `asr-emapl export --checkpoint runs/mini --out models/mini`

    Example: `asr-emapl export --checkpoint runs/mini --out models/mean --average 5 --best --torch waveforms`
    """
    from asr_emapl.checkpoints.export import CONFIG, WEIGHTS, write_export
    from asr_emapl.checkpoints.mean import checkpoints_to_average, mean_weights
    from asr_emapl.checkpoints.onnx import write_onnx
    from asr_emapl.checkpoints.torch_program import write_program
    from asr_emapl.models.target import Trust

    graphs = {out / "model.onnx": ("--onnx", onnx, write_onnx)}
    graphs[out / "model.pt2"] = ("--torch", torch, write_program)
    graphs = {path: graph for path, graph in graphs.items() if graph[1] is not None}
    for option, value, _ in graphs.values():
        if value not in ("features", "waveforms"):
            raise UserError(f"{option} {value!r} is not one of features, waveforms")
    files = [out / CONFIG, out / WEIGHTS, *graphs]
    check_outputs(files, run_files(checkpoint), overwrite=overwrite)
    averaged: list[Path] = []
    if average > 1:
        averaged = checkpoints_to_average(checkpoint, average, best=best, model=model)
    recognizer = open_recognizer(averaged[-1] if averaged else checkpoint, model, "cpu", trust)
    if averaged:
        recognizer.model.load_state_dict(mean_weights(averaged, model))
    trusted = Trust.of(f"checkpoint {recognizer.path}", trust or ())
    write_export(recognizer, model, out, trusted, averaged)
    steps = f", mean of {', '.join(path.name for path in averaged)}" if averaged else ""
    say_written(files[1], f"{out}: {model} of {checkpoint}{steps}")
    for path, (_, value, write) in graphs.items():
        difference = write(recognizer, path, waveforms=value == "waveforms")
        say_written(path, f"{path}: largest difference to torch {difference:.1e}")


@commands.command("check-strategy")
def check_strategy(
    config: Annotated[Path, typer.Option(help="YAML file of a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, overrides the file.")] = None,
) -> None:
    """Check the pseudo-labels of a config: strategy and filters, resume, several processes, memory.

    The strategy labels a few seconds of synthetic audio on the CPU, with the model and the tokenizer of the
    config. Its labels and the losses must be the same in a second run, after a resume and on two processes.

    Example: `asr-emapl check-strategy --config my-strategy.yaml`
    """
    from asr_emapl.checks.strategy_checks import check
    from asr_emapl.config import load_config

    _report(check(load_config(config, overrides or [])))


def _report(results: list[CheckResult]) -> None:
    """Print the results of checks; exit with status 1 if one failed."""
    for result in results:
        say(str(result))
    failed = sum(not result.passed for result in results)
    say(f"{counted(failed, 'check')} failed" if failed else "all checks passed")
    if failed:
        raise typer.Exit(1)
