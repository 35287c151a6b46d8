"""Times and confidences of tokens and words.

Axes: B utterances, T frames (padded), V labels (including the CTC blank). A frame of the model's output is
`frame_seconds` of audio. A token spans the frames labelled with it. CTC models may emit these frames
slightly before or after the sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr_emapl.audio.features import FeatureExtractor

_MANY_FRAMES = 1_000_000  # large enough that frames added or dropped at the edges are negligible


@dataclass(frozen=True)
class TokenSpans:
    """The N tokens of a batch of paths, utterance by utterance.

    Attributes:
        labels: long [N], with repeats collapsed and without blanks.
        label_lengths: long [B], number of tokens of each utterance.
        begin: long [N], first frame of each token.
        end: long [N], one past the last frame of each token.
        confidence: float32 [N], mean probability of the token over its frames, in [0, 1].
    """

    labels: Tensor
    label_lengths: Tensor
    begin: Tensor
    end: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class TimedText:
    """A token or a word: text, begin and end in seconds, and confidence.

    The confidence of a token is its mean probability over its frames; that of a word is the minimum over its
    tokens.
    """

    text: str
    begin: float
    end: float
    confidence: float


@torch.no_grad()
def token_spans(path_BT: Tensor, log_probs_BTV: Tensor, lengths_B: Tensor, blank: int = 0) -> TokenSpans:
    """Collapse frame-level paths, such as `log_probs.argmax(-1)`, into tokens. Vectorized.

    Frames at and after `lengths` have no effect.

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

    # Number runs of equal labels consecutively across the batch. Every non-empty utterance starts a new run.
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
        # clamp: log-probabilities in low precision can round to slightly above 0.
        confidence=(sums[run] / counts[run]).clamp(max=1.0),
    )


def timed_tokens(
    spans: TokenSpans, surfaces: Sequence[str], frame_seconds: float
) -> Iterator[list[TimedText]]:
    """The tokens of each utterance with the text that each label adds; synchronises with the device."""
    columns = (spans.labels, spans.begin, spans.end, spans.confidence)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for count in spans.label_lengths.tolist():
        yield [
            TimedText(surfaces[label], begin * frame_seconds, end * frame_seconds, confidence)
            for label, begin, end, confidence in (next(rows) for _ in range(count))
        ]


def words(tokens: Sequence[TimedText]) -> list[TimedText]:
    """The words of tokens; spaces in the tokens' text separate words."""
    found: list[TimedText] = []
    is_open = False
    for token in tokens:
        for i, part in enumerate(token.text.split(" ")):
            is_open = is_open and i == 0  # a space ends the word
            if part and is_open:
                word = found[-1]
                confidence = min(word.confidence, token.confidence)
                found[-1] = TimedText(word.text + part, word.begin, token.end, confidence)
            elif part:
                found.append(TimedText(part, token.begin, token.end, token.confidence))
                is_open = True
    return found


def frame_seconds(model: nn.Module, features: FeatureExtractor) -> float:
    """Seconds of audio per frame of the model's output."""
    (frames,) = model.output_lengths(torch.tensor([_MANY_FRAMES])).tolist()  # type: ignore[operator]
    return features.frame_seconds * _MANY_FRAMES / float(frames)
