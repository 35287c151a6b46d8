"""Validate a run's models: WER on the validation splits, decoded by all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from torch import nn

from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.transcribe import hypotheses, posteriors
from asr_emapl.distributed.heartbeat import Heartbeat
from asr_emapl.distributed.preemption import StopRequest
from asr_emapl.distributed.process_group import DeviceConfig, ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.progress import Progress
from asr_emapl.scoring.wer import score
from asr_emapl.text.tokenizer import Tokenizer

_Texts = dict[str, str]


@dataclass
class Validation:
    """The result of a validation, the same on every process.

    Attributes:
        rates: WER in percent by "model/split", without undecodable utterances; a split with no other
            utterances is omitted.
        left_out: why utterances could not be decoded, by split and id.
    """

    rates: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


class Validator:
    """Decodes the validation splits with the models of a run; each process decodes a share of the batches."""

    def __init__(
        self,
        world: ProcessGroup,
        features: FeatureExtractor,
        tokenizer: Tokenizer | None,
        splits: Mapping[str, Sequence[Utterance]],
        device: DeviceConfig,
        watch: Heartbeat,
        stop: StopRequest,
    ) -> None:
        self.world, self.features, self.tokenizer, self.splits = world, features, tokenizer, splits
        self.device, self.watch, self.stop = device, watch, stop

    def __call__(self, models: Mapping[str, nn.Module]) -> Validation | None:
        """The WERs of the models by name; None if a stop was requested before decoding was complete.

        Raises:
            UnreachableError: a server with audio cannot be reached.
        """
        found = Validation()
        for split, utterances in self.splits.items():
            left_out: _Texts = {}
            texts = self._decode(models, split, left_out)
            if self.stop.signal is not None:
                return None
            self.watch.at("gathering hypotheses")
            parts = self.world.gather((texts, left_out))
            lost = {id_: why for _, part in parts for id_, why in part.items()}
            if lost:
                found.left_out[split] = lost
            references = {u.id: u.text or "" for u in utterances if u.id not in lost}
            for name in models if references else ():
                hypotheses = {id_: text for part, _ in parts for id_, text in part[name].items()}
                kept = {id_: hypotheses[id_] for id_ in references}
                found.rates[f"{name}/{split}"] = 100.0 * score(references, kept).words.rate
        return found

    def _decode(self, models: Mapping[str, nn.Module], split: str, left_out: _Texts) -> dict[str, _Texts]:
        """Hypotheses of this process by model and id (partial after a stop request); fills `left_out`."""
        texts: dict[str, _Texts] = {name: {} for name in models}
        assert self.tokenizer is not None  # a self-supervised run has no validation splits
        if self.stop.signal is not None:
            return texts

        def note(utterance: Utterance, error: UserError) -> None:
            left_out[utterance.id] = str(error)

        self.watch.at(f"validating on {split}")
        batches = posteriors(
            list(models.values()),
            self.features,
            self.splits[split],
            device=self.world.device,
            max_seconds=self.device.max_seconds,
            bf16=self.device.precision == "bf16",
            rank=self.world.rank,
            world_size=self.world.size,
            left_out=note,
        )
        seconds = {u.id: u.duration for u in self.splits[split]}
        progress = Progress(
            f"validating on {split}", sum(seconds.values()) / self.world.size, is_shown=self.world.is_first
        )
        with closing(batches), progress:  # closing restores the models' train or eval mode
            for of_models in batches:
                for name, batch in zip(models, of_models, strict=True):
                    texts[name] |= {h.id: h.text for h in hypotheses(batch, self.tokenizer)}
                progress.advance(sum(seconds[id_] for id_ in of_models[0].ids))
                self.watch.tick()
                # All processes have the same number of batches, so they poll equally often.
                if self.stop.poll():
                    break
        return texts
