"""A run from its config to its last checkpoint: set up, go on where it stopped, step, validate, save."""

from __future__ import annotations

import contextlib
import gc
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.features import LogMel
from asr_emapl.config import RunConfig, config_to_dict, write_config
from asr_emapl.data.loader import StepBatch, steps
from asr_emapl.data.mix import MixPosition
from asr_emapl.decoding.transcribe import transcribe
from asr_emapl.ema import EmaTeacher, unwrap
from asr_emapl.errors import UserError
from asr_emapl.models.contract import build_model
from asr_emapl.running_mean import RunningMean
from asr_emapl.scaling import AudioClock
from asr_emapl.scaling.progressive import carry_over
from asr_emapl.scoring.wer import score
from asr_emapl.text.tokenizer import tokenizer_from_state
from asr_emapl.training import checkpoint
from asr_emapl.training.corpora import Corpora
from asr_emapl.training.dry_run import dry_run
from asr_emapl.training.log import RunLog
from asr_emapl.training.optimizer import build_optimizer
from asr_emapl.training.parts import (
    build_strategy,
    read_schedule,
    read_tokenizer,
    require_scalable,
    switch_dropout,
)
from asr_emapl.training.skipped import SkippedList
from asr_emapl.training.step import StepResult, TrainStep
from asr_emapl.training.world import World

# Unlabelled steps in a row without one usable label, after which a run is stopped: it has collapsed.
BARREN_STEPS = 100
# Steps in a row with a non-finite gradient, after which a run is stopped.
BROKEN_STEPS = 100
# Steps after which the processes say what their time went to.
TIMED_STEPS = 50


def train(config: RunConfig) -> Path | None:
    """Run, or go on with, the training that `config` describes; in each of torchrun's processes.

    Returns:
        The last checkpoint; None on processes other than the first.

    Raises:
        UserError: something in the config, the data, or the run directory is wrong.
    """
    world = World.join(config.device)
    try:
        last = Trainer(config, world).run()
        gc.collect()  # DDP's threads end before the process group that they speak through
        world.meet()
        return last
    finally:
        world.leave()


