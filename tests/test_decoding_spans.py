"""Times and confidence of tokens and words agree with a plain loop over frames."""

from __future__ import annotations

import math
from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.audio.features import FeatureConfig, LogMel
from asr_emapl.ctc import greedy
from asr_emapl.decoding.spans import TimedText, frame_seconds, timed_tokens, token_spans, words
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.text.tokenizer import CharacterTokenizer, SentencePieceTokenizer


def naive(path, log_probs, blank):
    """(label, begin, end, confidence) of each token of one utterance without padding."""
    tokens, t = [], 0
    for label, run in groupby(path):
        count = len(list(run))
        if label != blank:
            confidence = sum(math.exp(log_probs[i][label]) for i in range(t, t + count)) / count
            tokens.append((label, t, t + count, min(confidence, 1.0)))
        t += count
    return tokens


@st.composite
def batches(draw):
    batch, frames, labels = draw(st.integers(1, 4)), draw(st.integers(0, 12)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Few labels on a coarse grid: repeats, blanks between repeats, and ties are common.
    logits = torch.randint(0, 3, (batch, frames, labels), generator=generator)
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    lengths = torch.tensor(draw(st.lists(st.integers(0, frames), min_size=batch, max_size=batch)))
    for row, length in zip(log_probs, lengths.tolist(), strict=True):
        row[length:] = draw(st.sampled_from([math.nan, 7.0]))
    return log_probs, lengths, draw(st.integers(0, labels - 1))


@given(batches())
def test_spans_are_those_of_a_loop(case):
    log_probs, lengths, blank = case
    path = log_probs.max(dim=-1).indices
    spans = token_spans(path, log_probs, lengths, blank)
    expected = [
        naive(path[b, :n].tolist(), log_probs[b, :n].tolist(), blank) for b, n in enumerate(lengths.tolist())
    ]
    flat = [token for tokens in expected for token in tokens]
    assert spans.label_lengths.tolist() == [len(tokens) for tokens in expected]
    found = zip(spans.labels.tolist(), spans.begin.tolist(), spans.end.tolist(), strict=True)
    assert list(found) == [token[:3] for token in flat]
    assert spans.confidence.tolist() == pytest.approx([token[3] for token in flat], rel=1e-5)
    best = greedy(log_probs, lengths, blank).to_lists()
    assert spans.labels.tolist() == [label for labels in best for label in labels]


def test_timed_tokens_go_to_their_utterances():
    path = torch.tensor([[1, 1, 0, 2], [0, 0, 0, 0], [2, 0, 2, 2]])
    log_probs = torch.full((3, 4, 3), 0.25).log()
    spans = token_spans(path, log_probs, torch.tensor([4, 4, 3]))
    first, second, third = timed_tokens(spans, ["", "A", " B"], 0.5)
    assert first == [TimedText("A", 0.0, 1.0, 0.25), TimedText(" B", 1.5, 2.0, 0.25)]
    assert second == []
    assert [(token.begin, token.end) for token in third] == [(0.0, 0.5), (1.0, 1.5)]


def test_words_span_their_tokens_and_have_their_lowest_confidence():
    texts = [" ", "A", "B", " ", "C", "D E", " F", " "]
    tokens = [TimedText(text, i, i + 0.5, 1.0 - i / 10) for i, text in enumerate(texts)]
    assert words(tokens) == [
        TimedText("AB", 1, 2.5, 0.8),
        TimedText("CD", 4, 5.5, 0.5),
        TimedText("E", 5, 5.5, 0.5),
        TimedText("F", 6, 6.5, 0.4),
    ]
    assert words([]) == words([TimedText("", 0, 1, 1.0)]) == words([TimedText(" ", 0, 1, 1.0)]) == []


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharacterTokenizer(),
        SentencePieceTokenizer.train(["ADA SAW BOB", "BOB SAW A BIG BOAT", "A DOG SAW ADA"] * 5, 17),
    ],
    ids=repr,
)
@given(data=st.data())
def test_words_make_the_text_of_any_labels(tokenizer, data):
    labels = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=20))
    tokens = [TimedText(tokenizer.surfaces[label], 0.0, 1.0, 1.0) for label in labels]
    assert " ".join(word.text for word in words(tokens)) == tokenizer.decode(labels)


def test_frames_of_the_output_span_the_audio():
    features = LogMel(FeatureConfig(mel_bands=20))
    model = TransformerCtc(29, 20, dim=16, heads=2, layers=1)
    seconds = 100.0
    frames = model.output_lengths(features.frames(torch.tensor([int(seconds * 16_000)])))
    assert frame_seconds(model, features) * frames.item() == pytest.approx(seconds, abs=0.1)
