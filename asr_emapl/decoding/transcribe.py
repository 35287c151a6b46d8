"""Utterances in, texts out: batched greedy decoding with any model that keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import LogMel
from asr_emapl.data.loader import collate
from asr_emapl.data.manifest import Utterance
from asr_emapl.data.share import micro_batches
from asr_emapl.decoding.greedy import greedy
from asr_emapl.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Hypothesis:
    """A decoded utterance; confidence is the mean over frames of the highest probability."""

    id: str
    text: str
    confidence: float


def transcribe(
    model: nn.Module,
    features: LogMel,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    *,
    device: torch.device,
    max_seconds: float,
    bf16: bool = False,
) -> Iterator[Hypothesis]:
    """Hypotheses, longest utterance first; each batch holds at most `max_seconds` of padded audio.

    An utterance longer than that is a batch of its own. The model is put into eval mode and left in the
    mode it came in.
    """
    ordered = sorted(utterances, key=lambda u: (-u.samples, u.id))
    limit = max(round(max_seconds * SAMPLE_RATE_HZ), max((u.samples for u in ordered), default=0))
    was_training = model.training
    model.eval()
    try:
        for group in micro_batches([u.samples for u in ordered], limit):
            batch = collate([ordered[i] for i in group]).to(device)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                log_probs_BTV, lengths_B = model(*features(batch.waveforms_BN, batch.samples_B))
            paths = greedy(log_probs_BTV.float(), lengths_B)
            for name, tokens, sure in zip(
                batch.ids, paths.to_lists(), paths.confidence.tolist(), strict=True
            ):
                yield Hypothesis(name, tokenizer.decode(tokens), sure)
    finally:
        model.train(was_training)
