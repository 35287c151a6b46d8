"""The training loop of a run: build or resume, train, validate, save."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import draw_seed
from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints import resume
from asr_emapl.checkpoints.built import Built, built_entry, write_features
from asr_emapl.checkpoints.manager import CheckpointManager
from asr_emapl.checkpoints.origin import origin_of, require_origin
from asr_emapl.config import RunConfig, config_to_dict
from asr_emapl.corpora.corpora import Corpora
from asr_emapl.data.loader import steps
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.distributed.fsdp import load_optimizer, shard_state
from asr_emapl.distributed.heartbeat import Heartbeat
from asr_emapl.distributed.preemption import StopRequest
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher, unwrap
from asr_emapl.errors import UserError
from asr_emapl.planning import build_plan, nominal_step_audio
from asr_emapl.pseudo_labels.collapse import CollapseGuard
from asr_emapl.pseudo_labels.dropout import switch_dropout
from asr_emapl.pseudo_labels.label_guard import CollapsedLabelsError
from asr_emapl.run_labels.build import build_best_average, build_searches, build_strategy
from asr_emapl.run_labels.labelling_progress import LabellingProgress
from asr_emapl.run_labels.run_labels import RunLabels
from asr_emapl.runs.lock import run_lock
from asr_emapl.runs.reader import logged_validation
from asr_emapl.runs.skipped import SkippedList
from asr_emapl.runs.starts import record_start
from asr_emapl.scaling import AudioClock
from asr_emapl.scaling.gradient_noise import GradientNoise
from asr_emapl.self_supervised.build import require_self_supervised
from asr_emapl.training import rollback
from asr_emapl.training.announcement import announcement, batch_change
from asr_emapl.training.averages import EvaluationAverages
from asr_emapl.training.build import (
    build_extractor,
    build_models,
    build_self_supervised_step,
    build_step,
    read_tokenizer,
    require_views,
)
from asr_emapl.training.log import RunLog
from asr_emapl.training.scaled_optimizer import ScaledOptimizer
from asr_emapl.training.validation import Validator

# Steps between log entries of each process's time by phase.
TIMED_STEPS = 50


def train(config: RunConfig, *, allow_changes: bool = False) -> Path | None:
    """Start or resume the training run of `config`; called in each process of torchrun.

    Args:
        allow_changes: allow a resume with a different seed, features, tokenizer or data.

    Returns:
        The last checkpoint; None on processes other than the first.

    Raises:
        UserError: the config, the data or the run directory is invalid, or another run uses the directory.
    """
    world = ProcessGroup.join(config.device)
    try:
        with (
            Heartbeat(world, config.device.timeout_seconds or 0.0) as watch,
            run_lock(Path(config.run_dir), world),
        ):
            last = rollback.with_rollbacks(
                config, world, lambda c: Trainer(c, world, watch, allow_changes=allow_changes).run()
            )
            gc.collect()  # end DDP's threads before the process group that they use
            world.barrier()
        return last
    finally:
        world.close()


class Trainer:
    """A training run. All state is saved in its checkpoints."""

    def __init__(
        self, config: RunConfig, world: ProcessGroup, watch: Heartbeat, *, allow_changes: bool = False
    ) -> None:
        self.config, self.world, self.watch = config, world, watch
        self.allow_changes = allow_changes
        self.folder = Path(config.run_dir)
        self.stop = StopRequest(world)
        self.clock, self.step, self.position = AudioClock(SAMPLE_RATE_HZ), 0, DataCursor()
        self.notes: list[str] = []
        self.resumed: dict[str, Any] = {}  # entries of the checkpoint that the run resumes from
        self.origin: dict[str, Any] = {}  # the checkpoint that the run started from
        # Whether a validation is due after the last step.
        self.validation_due = False
        self._read()
        self._build()
        self.saving = CheckpointManager(
            self.folder / "checkpoints",
            config.checkpoint,
            self.corpora.validation,
            world,
            report=lambda saved: self.log.saved(saved),
        )
        self._open(self._restore())

    def _read(self) -> None:
        """Read the corpora and plan the hyper-parameters; checks settings before reading audio."""
        config, world = self.config, self.world
        require_self_supervised(config)
        self.tokenizer = None if config.self_supervised.is_on else read_tokenizer(config)
        require_views(config)
        build_plan(config, nominal_step_audio(config, world.size))
        self.corpora = Corpora.read(config, self.tokenizer, world.size)
        config.checkpoint.require(self.corpora.validation)
        used = None if self.corpora.given is None else self.corpora.given.used
        self.plan = build_plan(config, self.corpora.audio.step_audio(config, world.size, used))

    def _build(self) -> None:
        """Build student, teacher, optimizer and train step."""
        config, world = self.config, self.world
        built = Built.of_run(config)
        self.features = build_extractor(config, world.device, built)
        self.corpora.require_extractor(self.features)
        tokens = 1 if self.tokenizer is None else self.tokenizer.vocabulary_size
        model, follower = build_models(config, world, tokens, self.features, built)
        self.built = built_entry(config, model, self.features)
        self.student = world.data_parallel(model)
        self.scaled = ScaledOptimizer(model, config.optimizer, self.plan)
        try:
            self.teacher = EmaTeacher(model, self.plan.half_life, follower, order=config.teacher.order)
        except ValueError as error:
            raise UserError(f"teacher: {error}") from error
        reference = self.plan.steps.reference_seconds
        self.averages = EvaluationAverages(model, config.checkpoint, reference)
        unlabelled = self.corpora.audio.sizes["unlabelled"]
        best = build_best_average(config, self.teacher, model)
        self.searches = build_searches(config, self.tokenizer)
        models = (self.teacher, model, best, self.searches)
        strategy = build_strategy(config, self.tokenizer, *models, self.features, unlabelled)
        self.labels = RunLabels(config, strategy, best, self.corpora, self.tokenizer, world)
        bf16 = config.device.precision == "bf16"
        parts = (world, self.features, self.student, self.teacher, self.scaled.optimizer)
        if config.self_supervised.is_on:
            self.train_step = build_self_supervised_step(config, *parts, self.plan.at(0.0).rho)
        else:
            labels = (strategy, self.labels.filters, self.labels.ahead)
            self.train_step = build_step(*parts, *labels, loss=config.loss, bf16=bf16)

    def _open(self, log_lines: int) -> None:
        """Open the run directory (log, checkpoints, validation); keep `log_lines` lines of the log."""
        config, world, splits = self.config, self.world, self.corpora.validation
        self.position, self.contents, notes = resume.require_contents(
            self.resumed.get("contents", {}),
            self.corpora.audio.contents,
            self.position,
            allowed=self.allow_changes,
        )
        self.position = self.labels.restore(self.resumed, self.position)
        told = self.corpora.new_audio_notes(self.resumed.get("contents", {}))
        self.notes += self.corpora.notes + told + notes
        self.guard = CollapseGuard(**self.corpora.audio.sizes)
        rates = logged_validation(self.folder, log_lines, self.step) if self.validation_due else None
        rates = world.gather(rates)[0]
        self.validation_due = self.validation_due and rates is None
        lines = log_lines + (rates is not None)
        try:
            self.log = RunLog(
                self.folder, active=world.is_first, lines=lines, step=self.step, total_hours=config.hours
            )
            self.skipped = SkippedList(self.folder, world, config.data.max_skipped_share, keep=log_lines > 0)
        except OSError as error:
            raise UserError(f"run_dir {self.folder} cannot be written ({error.strerror})") from error
        self.watch.before_exit = self.saving.wait
        data = (self.features, self.tokenizer, splits)
        self.validator = Validator(world, *data, config.device, self.watch, self.stop)
        if rates is not None:
            self.labels.validated(self.step, rates)
            self.saving.keep_best(self.step, rates, self._save)

    # Training.

    def run(self) -> Path | None:
        """Train for the configured hours or until a signal arrives; returns the last checkpoint."""
        config = self.config
        self._announce()
        if self.clock.hours >= config.hours and not self.validation_due:
            self.log.say(f"{self.folder} already trained for {config.hours:g} h; nothing to do")
            return self.saving.last()
        if self.world.is_first:
            resume.write_configs(self.folder, self.resumed, config)
            write_features(self.folder, config, self.features)
            record_start(self.folder, self.world, self.clock.hours)
        try:
            with self.stop:
                stopped, seconds = self._validate(), self.batch_seconds
                while self.clock.hours < config.hours and not stopped:
                    if self.batch_seconds != seconds:
                        seconds = self.batch_seconds
                        self._say(batch_change(self.plan, config, self.clock.hours))
                    stopped = self._run_stage()
                if stopped and self.stop.signal:
                    where = f"stopped as requested at {self.clock.hours:.3f} h"
                    self.log.say(f"{where}; rerun the same command to resume")
                self.watch.at("writing the last checkpoint")
                return self.saving.last()
        finally:
            self.saving.wait()
            self.log.close()
            if self.searches is not None:
                self.searches.close()

    def _run_stage(self) -> bool:
        """Train with one plan of batches until it changes or the run ends; True if a signal stopped training.

        The plan changes with the batch size, and with the labels that a round has made.
        """
        config, stop = self.config, False
        labelled_rounds = self.position.labels.round
        seconds = self.batch_seconds
        plan = self.corpora.audio.plan(config, seconds, self.labels.used)
        ahead = steps(
            self.corpora.dataset(config, self.features, self.world.rank, self.world.size),
            plan,
            self.position,
            workers=config.data.workers,
            pin_memory=self.world.device.type == "cuda",
        )
        self.labelling = LabellingProgress(plan.labels, is_shown=self.world.is_first)
        with contextlib.closing(ahead), self.labelling:
            batches = self._with_next(self.train_step.phases.waiting(ahead))
            while (
                self.clock.hours < config.hours
                and self.batch_seconds == seconds
                and self.position.labels.round == labelled_rounds
                and not stop
            ):
                before = self.clock.samples
                self.watch.at(f"reading audio for step {self.step + 1}")
                batch, following = next(batches)
                self.watch.at(f"training, step {self.step + 1}")
                if following is not None and self.labels.begins_early(batch, following):
                    self.train_step.begin_labels(following)
                self._train_on(batch)
                stop = self._keep(before, stop=self.stop.poll())
        return stop

    def _with_next(self, batches: Iterator[StepBatch]) -> Iterator[tuple[StepBatch, StepBatch | None]]:
        """Each batch, with the next one of the stage if the run looks ahead. The run may end in between."""
        following, stage_end = None, self.plan.steps.batches.next_change(self.clock.hours)
        while True:
            batch = self.world.next_item(batches) if following is None else following
            samples = 0 if batch.label_only else batch.samples
            is_last = (
                AudioClock(SAMPLE_RATE_HZ, self.clock.samples + samples).hours >= stage_end
                or batch.after.labels.round != self.position.labels.round
            )
            looks_ahead = self.labels.looks_ahead and not is_last
            following = self.world.next_item(batches) if looks_ahead else None
            yield batch, following

    def _keep(self, before: int, *, stop: bool) -> bool:
        """Save, then validate, if due since `before` (samples of the clock); returns whether to stop."""
        config, done = self.config, self.clock.hours >= self.config.hours
        if self.corpora.validation:
            self.validation_due = done or self.clock.passed(config.validation.every_hours, before)
        for_good = self.clock.passed(config.checkpoint.keep_every_hours, before)
        due = for_good or self.clock.passed(config.checkpoint.every_hours, before)
        if done or stop or due:
            self._save(for_good=for_good)
        self.saving.poll()
        return stop or self._validate()

    @property
    def batch_seconds(self) -> float:
        """Padded seconds of the next step."""
        return self.plan.steps.batches.seconds(self.clock.hours)

    def _train_on(self, batch: StepBatch) -> None:
        """Take one optimizer step, with the hyper-parameters for the current clock and the step's audio."""
        if batch.label_only:
            self._label(batch)
            return
        every = self.config.optimizer.noise_every_steps
        now = self.plan.at(self.clock.hours, batch.samples / SAMPLE_RATE_HZ)
        self._prepare_student()
        self.scaled.apply(now, len(batch.micro_batches), self.clock.hours)
        self.train_step.clip_norm = now.clip_norm
        result = self.train_step(
            batch,
            teacher_seconds=now.teacher_audio,
            at_seconds=now.clock_seconds,
            measure_noise=every is not None and self.step % every == 0,
        )
        self.step += 1
        self.clock.advance(round(now.progress * batch.samples))
        if result.taken:
            self.averages.update(batch.samples / SAMPLE_RATE_HZ)
        self.position = batch.after
        seen = self.labels.with_unused(result, batch.unused)
        self.labels.observe(self.step, seen.labels, seen.reasons)
        self.log.step(self.step, self.clock.hours, batch.labelled, seen, now)
        self._observe(result.noise, now.kappa)
        if self.step % TIMED_STEPS == 0 or self.clock.hours >= self.config.hours:
            self._judge_labels()
            self.log.phases(self.step, self.clock.hours, self.world.gather(self.train_step.phases.take()))
        self.skipped.step(batch.skipped, read=result.seen, skipped=result.dropped["undecodable"])
        self.guard.step(self.step, batch.labelled, seen, result.taken)

    def _observe(self, noise: GradientNoise | None, kappa: float) -> None:
        """Take note of the gradient noise of a step at `kappa`, from which the batch may grow."""
        before, hours = self.plan, self.clock.hours
        self.plan = before.observe(noise, kappa, hours)
        if self.plan.steps.batches != before.steps.batches and self.plan.noise is not None:
            share = self.plan.noise.share(before.steps.kappa(hours))
            self.log.batch(self.step, hours, self.batch_seconds, share)

    def _judge_labels(self) -> None:
        """Log what became of the labels since the last call.

        Raises:
            CollapsedLabelsError: they have collapsed, and the run shall not go on.
        """
        found = self.labels.collect()
        self.log.labels(self.step, self.clock.hours, found)
        alarm = self.labels.check(self.step, self.clock.hours, found)
        if alarm is None:
            return
        is_warning = self.config.pseudo_labels.on_collapse == "warn"
        self.log.alarm(self.step, self.clock.hours, alarm, warn=is_warning)
        if not is_warning:
            raise CollapsedLabelsError(alarm)

    def _label(self, batch: StepBatch) -> None:
        """Label a batch that is not trained on: no step, and no audio on the clock."""
        self.watch.at(f"labelling before step {self.step + 1}")
        self.labelling.begin(self.position)
        labels = self.train_step.label(batch) if self.labels.wants_labels() else 0
        self.labelling.advance(batch.samples)
        finished = batch.after.labels.round
        if finished != self.position.labels.round:
            outcome = self.labels.finish_round()
            self.log.say(f"{self.clock.hours:7.3f}/{self.config.hours:g} h  round {finished}: {outcome}")
        self.position = batch.after
        self.skipped.step(batch.skipped, read=labels, skipped=0)

    def _prepare_student(self) -> None:
        """Seed random numbers by (seed, step, rank), so that a resumed run repeats them; set dropout."""
        config, student = self.config, unwrap(self.student)
        torch.manual_seed(draw_seed(config.seed, "step", self.step, self.world.rank))
        begin_step = getattr(student, "begin_step", None)
        if begin_step is not None:
            begin_step(draw_seed(config.seed, "layers", self.step))
        if self._uses_pseudo_labels:
            switch_dropout(student, config.pseudo_labels)
        student.train()

    @property
    def _uses_pseudo_labels(self) -> bool:
        """Whether the supervised part of the run is over."""
        labels = self.config.pseudo_labels
        start_samples = round(labels.start_hours * 3600 * SAMPLE_RATE_HZ)
        return labels.uses_unlabelled and self.position.consumed >= start_samples

    def _validate(self) -> bool:
        """Validate both models if due; returns whether a signal stopped the validation."""
        if not self.validation_due:
            return False
        found = self.validator({"student": unwrap(self.student), "teacher": self.teacher.module})
        if found is None:
            if self.saving.step != self.step:
                self._save()
            return True
        # The checkpoint is saved before the validation is logged. A run that resumes from it finds the line
        # in the log, or validates again.
        self.saving.keep_best(self.step, found.rates, self._save)
        self.log.validation(self.step, self.clock.hours, found.rates, found.left_out)
        self.labels.validated(self.step, found.rates)
        weakness = self.labels.weakness(found.rates) if self._uses_pseudo_labels else None
        if weakness is not None:
            self.log.warn_once("weak labeller", self.clock.hours, weakness)
        self.validation_due = False
        return False

    def _announce(self) -> None:
        student, world = unwrap(self.student), self.world
        lines = announcement(
            self.config,
            self.plan,
            self.clock.hours,
            parameters=sum(p.numel() for p in student.parameters()),
            devices=f"{world.size} x {world.device.type}",
            half_life_seconds=self.teacher.half_life,
            batch_norms=len(self.scaled.batch_norm),
        )
        self._say(self.notes + lines)

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            self.log.say(line)

    # Checkpoints and resume.

    def _save(self, rate: float | None = None, *, for_good: bool = False) -> None:
        self.watch.at("saving")
        self.log.flush()
        state = {
            "student": unwrap(self.student).state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.scaled.optimizer.state_dict(),
            **self.averages.state_dict(),
            "clock": self.clock.state_dict(),
            "position": self.position.state_dict(),
            "pseudo_labels": self.labels.state_dict(),
            "contents": self.contents,
            "origin": self.origin,
            "built": self.built,
            "step": self.step,
            "validation_due": self.validation_due,
            "kappa": self.scaled.kappa,
            "plan": self.plan.state_dict(),
            "log_lines": self.log.lines,
            "tokenizer": {} if self.tokenizer is None else self.tokenizer.state_dict(),
            "config": config_to_dict(self.config),
        }
        self.saving.save(self.step, state, rate, for_good=for_good)
        self.labels.write_samples(self.folder)

    def _restore(self) -> int:
        """Resume from the newest checkpoint, or start from `init.checkpoint`; returns the log's lines."""
        init, found, whole = self.config.init, self.saving.restore(), True
        is_resume = found is not None
        if found is None and init.checkpoint is not None:
            found, whole = checkpoint.find(Path(init.checkpoint)), init.keep == "run"
        if found is None:
            return 0
        path, state, problems = found
        self.notes += [f"{problem}: using the previous checkpoint" for problem in problems]
        self._load(state, path, whole=whole, same_run=is_resume)
        if not is_resume:
            self.origin = origin_of(path, state)
            return 0
        self.origin = state.get("origin", {})
        self.notes += require_origin(self.folder, state, init.checkpoint, allowed=self.allow_changes)
        self.validation_due = bool(state.get("validation_due"))
        return int(state["log_lines"])

    def _load(self, state: dict[str, Any], path: Path, *, whole: bool, same_run: bool) -> None:
        self.notes += resume.require_settings(
            state,
            path,
            self.config,
            self.tokenizer,
            whole=whole,
            same_run=same_run,
            allowed=self.allow_changes,
        )
        student = unwrap(self.student)
        with checkpoint.fitting(path, self.config.model.target):
            student.load_state_dict(shard_state(state["student"], student.state_dict()))
            self.teacher.load_state_dict(shard_state(state["teacher"], self.teacher.state_dict()))
        if not whole:
            self.teacher.flush()
            self.teacher.audio = 0.0
            return
        with checkpoint.fitting(path, self.config.model.target):
            load_optimizer(self.scaled.optimizer, state["optimizer"])
            self.averages.load_state_dict(state)
        self.scaled.kappa = state["kappa"]
        try:
            self.plan = self.plan.with_state(state.get("plan", {}))
        except ValueError as error:
            raise UserError(f"checkpoint {path}: {error}; raise batch.max_seconds to what it was") from error
        self.clock.load_state_dict(state["clock"])
        self.position = DataCursor.from_state(state["position"])
        self.resumed = {key: state[key] for key in ("config", "step", "contents", "pseudo_labels")}
        self.step = state["step"]
