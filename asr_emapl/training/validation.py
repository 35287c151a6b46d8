"""WER of student and teacher on the validation splits, each process decoding its part."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from asr_emapl.audio.features import LogMel
from asr_emapl.data.manifest import Utterance
from asr_emapl.decoding.transcribe import transcribe
from asr_emapl.errors import UserError
from asr_emapl.scoring.wer import score
from asr_emapl.text.tokenizer import Tokenizer
from asr_emapl.training.watch import Watch
from asr_emapl.training.world import DeviceConfig, World


class Validation:
    """Measures word error rates.

    Args:
        splits: name -> utterances.
        best_by: the split whose rate tells which checkpoint is best; "mean": the mean over all; None: none.

    Raises:
        UserError: `best_by` names no split.
    """

    def __init__(
        self,
        splits: dict[str, list[Utterance]],
        features: LogMel,
        tokenizer: Tokenizer,
        world: World,
        device: DeviceConfig,
        watch: Watch,
        *,
        best_by: str | None,
    ) -> None:
        if best_by not in (None, "mean", *splits):
            raise UserError(
                f"checkpoint.best_by {best_by!r} is none of null, mean, {', '.join(splits) or '(no splits)'}"
            )
        self.splits, self.features, self.tokenizer = splits, features, tokenizer
        self.world, self.device, self.watch, self.best_by = world, device, watch, best_by

    def __call__(self, student: nn.Module, teacher: nn.Module) -> dict[str, float]:
        """WER in percent by "model/split"; the same on all processes."""
        rates: dict[str, float] = {}
        for split, utterances in self.splits.items():
            references = {u.id: u.text or "" for u in utterances}
            for name, model in (("student", student), ("teacher", teacher)):
                self.watch.at(f"validating {name} on {split}")
                texts = self._texts(model, utterances)
                self.watch.at("gathering texts")
                gathered: dict[str, str] = {}
                for part in self.world.gather(texts):
                    gathered |= part
                rates[f"{name}/{split}"] = 100.0 * score(references, gathered).words.rate
        return rates

    def _texts(self, model: nn.Module, utterances: Sequence[Utterance]) -> dict[str, str]:
        """Of this process's share."""
        texts = {}
        for hypothesis in transcribe(
            model,
            self.features,
            self.tokenizer,
            utterances,
            device=self.world.device,
            max_seconds=self.device.max_seconds,
            bf16=self.device.precision == "bf16",
            rank=self.world.rank,
            world_size=self.world.size,
        ):
            texts[hypothesis.id] = hypothesis.text
            self.watch.tick()
        return texts

    def decisive(self, rates: dict[str, float]) -> float | None:
        """The teacher's rate by which the best checkpoint is chosen; None if there is none."""
        if self.best_by in self.splits:
            return rates.get(f"teacher/{self.best_by}")
        teacher = [rate for name, rate in rates.items() if name.startswith("teacher/")]
        return sum(teacher) / len(teacher) if teacher and self.best_by == "mean" else None