class Trainer:
    """Holds a run's parts. Everything with state goes into its checkpoints."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self.config, self.world = config, world
        self.folder = Path(config.run_dir)
        self.checkpoints = checkpoint.CheckpointFolder(self.folder / "checkpoints", config.checkpoint.keep)
        self.tokenizer = read_tokenizer(config)
        self.batches = require_scalable(config, world.size)
        # Of the optimizer's state; `_enter_stage` brings it to that of the batch in force.
        self.kappa = config.kappa(world.size)
        self.schedule = read_schedule(config)
        self.clock, self.step, self.position = AudioClock(SAMPLE_RATE_HZ), 0, MixPosition()
        self._stop = False
        # Steps in a row that taught nothing, by what was wrong.
        self._broken, self._barren = 0, 0
        self._build()
        self.notes: list[str] = []
        log_lines = self._restore()
        self.corpora = Corpora.read(config, self.tokenizer, world.size)
        self.notes += self.corpora.notes
        try:
            self.log = RunLog(
                self.folder, active=world.first, lines=log_lines, step=self.step, total_hours=config.hours
            )
            self.skipped = SkippedList(self.folder, world, config.data.max_skipped_share, keep=log_lines > 0)
        except OSError as error:
            raise UserError(f"run_dir {self.folder} cannot be written ({error.strerror})") from error
        self._last: Path | None = None

    def _build(self) -> None:
        """Student, teacher, optimizer, strategy, and the step that moves them."""
        config, world = self.config, self.world
        torch.manual_seed(config.seed)
        model = build_model(
            config.model,
            vocabulary_size=self.tokenizer.vocabulary_size,
            mel_bands=config.features.mel_bands,
        ).to(world.device)
        self.group, clip_norm = config.optimizer.scaled(self.kappa)
        self.optimizer = build_optimizer(model, config.optimizer, self.kappa)
        try:
            half_life = config.teacher.half_life_over_audio(
                config.batch.reference_seconds, 3600.0 * config.hours
            )
            self.teacher = EmaTeacher(model, half_life, order=config.teacher.order)
        except ValueError as error:
            raise UserError(f"teacher: {error}") from error
        self.mean = RunningMean(model) if config.checkpoint.running_mean else None
        self.student = world.wrap(model)
        self.features = LogMel(config.features).to(world.device)
        bf16 = config.device.precision == "bf16"
        self.strategy = build_strategy(config, self.teacher, bf16=bf16)
        self.train_step = TrainStep(
            world,
            self.features,
            self.student,
            self.teacher,
            self.optimizer,
            self.strategy,
            config.pseudo_labels,
            clip_norm=clip_norm,
            bf16=bf16,
        )

    # The run itself.

    def run(self) -> Path | None:
        """Train until the hours are used up or SIGTERM asks to stop; returns the last checkpoint."""
        config = self.config
        self._announce()
        if self.clock.hours >= config.hours:
            self.log.say(f"{self.folder} has had its {config.hours:g} h of audio: nothing to do")
            newest = self.checkpoints.paths()
            return newest[-1] if newest else None
        if self.world.first:
            write_config(self.folder / "config.yaml", config)
        previous = signal.signal(signal.SIGTERM, self._ask_to_stop)
        try:
            stopped = False
            while self.clock.hours < config.hours and not stopped:
                stopped = self._run_stage()
        finally:
            signal.signal(signal.SIGTERM, previous)
            self.log.close()
        return self._last

    def _run_stage(self) -> bool:
        """Train at one batch until another is due or the hours are used up; True if SIGTERM stopped it."""
        config, stop = self.config, False
        self._enter_stage()
        until = min(config.hours, self.batches.next_change(self.clock.hours))
        with contextlib.closing(
            steps(
                self.corpora.dataset(config, self.world.rank, self.world.size),
                self.corpora.plan(config, self.batches.seconds(self.clock.hours)),
                self.position,
                workers=config.data.workers,
                pin_memory=self.world.device.type == "cuda",
            )
        ) as ahead:
            batches = self.train_step.phases.waiting(ahead)
            while self.clock.hours < until and not stop:
                before = self.clock.samples
                self._train_on(self.world.next(batches))
                stop = self._asked_to_stop()
                done = self.clock.hours >= config.hours
                if done or self.clock.passed(config.validation.every_hours, before):
                    self._validate()
                if done or stop or self.clock.passed(config.checkpoint.every_hours, before):
                    self._last = self._save()
                if stop and not done:
                    self.log.say(f"stopped by SIGTERM at {self.clock.hours:.3f} h; the same command goes on")
        return stop

    def _enter_stage(self) -> None:
        """Take the batch in force, with its hyper-parameters."""
        if self.config.optimizer.kappa == "step":
            return  # each step takes its own
        kappa = self.config.kappa(self.world.size, self.clock.hours)
        changed = kappa != self.kappa
        self._scale_optimizer(kappa)
        if changed:
            seconds = self.batches.seconds(self.clock.hours)
            self.log.say(f"from {self.clock.hours:.3f} h on: batch {seconds:g} s, kappa {kappa:g}")
            self._advise()

    def _scale_optimizer(self, kappa: float) -> None:
        """Hyper-parameters always from the reference, state from the kappa before."""
        config = self.config.optimizer
        self.group, self.train_step.clip_norm = config.scaled(kappa)
        for group in self.optimizer.param_groups:
            group.update(self.group)
        if config.rule == "full":
            carry_over(
                self.optimizer,
                self.kappa,
                kappa,
                second_moments=config.rescale_moments,
                noise_share=config.noise_share,
            )
        self.kappa = kappa

    def _train_on(self, batch: StepBatch) -> None:
        config = self.config
        # Draws depend on (seed, step) alone, so that a resumed run draws what it would have drawn.
        torch.manual_seed(draw_seed(config.seed, "step", self.step, self.world.rank))
        student: Any = unwrap(self.student)
        if hasattr(student, "begin_step"):
            student.begin_step(draw_seed(config.seed, "layers", self.step))
        if self.strategy is not None and self.clock.hours >= config.pseudo_labels.start_hours:
            switch_dropout(student, config)
        seconds = batch.samples / SAMPLE_RATE_HZ
        if config.optimizer.kappa == "step":
            self._scale_optimizer(seconds / config.batch.reference_seconds)
        # In the middle of the step's audio: else warm-up would waste a first step and lag at a large batch.
        middle = self.clock.hours + batch.samples / (7200 * SAMPLE_RATE_HZ)
        rate = self.group["lr"] * self.schedule.factor(middle)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        student.train()
        every = config.optimizer.noise_every_steps
        if config.teacher.kappa == "nominal":
            seconds = self.batches.seconds(self.clock.hours)
        in_force = {
            "lr": rate,
            "rho": self.teacher.rho(seconds, 3600.0 * middle),
            "kappa": self.kappa,
            "half_life_hours": self.teacher.half_life_of_step(seconds, 3600.0 * middle) / 3600.0,
        }
        result = self.train_step(
            batch,
            teacher_seconds=seconds,
            at_seconds=3600.0 * middle,
            measure_noise=every > 0 and self.step % every == 0,
        )
        self.step += 1
        self.clock.advance(batch.samples)
        if self.mean is not None and result.taken:
            self.mean.update(batch.samples / SAMPLE_RATE_HZ)
        self.position = batch.after
        self.log.step(self.step, self.clock.hours, batch.labelled, result, in_force)
        if self.step % TIMED_STEPS == 0 or self.clock.hours >= config.hours:
            self.log.phases(self.step, self.clock.hours, self.world.gather(self.train_step.phases.take()))
        self._guard(batch, result)

    def _guard(self, batch: StepBatch, result: StepResult) -> None:
        """Stop a run that no longer learns, while its last good checkpoints are still there."""
        self.skipped.step(batch.skipped, result)
        broken = not result.taken and result.utterances > 0
        self._broken = self._broken + 1 if broken else 0
        if not batch.labelled:
            self._barren = self._barren + 1 if result.utterances == 0 else 0
        if self._broken >= BROKEN_STEPS:
            raise UserError(
                f"the gradient has not been finite for {BROKEN_STEPS} steps (step {self.step}): "
                "lower optimizer.lr, lengthen schedule.warmup_hours, or use device.precision=fp32"
            )
        if self._barren >= BARREN_STEPS:
            raise UserError(
                f"no pseudo-label could be used for {BARREN_STEPS} steps (step {self.step}): the teacher has "
                "collapsed to blanks or never left them; start from a better seed "
                "(pseudo_labels.start_hours), lengthen teacher.half_life_hours, or loosen the filters"
            )

    def _validate(self) -> None:
        """WER of student and teacher on every validation split; each process decodes its part."""
        rates: dict[str, float] = {}
        for split, utterances in self.corpora.validation.items():
            mine = utterances[self.world.rank :: self.world.size]
            for name, model in (("student", unwrap(self.student)), ("teacher", self.teacher.module)):
                hypotheses = transcribe(
                    model,
                    self.features,
                    self.tokenizer,
                    mine,
                    device=self.world.device,
                    max_seconds=self.config.device.max_seconds,
                    bf16=self.config.device.precision == "bf16",
                )
                texts: dict[str, str] = {}
                for part in self.world.gather({h.id: h.text for h in hypotheses}):
                    texts |= part
                references = {u.id: u.text or "" for u in utterances}
                rates[f"{name}/{split}"] = 100.0 * score(references, texts).words.rate
        if rates:
            self.log.validation(self.step, self.clock.hours, rates)

    def _announce(self) -> None:
        student = unwrap(self.student)
        parameters = sum(p.numel() for p in student.parameters())
        for note in self.notes:
            self.log.say(note)
        self.log.say(
            f"{self.folder}: {parameters / 1e6:.2f} M parameters, "
            f"{self.world.size} x {self.world.device.type}, "
            f"batch {self.batches.seconds(self.clock.hours):g} s, "
            f"kappa {self.config.kappa(self.world.size, self.clock.hours):g}, "
            f"teacher half-life {self.teacher.half_life / 3600:g} h, from {self.clock.hours:.3f} h of audio"
        )
        self._advise()

    def _advise(self) -> None:
        """Say where the rule leaves its range; at the reference batch there is no rule to leave."""
        kappa = self.config.kappa(self.world.size, self.clock.hours)
        if kappa != 1.0 and self.config.optimizer.rule == "full":
            for warning in dry_run(self.config, self.batches.seconds(self.clock.hours))[1]:
                self.log.say(f"warning: {warning}")

    # Stopping and going on.

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        self._stop = True

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked: all have to leave the loop at the same step."""
        return self.world.sum([float(self._stop)])[0] > 0.0

    def _save(self) -> Path | None:
        self.log.flush()
        if not self.world.first:
            return None
        state = {
            "student": unwrap(self.student).state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict() if self.strategy else {},
            "running_mean": self.mean.state_dict() if self.mean else {},
            "clock": self.clock.state_dict(),
            "position": self.position.state_dict(),
            "step": self.step,
            "kappa": self.kappa,
            "log_lines": self.log.lines,
            "tokenizer": self.tokenizer.state_dict(),
            "config": config_to_dict(self.config),
        }
        return self.checkpoints.write(self.step, state)

    def _restore(self) -> int:
        """Go on from the run's own newest checkpoint, or from `init.checkpoint`; returns the log's lines."""
        found = self.checkpoints.newest()
        if found is not None:
            path, state, problems = found
            self.notes += [f"{problem}: taking the one before" for problem in problems]
            self._load(state, path, whole=True)
            return int(state["log_lines"])
        init = self.config.init
        if init.keep not in ("run", "weights"):
            raise UserError(f"init.keep {init.keep!r} is neither run nor weights")
        if init.checkpoint is not None:
            path = Path(init.checkpoint)
            self._load(checkpoint.load(path), path, whole=init.keep == "run")
        return 0

    def _load(self, state: dict[str, Any], path: Path, *, whole: bool) -> None:
        theirs = tokenizer_from_state(state["tokenizer"])
        if theirs.fingerprint != self.tokenizer.fingerprint:
            raise UserError(
                f"checkpoint {path} was trained with another tokenizer ({theirs!r}) than "
                f"{self.config.tokenizer} ({self.tokenizer!r}): use its tokenizer, or another run_dir"
            )
        try:
            unwrap(self.student).load_state_dict(state["student"])
            self.teacher.load_state_dict(state["teacher"])
        except RuntimeError as error:
            raise UserError(
                f"checkpoint {path} does not fit model {self.config.model.target} with these options "
                f"({' '.join(str(error).split())[:300]})"
            ) from error
        if not whole:
            self.teacher.audio = 0.0
            return
        theirs, mine = state["config"]["optimizer"]["name"], self.config.optimizer.name
        if theirs != mine:
            raise UserError(
                f"checkpoint {path} was trained with optimizer.name={theirs}, not {mine}: keep it, or start "
                "from the weights alone (init.keep=weights, in another run_dir)"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.kappa = state.get("kappa", self.kappa)
        if self.strategy is not None and state["strategy"]:
            self.strategy.load_state_dict(state["strategy"])
        if self.mean is not None and state.get("running_mean"):
            self.mean.load_state_dict(state["running_mean"])
        self.clock.load_state_dict(state["clock"])
        self.position = MixPosition.from_state(state["position"])
        self.step = state["step"]
