"""Times and confidences of tokens and words.

Axes: B utterances, T frames (padded), V labels (blank included). A frame of the model's output stands for
`frame_seconds` of audio; a token lasts as long as the frames that have it as their label. That is where the
model writes it: a CTC model may do so some frames before or after it is heard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import LogMel

_MANY_FRAMES = 1_000_000  # so that what a model adds or drops at the edges says nothing


@dataclass(frozen=True)
class TokenSpans:
    """The tokens of a batch of paths, utterance after utterance; N tokens in all.

    Attributes:
        labels: long [N], repeats collapsed, never the blank.
        label_lengths: long [B], tokens of each utterance.
        begin: long [N], first frame of each token.
        end: long [N], the frame after its last.
        confidence: float32 [N], mean over the token's frames of its probability, in [0, 1].
    """

    labels: Tensor
    label_lengths: Tensor
    begin: Tensor
    end: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Timed:
    """A token or a word: its text, begin and end in seconds, and the confidence in it.

    A token's confidence is the mean of its probability over its frames, a word's the lowest of its tokens'.
    """

    text: str
    begin: float
    end: float
    confidence: float

    def shifted(self, seconds: float) -> Timed:
        """The same span, `seconds` later."""
        return Timed(self.text, self.begin + seconds, self.end + seconds, self.confidence)


@torch.no_grad()
def token_spans(path_BT: Tensor, log_probs_BTV: Tensor, lengths_B: Tensor, blank: int = 0) -> TokenSpans:
    """The tokens of paths through frames, such as `log_probs.argmax(-1)`, with no Python loop.

    Frames at and after `lengths` are never looked at.

    Args:
        path_BT: long [B, T], label of each frame.
        log_probs_BTV: float [B, T, V].
        lengths_B: integer [B], in [0, T].
        blank: label of the CTC blank.
    """
    frames = path_BT.shape[1]
    device = path_BT.device
    valid_BT = torch.arange(frames, device=device) < lengths_B.to(device).unsqueeze(1)
    starts_BT = valid_BT.clone()
    starts_BT[:, 1:] &= path_BT[:, 1:] != path_BT[:, :-1]
    keep_BT = starts_BT & (path_BT != blank)

    # Runs of one label are numbered through the batch; each utterance that has frames begins one.
    run_BT = starts_BT.flatten().cumsum(0).sub(1).clamp(min=0).view_as(path_BT)
    log_prob_BT = log_probs_BTV.gather(-1, path_BT.where(valid_BT, blank).unsqueeze(-1)).squeeze(-1)
    probability_BT = torch.where(valid_BT, log_prob_BT.float().exp(), 0.0)
    totals = torch.zeros(2, run_BT.numel(), device=device)
    both = torch.stack([probability_BT.flatten(), valid_BT.flatten().float()])
    sums, counts = totals.index_add_(1, run_BT.flatten(), both)

    run = run_BT[keep_BT]
    begin = torch.arange(frames, device=device).expand_as(path_BT)[keep_BT]
    return TokenSpans(
        labels=path_BT[keep_BT],
        label_lengths=keep_BT.sum(1),
        begin=begin,
        end=begin + counts[run].long(),
        # clamp: log-probabilities of a low precision can round to slightly above 0.
        confidence=(sums[run] / counts[run]).clamp(max=1.0),
    )


def timed_tokens(spans: TokenSpans, surfaces: Sequence[str], frame_seconds: float) -> Iterator[list[Timed]]:
    """The tokens of each utterance with the text that each label adds; waits for the device."""
    columns = (spans.labels, spans.begin, spans.end, spans.confidence)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for count in spans.label_lengths.tolist():
        yield [
            Timed(surfaces[label], begin * frame_seconds, end * frame_seconds, confidence)
            for label, begin, end, confidence in (next(rows) for _ in range(count))
        ]


def words(tokens: Sequence[Timed]) -> list[Timed]:
    """Words from tokens, which contain the spaces between words."""
    found: list[Timed] = []
    is_open = False
    for token in tokens:
        for i, part in enumerate(token.text.split(" ")):
            is_open = is_open and i == 0  # what follows a space begins a word
            if part and is_open:
                word = found[-1]
                sure = min(word.confidence, token.confidence)
                found[-1] = Timed(word.text + part, word.begin, token.end, sure)
            elif part:
                found.append(Timed(part, token.begin, token.end, token.confidence))
                is_open = True
    return found


def frame_seconds(model: nn.Module, features: LogMel) -> float:
    """Seconds of audio for each frame of the model's output."""
    (frames,) = model.output_lengths(torch.tensor([_MANY_FRAMES])).tolist()  # type: ignore[operator]
    return features.hop / SAMPLE_RATE_HZ * _MANY_FRAMES / float(frames)
