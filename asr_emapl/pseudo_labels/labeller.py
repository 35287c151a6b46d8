"""Labels of a model: greedy, sampled, or by a search such as beam search with a language model.

Axes: B utterances, T output frames (padded), V tokens (including the CTC blank).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.silence import blank_silence
from asr_emapl.ctc import Confidence, Paths, blank_share, greedy, labels_of_path
from asr_emapl.pseudo_labels.filters import similarity
from asr_emapl.pseudo_labels.labels import LabelRequest, Labels, PendingLabels
from asr_emapl.pseudo_labels.search_pool import SearchPool

Model = Callable[..., Any]


class Labeller:
    """Labels clean audio by a model in eval mode, as in slimIPL, MPL, Kaizen and AV-CPL.

    Labels are those of `asr-emapl label` with the same model and settings: digital silence is blank in both.

    Args:
        model: called with features [B, T, F] and lengths [B]: the teacher, or the student, whose mode is
            restored.
        searches: decode each utterance on the CPU; None: the best path.
        temperature: 0: the best path; otherwise the label of each frame is drawn from the distribution with
            log-probabilities divided by the temperature (Berrebbi et al. 2023). Not with a search.
        second: a model whose best path is compared with the label; "greedy": the best path of `model`; None:
            no comparison.
        confidence: "frames": mean over frames of the highest probability; "tokens": see
            `ctc.token_confidence`.
        soft: also give the log-probabilities, for strategy `soft`.
        seed: of the draws, which depend on the utterance and the pass alone.
        bf16: run the models with autocast to bfloat16.
        frame_seconds: audio per frame of the models' output; None: digital silence is not looked for.
    """

    def __init__(
        self,
        model: Model,
        *,
        searches: SearchPool | None = None,
        temperature: float = 0.0,
        second: Model | Literal["greedy"] | None = None,
        confidence: Confidence = "frames",
        soft: bool = False,
        seed: int = 0,
        bf16: bool = False,
        frame_seconds: float | None = None,
    ) -> None:
        self.model, self.searches, self.second, self.bf16 = model, searches, second, bf16
        self.temperature, self.confidence, self.seed = temperature, confidence, seed
        self.soft, self.frame_seconds = soft, frame_seconds

    def __call__(self, batch: LabelRequest) -> Labels:
        """Labels on the model's device. Waits for it only if there is a search or a second label."""
        return self.begin(batch).result()

    def begin(self, batch: LabelRequest) -> Labels | PendingLabels:
        """Like a call, but waits for the searches only when the result is read. The models run now."""
        log_probs_BTV, lengths_B = self._log_probs(self.model, batch)
        best = second = greedy(log_probs_BTV, lengths_B)
        if self.second is not None and self.second != "greedy":
            second = greedy(*self._log_probs(self.second, batch))

        def labels(path_BT: Tensor) -> Labels:
            found = labels_of_path(path_BT, best, log_probs_BTV, lengths_B, self.confidence)
            parts = (found.labels, found.label_lengths, found.confidence)
            blanks_B = blank_share(best.path, lengths_B)
            soft_BTV = log_probs_BTV.float() if self.soft else None
            return self._compared(Labels(*parts, blank_share_B=blanks_B, soft_BTV=soft_BTV), second)

        if self.searches is not None and batch.ids:
            path_of = self.searches.begin(log_probs_BTV, lengths_B)
            return PendingLabels(lambda: labels(path_of()))
        is_drawn = self.temperature > 0.0 and batch.ids
        return labels(self._drawn(batch, log_probs_BTV) if is_drawn else best.path)

    def _compared(self, found: Labels, second: Paths) -> Labels:
        """The labels with their agreement with the second ones, if it is wanted; waits for the device."""
        if self.second is None:
            return found
        tokens = [label.tokens for label in found.to_list()]
        agreement = [similarity(a, b) for a, b in zip(tokens, second.to_lists(), strict=True)]
        return replace(found, agreement_B=torch.tensor(agreement, dtype=torch.float32))

    def _log_probs(self, model: Model, batch: LabelRequest) -> tuple[Tensor, Tensor]:
        module = model if isinstance(model, nn.Module) else None
        was_training = module is not None and module.training
        if module is not None:
            module.eval()
        try:
            with (
                # Not inference mode: the CTC backward pass may not keep tensors made there, and the gathered
                # weights of a sharded teacher may not be used outside of it.
                torch.no_grad(),
                torch.autocast(batch.features.device.type, torch.bfloat16, enabled=self.bf16),
            ):
                log_probs_BTV, lengths_B = model(batch.features, batch.lengths)
                if self.frame_seconds is not None and batch.waveforms_BN is not None:
                    log_probs_BTV = blank_silence(log_probs_BTV, batch.waveforms_BN, self.frame_seconds)
                return log_probs_BTV, lengths_B
        finally:
            if module is not None:
                module.train(was_training)

    def _drawn(self, batch: LabelRequest, log_probs_BTV: Tensor) -> Tensor:
        """A draw of the label of each frame, long [B, T]."""
        noisy_BTV = log_probs_BTV.float() / self.temperature + self._noise(batch, log_probs_BTV)
        return noisy_BTV.argmax(dim=-1)

    def _noise(self, batch: LabelRequest, log_probs_BTV: Tensor) -> Tensor:
        """Gumbel noise [B, T, V]: the maximum of logits with it is a draw from their softmax."""
        frames, tokens = log_probs_BTV.shape[1:]
        draws = []
        for row in batch.rows:
            generator = torch.Generator().manual_seed(draw_seed(self.seed, "label", row, batch.epoch))
            # Frame by frame, so that padding does not change the draws.
            draws.append(torch.rand(frames, tokens, generator=generator).clamp(min=1e-20))
        uniform_BTV = torch.stack(draws).to(log_probs_BTV.device)
        return -(-uniform_BTV.log()).log()
