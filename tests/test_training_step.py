"""One step: which utterances count, what the loss is divided by, and what moves the teacher or nothing."""

from __future__ import annotations

import copy
import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.audio.features import FeatureConfig, LogMel
from asr_emapl.ctc import alignable, frames_needed
from asr_emapl.data.loader import MicroBatch, Skipped, StepBatch
from asr_emapl.data.mixture import DataCursor
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import REASONS
from asr_emapl.pseudo_labels.strategies import LabelRequest, Labels, TeacherLabels
from asr_emapl.training.build import build_step

BANDS, VOCABULARY = 12, 6
# 0.5 s: 48 frames of features, 16 of the model.
HALF_SECOND, FRAMES = 8000, 16
FEATURES = LogMel(FeatureConfig(mel_bands=BANDS))
ALONE = ProcessGroup(0, 1, torch.device("cpu"))


class Given:
    """A strategy with an answer for each utterance, tokens and confidence; keeps what it was shown."""

    def __init__(self, answers: dict[str, tuple[list[int], float]]) -> None:
        self.answers = answers
        self.seen: list[LabelRequest] = []

    def labels(self, batch: LabelRequest) -> Labels:
        self.seen.append(batch)
        tokens, confidences = zip(*(self.answers[name] for name in batch.ids), strict=True)
        return Labels.of(tokens, confidences)


class AmongOthers(ProcessGroup):
    """One of two processes: the sums over both add what the other one is said to have."""

    def __init__(self, utterances: int, tokens: int, loss: float) -> None:
        super().__init__(0, 2, torch.device("cpu"))
        counts = [utterances, tokens, 0.0, 0.0, *[0] * len(REASONS)]
        self.others = {len(counts): counts, 1: [loss]}

    def all_reduce_sum(self, values):
        return [a + b for a, b in zip(values, self.others[len(values)], strict=True)]


