"""WER of a run's models on its validation splits, decoded by all of its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from asr_emapl.audio.features import LogMel
from asr_emapl.data.manifest import Utterance
from asr_emapl.decoding.transcribe import posteriors, transcribe
from asr_emapl.scoring.wer import score
from asr_emapl.text.tokenizer import Tokenizer
from asr_emapl.training.watch import Watch
from asr_emapl.training.world import DeviceConfig, World


def validate(
    world: World,
    models: Mapping[str, nn.Module],
    features: LogMel,
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Utterance]],
    device: DeviceConfig,
    watch: Watch,
) -> dict[str, float]:
    """WER in percent by "model/split", the same on every process; each decodes its share."""
    rates: dict[str, float] = {}
    for split, utterances in splits.items():
        for name, model in models.items():
            watch.at(f"validating {name} on {split}")
            texts: dict[str, str] = {}
            batches = posteriors(
                model,
                features,
                utterances,
                device=world.device,
                max_seconds=device.max_seconds,
                bf16=device.precision == "bf16",
                rank=world.rank,
                world_size=world.size,
            )
            for hypothesis in transcribe(batches, tokenizer):
                texts[hypothesis.id] = hypothesis.text
                watch.tick()
            watch.at("gathering hypotheses")
            hypotheses = {id_: text for part in world.gather(texts) for id_, text in part.items()}
            references = {u.id: u.text or "" for u in utterances}
            rates[f"{name}/{split}"] = 100.0 * score(references, hypotheses).words.rate
    return rates