class Parts:
    """Student, teacher, optimizer and the step over them; SGD at rate 1 shows the gradient itself."""

    def __init__(
        self,
        strategy: Given | type[TeacherLabels] | None = None,
        *,
        world: ProcessGroup = ALONE,
        clip_norm: float | None = None,
        adam: bool = False,
        half_life: float = 10.0,
        **limits: float,
    ) -> None:
        torch.manual_seed(0)
        self.student = TransformerCtc(
            VOCABULARY, BANDS, dim=16, heads=2, layers=1, dropout=0.0, frontend_dropout=0.0
        )
        self.student.positions.max_shift_seconds = 0.0
        self.teacher = EmaTeacher(self.student, half_life)
        parameters = self.student.parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, 1e-2) if adam else torch.optim.SGD(parameters, 1.0)
        )
        self.step = build_step(
            world,
            FEATURES,
            self.student,
            self.teacher,
            self.optimizer,
            strategy(self.teacher) if isinstance(strategy, type) else strategy,
            PseudoLabelConfig(**limits),
            clip_norm=clip_norm,
            bf16=False,
        )

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.student.parameters()]

    def state(self) -> dict[str, object]:
        """Everything that a step moves."""
        state = {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return copy.deepcopy(state)

    def applied(self, before: list[Tensor]) -> list[Tensor]:
        return [a - b for a, b in zip(before, self.weights(), strict=True)]


def micro(lengths: dict[str, int], targets: list[list[int]] | None) -> MicroBatch:
    """Noise of the given samples, different for each name."""
    waves = [
        0.1 * torch.randn(n, generator=torch.Generator().manual_seed(ord(name)))
        for name, n in lengths.items()
    ]
    padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    return MicroBatch(list(lengths), padded, torch.tensor(list(lengths.values())), targets)


def labelled(*micros: MicroBatch, samples: int = 0) -> StepBatch:
    return StepBatch(True, list(micros), samples or sum(int(m.samples_B.sum()) for m in micros), DataCursor())


def unlabelled(*micros: MicroBatch) -> StepBatch:
    batch = labelled(*micros)
    return StepBatch(False, batch.micro_batches, batch.samples, batch.after)


def loss_alone(model: nn.Module, of: MicroBatch, i: int, tokens: list[int]) -> Tensor:
    """CTC of one utterance by itself, without padding or company, in float64."""
    samples_B = of.samples_B[i : i + 1]
    log_probs_BTV, lengths_B = model(*FEATURES(of.waveforms_BN[i : i + 1, : int(samples_B)], samples_B))
    return F.ctc_loss(
        log_probs_BTV.double().transpose(0, 1),
        torch.tensor([tokens], dtype=torch.long),
        lengths_B,
        torch.tensor([len(tokens)]),
        reduction="sum",
    )


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def close(left: list[Tensor], right: list[Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def same(left: object, right: object) -> bool:
    """Bit for bit, through dicts, lists and tensors."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


# Which labels CTC can align.


@pytest.mark.parametrize(
    ("tokens", "needed"),
    [([], 0), ([3], 1), ([1, 2, 3], 3), ([1, 2, 1], 3), ([1, 1], 3), ([2, 2, 2], 5), ([1, 1, 2, 2], 6)],
)
def test_alignable_from_as_many_frames_as_tokens_and_repeats(tokens, needed):
    assert alignable(tokens, needed)
    assert alignable(tokens, needed + 1)
    assert not alignable(tokens, needed - 1)


@given(st.lists(st.lists(st.integers(1, 3), max_size=8), min_size=1, max_size=4), st.integers(0, 3))
def test_frames_needed_of_a_batch_are_those_of_each_alone(texts, padding):
    labels = Labels.of(texts)
    tokens_BS = F.pad(labels.tokens_BS, (0, padding))
    needed = frames_needed(tokens_BS, labels.lengths_B).tolist()
    for tokens, frames in zip(texts, needed, strict=True):
        assert alignable(tokens, frames)
        assert not alignable(tokens, frames - 1)


@given(st.lists(st.integers(1, 3), max_size=8), st.integers(0, 12))
def test_alignable_is_what_has_a_finite_ctc_loss(tokens, frames):
    loss = F.ctc_loss(
        torch.full((12, 1, 4), -math.log(4.0)),
        torch.tensor([tokens], dtype=torch.long),
        torch.tensor([frames]),
        torch.tensor([len(tokens)]),
        reduction="sum",
    )
    assert alignable(tokens, frames) == bool(torch.isfinite(loss))


# The loss and what it is divided by.


def test_the_loss_is_each_utterances_ctc_summed_over_the_global_count():
    """Two micro-batches of unlike length and count: a mean of means would differ."""
    one = micro({"a": 16000, "b": 12000, "c": 5000}, [[1, 2, 3, 4], [5], [2, 2]])
    two = micro({"d": 4000}, [[3, 1]])
    parts = Parts()
    losses = [loss_alone(parts.student, m, i, t) for m in (one, two) for i, t in enumerate(m.targets)]
    expected = sum(losses) / 4
    wanted = gradient(parts.student, expected)
    before = parts.weights()
    result = parts.step(labelled(one, two))
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert (result.utterances, result.tokens, result.taken) == (4, 9, True)
    assert result.confidence is None
    assert result.nonempty is None
    assert result.dropped == Counter()
    close(parts.applied(before), wanted)
    assert result.gradient_norm == pytest.approx(norm(wanted), rel=1e-4)


def test_of_several_processes_each_divides_by_the_count_of_all():
    """DDP averages gradients over processes, so each contributes its sum times size over global count."""
    mine = micro({"a": 8000, "b": 6000}, [[1, 2], [3]])
    parts = Parts(world=AmongOthers(utterances=5, tokens=20, loss=100.0))
    total = sum(loss_alone(parts.student, mine, i, t) for i, t in enumerate(mine.targets))
    wanted = gradient(parts.student, total * 2 / 7)
    before = parts.weights()
    result = parts.step(labelled(mine))
    assert (result.utterances, result.tokens) == (7, 23)
    assert result.loss == pytest.approx((total.item() + 100.0) / 7, rel=1e-5)
    close(parts.applied(before), wanted)


@pytest.mark.parametrize("share", [[], [micro({"a": HALF_SECOND}, [[1, 2] * FRAMES])]])
def test_a_process_without_utterances_takes_part_with_a_gradient_of_zero(share):
    parts = Parts(world=AmongOthers(utterances=2, tokens=4, loss=6.0))
    result = parts.step(labelled(*share, samples=HALF_SECOND))
    assert result.taken
    assert result.loss == pytest.approx(3.0)
    assert all(p.grad is not None and not p.grad.any() for p in parts.student.parameters())
    assert parts.teacher.audio == 0.5


def test_what_cannot_be_aligned_is_left_out_and_counted():
    """At the edge: as many tokens as frames stays, one more, or one repeat more, goes."""
    fits = [1, 2] * (FRAMES // 2)
    lengths = dict.fromkeys("abcd", HALF_SECOND)
    batch = micro(lengths, [fits, [*fits, 3], [1, *fits[:-1]], [4]])
    parts = Parts()
    frames_B = parts.student.output_lengths(FEATURES.frames(batch.samples_B))
    assert frames_B.tolist() == [FRAMES] * 4
    expected = (loss_alone(parts.student, batch, 0, fits) + loss_alone(parts.student, batch, 3, [4])) / 2
    wanted = gradient(parts.student, expected)
    before = parts.weights()
    result = parts.step(labelled(batch))
    assert result.dropped == Counter(unalignable=2)
    assert (result.utterances, result.tokens) == (2, FRAMES + 1)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    close(parts.applied(before), wanted)


def test_repeats_count_into_what_can_be_aligned():
    repeats = [1] * (FRAMES // 2)
    assert sum(a == b for a, b in pairwise(repeats)) == FRAMES // 2 - 1
    batch = micro({"a": HALF_SECOND, "b": HALF_SECOND}, [repeats, [1, *repeats]])
    result = Parts().step(labelled(batch))
    assert result.dropped == Counter(unalignable=1)
    assert math.isfinite(result.loss)
    assert result.loss > 0.0


def test_a_labelled_step_with_nothing_to_align_moves_nothing():
    parts = Parts(adam=True)
    before = parts.state()
    result = parts.step(labelled(micro({"a": HALF_SECOND}, [[1, 2] * FRAMES])))
    assert (result.taken, result.utterances) == (False, 0)
    assert result.dropped == Counter(unalignable=1)
    assert same(parts.state(), before)


# Steps that are not taken.


def test_all_pseudo_labels_empty_move_nothing():
    parts = Parts(Given({name: ([], 0.75) for name in "abc"}), adam=True)
    parts.step(labelled(micro({"z": HALF_SECOND}, [[1]])))  # the optimizer has its state
    before = parts.state()
    result = parts.step(unlabelled(micro({"a": 9000, "b": 6000}, None), micro({"c": 4000}, None)))
    assert (result.taken, result.utterances, result.tokens, result.loss) == (False, 0, 0, 0.0)
    assert result.dropped == Counter(empty=3)
    assert (result.confidence, result.nonempty) == (0.75, 0.0)
    assert same(parts.state(), before)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["gradient", "audio"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_moves_nothing(where, value, clip_norm):
    batch = labelled(micro({"a": 8000, "b": 6000}, [[1, 2], [3]]))
    broken = labelled(micro({"a": 8000, "b": 6000}, [[1, 2], [3]]))
    parts = Parts(adam=True, clip_norm=clip_norm)
    parts.step(batch)
    before = parts.state()
    if where == "gradient":
        handle = parts.student.output.bias.register_hook(lambda g: g * value)
    else:
        broken.micro_batches[0].waveforms_BN[1, 3000] = value
    result = parts.step(broken)
    assert (result.taken, result.utterances) == (False, 2)
    assert not math.isfinite(result.gradient_norm)
    assert same(parts.state(), before)
    # Nor does it leave a trace: the next step is the one that would have been.
    if where == "gradient":
        handle.remove()
    assert parts.step(batch).taken
    undisturbed = Parts(adam=True, clip_norm=clip_norm)
    undisturbed.step(batch)
    undisturbed.step(batch)
    assert same(parts.state(), undisturbed.state())


# The teacher's clock.


@pytest.mark.parametrize("samples", [HALF_SECOND, 160_000, 16_000_000])
def test_the_teacher_moves_by_rho_of_the_whole_steps_audio(samples):
    """The audio is that of all processes, which the batch states, not what this one has of it."""
    parts = Parts(half_life=10.0)
    with torch.no_grad():
        for p in parts.student.parameters():
            p.add_(0.3)  # so that a wrong rho shows
    before = [p.clone().double() for p in parts.teacher.module.parameters()]
    parts.step(labelled(micro({"a": HALF_SECOND}, [[1, 2]]), samples=samples))
    rho = 0.5 ** (samples / 16_000 / 10.0)
    for old, new, student in zip(
        before, parts.teacher.module.parameters(), parts.student.parameters(), strict=True
    ):
        expected = rho * old + (1.0 - rho) * student.detach().double()
        torch.testing.assert_close(new.double(), expected, rtol=1e-5, atol=1e-6)
    assert parts.teacher.audio == samples / 16_000


# Clipping.


def test_clipping_bounds_the_gradient_that_is_applied():
    batch = labelled(micro({"a": 8000, "b": 6000}, [[1, 2], [3]]))
    free = Parts()
    before = free.weights()
    raw = free.step(batch).gradient_norm
    gradient = free.applied(before)
    assert norm(gradient) == pytest.approx(raw, rel=1e-4)
    clipped = Parts(clip_norm=raw / 4)
    result = clipped.step(batch)
    assert result.taken
    assert result.gradient_norm == pytest.approx(raw)
    assert norm(clipped.applied(before)) == pytest.approx(raw / 4, rel=1e-4)
    close(clipped.applied(before), [g / 4 for g in gradient])


def test_a_gradient_below_the_threshold_is_left_as_it_is():
    batch = labelled(micro({"a": 8000}, [[1, 2]]))
    free, clipped = Parts(), Parts(clip_norm=1e6)
    free.step(batch)
    clipped.step(batch)
    assert same(clipped.state(), free.state())


# Pseudo-labels.


def test_the_student_learns_the_labels_that_the_strategy_gave():
    batch = micro({"a": 9000, "b": 7000}, [[5, 5, 5], [5]])  # the true targets, which are not to be used
    given = {"a": ([1, 2, 3], 0.9), "b": ([4, 4], 0.5)}
    strategy = Given(given)
    parts = Parts(strategy)
    losses = [loss_alone(parts.student, batch, i, given[n][0]) for i, n in enumerate("ab")]
    expected = sum(losses) / 2
    result = parts.step(unlabelled(batch))
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert (result.utterances, result.tokens) == (2, 5)
    assert result.confidence == pytest.approx(0.7)
    assert result.nonempty == 1.0
    assert strategy.seen[0].seconds == [9000 / 16_000, 7000 / 16_000]


def test_every_rejection_is_counted_with_its_reason():
    """Half a second each: 4 tokens are 8 a second."""
    answers = {
        "a": ([1, 2, 3, 4], 0.9),
        "b": ([], 1.0),
        "c": ([1, 2, 3, 4], 0.1),
        "d": ([1], 0.9),
        "e": ([1, 2] * 5, 0.9),
        "f": ([1] * 9, 0.9),  # 8 repeats: 17 frames, and there are 16
        "g": ([], 0.1),
    }
    strategy = Given(answers)
    parts = Parts(strategy, min_confidence=0.5, min_tokens_per_second=4.0, max_tokens_per_second=18.0)
    batch = micro(dict.fromkeys("abcd", HALF_SECOND), None)
    rest = micro(dict.fromkeys("efg", HALF_SECOND), None)
    expected = loss_alone(parts.student, batch, 0, [1, 2, 3, 4])
    step = unlabelled(batch, rest)
    step.skipped = [Skipped("x", "x.flac", "x.flac: not decodable", 0)]
    result = parts.step(step)
    reasons = {"unalignable": 1, "empty": 2, "low_confidence": 1, "too_few_tokens": 1, "too_many_tokens": 1}
    assert result.dropped == reasons | {"undecodable": 1}
    assert set(result.dropped) == set(REASONS)
    assert result.utterances == 1
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    # Of all that the strategy labelled, not of what passed.
    assert result.confidence == pytest.approx(sum(sure for _, sure in answers.values()) / 7)
    assert result.nonempty == pytest.approx(5 / 7)


def test_masks_reach_the_student_and_nobody_else():
    batch = micro({"a": 9000, "b": 6000}, None)
    frames = FEATURES.frames(batch.samples_B)
    batch.keep_BF = torch.ones(2, BANDS)
    batch.keep_BF[0, 3:5] = 0.0
    batch.keep_BT = torch.ones(2, int(frames.max()))
    batch.keep_BT[1, 10:20] = 0.0
    clean_BTF, _ = FEATURES(batch.waveforms_BN, batch.samples_B)
    strategy = Given({"a": ([1], 1.0), "b": ([2], 1.0)})
    parts = Parts(strategy)
    heard: list[Tensor] = []
    parts.student.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].clone()))
    parts.step(unlabelled(batch))
    (shown,) = strategy.seen
    assert torch.equal(shown.features, clean_BTF)
    assert torch.equal(shown.lengths, frames)
    (masked_BTF,) = heard
    assert torch.equal(masked_BTF, clean_BTF * batch.keep_BF[:, None, :] * batch.keep_BT[:, :, None])
    assert not masked_BTF[0, :, 3:5].any()
    assert not masked_BTF[1, 10:20].any()
    assert clean_BTF[0, :, 3:5].all()
    assert clean_BTF[1, 10:20].all()


def test_the_teacher_hears_clean_audio_in_eval_mode():
    batch = micro({"a": 9000}, None)
    batch.keep_BF, batch.keep_BT = (
        torch.zeros(1, BANDS),
        torch.zeros(1, int(FEATURES.frames(batch.samples_B))),
    )
    parts = Parts(TeacherLabels)
    parts.student.train()
    heard: list[tuple[Tensor, bool]] = []
    parts.teacher.module.register_forward_pre_hook(lambda m, inputs: heard.append((inputs[0], m.training)))
    result = parts.step(unlabelled(batch))
    ((features_BTF, training),) = heard
    assert torch.equal(features_BTF, FEATURES(batch.waveforms_BN, batch.samples_B)[0])
    assert not training
    assert result.confidence is not None
    assert 1 / VOCABULARY <= result.confidence <= 1.0


def test_masks_of_dropped_utterances_go_with_them():
    """What stays keeps its own mask when its neighbour is dropped."""
    pair = micro({"a": HALF_SECOND, "b": HALF_SECOND}, [[1, 2] * FRAMES, [3]])
    keep = torch.ones(2, BANDS)
    keep[0, :6] = 0.0
    keep[1, 6:] = 0.0
    pair.keep_BF, pair.keep_BT = keep, torch.ones(2, 48)
    alone = micro({"b": HALF_SECOND}, [[3]])
    alone.keep_BF, alone.keep_BT = keep[1:], torch.ones(1, 48)
    assert Parts().step(labelled(pair)).loss == pytest.approx(Parts().step(labelled(alone)).loss, rel=1e-5)


def test_perturbed_waveforms_reach_the_student_and_nobody_else():
    """Half as long: what was alignable to the teacher's frames is not to the student's."""
    batch = micro({"a": 9000, "b": 9000}, None)
    student = micro({"c": 4500, "d": 4400}, None)
    batch.student_BN, batch.student_samples_B = student.waveforms_BN, student.samples_B
    available = int(Parts().student.output_lengths(FEATURES.frames(student.samples_B))[1])
    strategy = Given({"a": ([1], 1.0), "b": ([1, 2] * available, 1.0)})
    parts = Parts(strategy)
    expected = loss_alone(parts.student, student, 0, [1])
    heard: list[tuple[Tensor, Tensor]] = []
    parts.student.register_forward_pre_hook(lambda module, inputs: heard.append(inputs))
    result = parts.step(unlabelled(batch))
    (shown,) = strategy.seen
    assert torch.equal(shown.features, FEATURES(batch.waveforms_BN, batch.samples_B)[0])
    assert shown.seconds == [9000 / 16_000] * 2
    ((features_BTF, lengths_B),) = heard
    student_BTF, frames = FEATURES(student.waveforms_BN, student.samples_B)
    assert torch.equal(features_BTF, student_BTF[:1])
    assert torch.equal(lengths_B, frames[:1])
    assert result.dropped == {"unalignable": 1}
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_step_of_which_nothing_could_be_decoded_moves_nothing():
    parts = Parts()
    before = parts.state()
    batch = labelled(samples=9000)
    batch.skipped = [Skipped("x", "x.flac", "x.flac: not decodable", 0)]
    result = parts.step(batch)
    assert not result.taken
    assert result.dropped == {"undecodable": 1}
    assert str(parts.state()) == str(before)
