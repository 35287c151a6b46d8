"""The table of what another batch changes: true numbers, true words, and warnings whose advice helps."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from asr_emapl.checks.scale import ScaleRow, epoch_hours, scale_table
from asr_emapl.cli import app
from asr_emapl.config import RunConfig
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.loader import DataConfig
from asr_emapl.errors import UserError
from asr_emapl.hyperparameters import OptimizerConfig, ScheduleConfig, TeacherConfig
from asr_emapl.pseudo_labels.config import PseudoLabelConfig

BATCH = st.floats(0.5, 50_000.0)


def run_config(**changes):
    """100 s a step, rho 0.9999: well inside the range of every rule at moderate kappa."""
    config = RunConfig(
        hours=1000.0,
        # What the config's own batch is does not matter here.
        batch=BatchConfig(seconds=7.0, reference_seconds=100.0),
        optimizer=OptimizerConfig(weight_decay=0.01, betas=[0.99, 0.999]),
        schedule=ScheduleConfig(warmup_hours=20.0),
        teacher=TeacherConfig(rho=0.9999),
        pseudo_labels=PseudoLabelConfig(strategy="ema", start_hours=50.0),
    )
    return replace(config, **changes)


def table(config, batch_seconds):
    rows, warnings = scale_table(config, batch_seconds)
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}, warnings


def numbers(text):
    return [float(part.replace(",", "")) for part in text.split(", ")]


# The table.


def test_the_whole_table_at_four_times_the_batch():
    rows, warnings = scale_table(run_config(), 400.0)
    assert rows == [
        ScaleRow("batch (padded s)", "100", "400", "given"),
        ScaleRow("kappa", "1", "4", "nominal: batch / reference batch, padded"),
        ScaleRow("teacher rho per step", "0.9999", "0.9996001", "rho ** kappa"),
        ScaleRow("teacher half-life (h of audio)", "192.5", "192.5", "unchanged: counted in audio"),
        ScaleRow("teacher half-life (steps)", "6,931", "1,733", "same audio: / kappa"),
        ScaleRow("lr", "0.001", "0.002", "sqrt(kappa) lr"),
        ScaleRow("betas", "0.99, 0.999", "0.9606, 0.996006", "beta ** kappa"),
        ScaleRow("eps", "1e-08", "5e-09", "eps / sqrt(kappa)"),
        ScaleRow("weight decay", "0.01", "0.02", "sqrt(kappa) wd, so that lr wd grows by kappa"),
        ScaleRow("clip norm", "1", "0.5", "C / sqrt(kappa)"),
        ScaleRow("steps in the whole run", "36,000", "9,000", "same 1000 h of audio: / kappa"),
        ScaleRow("warm-up steps", "720", "180", "same 20 h of audio: / kappa"),
        ScaleRow("steps before pseudo-labels", "1,800", "450", "same 50 h of audio: / kappa"),
    ]
    assert warnings == []


WORDS = {
    "given": lambda x, k: x * k,
    "kappa lr": lambda x, k: x * k,
    "nominal: batch / reference batch, padded": lambda x, k: x * k,
    "sqrt(kappa) lr": lambda x, k: x * math.sqrt(k),
    "sqrt(kappa) wd, so that lr wd grows by kappa": lambda x, k: x * math.sqrt(k),
    "eps / sqrt(kappa)": lambda x, k: x / math.sqrt(k),
    "C / sqrt(kappa)": lambda x, k: x / math.sqrt(k),
    "beta ** kappa": lambda x, k: x**k,
    "rho ** kappa": lambda x, k: x**k,
    "1 - kappa (1 - beta)": lambda x, k: 1.0 - k * (1.0 - x),
    "kappa momentum_decay: it counts steps": lambda x, k: x * k,
    "eps / kappa": lambda x, k: x / k,
    "a / kappa ** 2": lambda x, k: x / k**2,
}


def as_the_words_say(row, x, kappa):
    if row.rule.startswith("unchanged"):
        return x
    if row.rule.endswith(": / kappa"):
        return x / kappa
    return WORDS[row.rule](x, kappa)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "nadam", "radam", "adagrad"])
@pytest.mark.parametrize("form", ["power", "linear"])
@pytest.mark.parametrize("rule", ["full", "none"])
@pytest.mark.parametrize("kappa", [0.25, 1.0, 2.0, 9.0])
def test_the_numbers_do_what_the_words_say(name, form, rule, kappa):
    optimizer = OptimizerConfig(
        name=name, lr=0.5, betas=[0.95, 0.98], weight_decay=0.25, clip_norm=3.0, rule=rule, beta_form=form
    )
    rows, _ = scale_table(run_config(optimizer=optimizer), 100.0 * kappa)
    for row in rows:
        expected = [as_the_words_say(row, x, kappa) for x in numbers(row.reference)]
        # Both columns are rounded for reading.
        assert numbers(row.scaled) == pytest.approx(expected, rel=2e-3), row.name


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "nadam", "radam", "adagrad"])
def test_the_table_tells_all_of_the_optimizer(name):
    optimizer = OptimizerConfig(name=name)
    rows, _ = table(run_config(optimizer=optimizer), 200.0)
    assert {key.replace("_", " ") for key in optimizer.reference().group} <= rows.keys()
    assert ("betas" in rows) == (name not in ("sgd", "adagrad"))


def test_a_noise_share_is_told_where_it_counts():
    rows, _ = table(run_config(optimizer=OptimizerConfig(noise_share=0.5, weight_decay=0.1)), 400.0)
    told = {name for name, row in rows.items() if "noise share of 0.5" in row.rule}
    assert told == {"lr", "eps", "weight decay", "clip norm"}
    assert numbers(rows["lr"].scaled)[0] == pytest.approx(1e-3 * 4 / (4 / 2.5) ** 0.5, rel=1e-3)
    sgd, _ = table(run_config(optimizer=OptimizerConfig(name="sgd", noise_share=0.5)), 400.0)
    assert [name for name, row in sgd.items() if "noise share" in row.rule] == ["clip norm"]


def test_rule_none_keeps_the_optimizer_but_not_the_teacher():
    rows, _ = table(run_config(optimizer=OptimizerConfig(rule="none")), 800.0)
    for name in ("lr", "betas", "eps", "weight decay", "clip norm"):
        assert rows[name].reference == rows[name].scaled
        assert rows[name].rule == "unchanged: optimizer.rule is none"
    assert rows["teacher rho per step"].scaled == "0.9992003"


@given(st.one_of(st.just(100.0), BATCH))
@settings(max_examples=50)
def test_the_reference_column_does_not_depend_on_the_batch(batch_seconds):
    at_reference, _ = scale_table(run_config(), 100.0)
    rows, _ = scale_table(run_config(), batch_seconds)
    assert [(r.name, r.reference, r.rule) for r in rows] == [
        (r.name, r.reference, r.rule) for r in at_reference
    ]
    assert all(row.reference == row.scaled for row in at_reference)


def test_epochs_where_the_manifests_are_there(tmp_path):
    for name, hours in (("labelled", 2), ("unlabelled", 5.5)):
        record = {"id": name, "audio": f"{name}.flac", "duration": 1800.0, "text": "A"}
        lines = [json.dumps(record | {"id": f"{name}{i}"}) for i in range(round(2 * hours))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    data = DataConfig(labelled=[f"{tmp_path}/labelled.jsonl"], unlabelled=[f"{tmp_path}/unlabelled.jsonl"])
    config = run_config(data=data)
    assert epoch_hours(config) == 7.5
    assert epoch_hours(replace(config, pseudo_labels=PseudoLabelConfig(strategy="none"))) == 2.0
    assert epoch_hours(replace(config, data=replace(data, unlabelled=["nowhere.jsonl"]))) == 0.0
    rows = {row.name: row for row in scale_table(config, 400.0, epoch_hours=7.5)[0]}
    row = rows["teacher half-life (epochs)"]
    assert row.reference == row.scaled == "25.67"
    assert row.rule == "unchanged: passes over 7.5 h"
    assert "teacher half-life (epochs)" not in table(config, 400.0)[0]


def test_the_configs_own_batch_plays_no_part():
    for seconds in ("auto", 3000, "to be decided"):
        own = run_config(batch=BatchConfig(seconds=seconds, reference_seconds=100.0))
        assert scale_table(own, 400.0) == scale_table(run_config(), 400.0)


@given(st.floats(0.2, 1e5), BATCH)
@settings(max_examples=50)
def test_the_half_life_in_audio_stays(hours, batch_seconds):
    rows, _ = table(run_config(teacher=TeacherConfig(half_life_hours=hours)), batch_seconds)
    row = rows["teacher half-life (h of audio)"]
    assert row.reference == row.scaled
    assert float(row.scaled) == pytest.approx(hours, rel=1e-3)


@given(st.floats(1e-9, 0.4), BATCH)
def test_rho_is_shown_with_four_digits_of_what_it_lets_through(share, batch_seconds):
    rows, _ = table(run_config(teacher=TeacherConfig(rho=1.0 - share)), batch_seconds)
    kappa = batch_seconds / 100.0
    expected = -math.expm1(kappa * math.log1p(-share))
    shown = 1.0 - float(rows["teacher rho per step"].scaled)
    assert shown == pytest.approx(expected, rel=1e-3, abs=1e-14)


def test_few_steps_keep_their_fraction_and_many_their_separators():
    rows, _ = table(run_config(hours=0.2, schedule=ScheduleConfig(warmup_hours=0.05)), 100.0)
    assert (rows["steps in the whole run"].scaled, rows["warm-up steps"].scaled) == ("7.2", "1.8")
    rows, _ = table(run_config(hours=1e6), 10.0)
    assert rows["steps in the whole run"].scaled == "360,000,000"


def test_a_large_batch_is_not_written_as_a_power_of_ten():
    rows, _ = table(run_config(), 37_120.0)
    assert rows["batch (padded s)"].scaled == "37120"
    assert rows["kappa"].scaled == "371.2"


def test_a_teacher_that_never_moves():
    rows, warnings = table(run_config(teacher=TeacherConfig(rho=1.0)), 800.0)
    assert rows["teacher rho per step"].scaled == "1"
    assert rows["teacher half-life (steps)"].scaled == "inf"
    assert warnings == []


def test_without_clipping_the_row_says_so():
    rows, _ = table(run_config(optimizer=OptimizerConfig(clip_norm=None)), 400.0)
    assert rows["clip norm"] == ScaleRow("clip norm", "null", "null", "no clipping")


def test_a_supervised_run_has_no_start_of_pseudo_labels():
    rows, _ = table(run_config(pseudo_labels=PseudoLabelConfig(strategy="none", start_hours=3.0)), 400.0)
    assert "steps before pseudo-labels" not in rows


# Warnings.


def only(config, batch_seconds, start):
    """The warnings that begin so; None if there is none."""
    found = [w for w in scale_table(config, batch_seconds)[1] if w.startswith(start)]
    assert len(found) < 2
    return found[0] if found else None


def advised_batch(warning):
    found = re.search(r"stay at or below ([\d.]+) s", warning)
    return float(found[1]) if found else None


def with_advised_teacher(config, warning):
    """Each form of the advice in a config."""
    hours, rho = re.search(r"half_life_hours to ([\d.]+) \(teacher\.rho ([\d.]+)\)", warning).groups()
    return [
        replace(config, teacher=TeacherConfig(half_life_hours=float(hours))),
        replace(config, teacher=TeacherConfig(rho=float(rho))),
    ]


TEACHER = st.one_of(
    st.floats(0.3, 0.999999).map(lambda rho: TeacherConfig(rho=rho)),
    st.floats(0.02, 2000.0).map(lambda hours: TeacherConfig(half_life_hours=hours)),
)


def test_beyond_first_order_by_its_numbers():
    config = run_config(teacher=TeacherConfig(rho=0.99))
    assert only(config, 1000.0, "kappa (1 - rho)") is None
    warning = only(config, 2000.0, "kappa (1 - rho)")
    assert warning.startswith("kappa (1 - rho) is 0.2, above 0.1:")
    # kappa rho^kappa / (1 - rho^kappa) = 89.8 base steps against rho / (1 - rho) = 99.
    assert "lag of the teacher behind the student is 9.3% shorter than" in warning
    assert (
        "stay at or below 1000 s, or lengthen teacher.half_life_hours to 3.842 (teacher.rho 0.995)" in warning
    )


def test_a_reference_that_is_beyond_it_is_no_matter_until_something_is_scaled():
    config = run_config(teacher=TeacherConfig(rho=0.5))
    assert only(config, 100.0, "kappa (1 - rho)") is None
    smaller = only(config, 50.0, "kappa (1 - rho)")
    assert "longer than at the reference batch" in smaller
    # No larger batch than the reference would help: it is the memory that is too short.
    assert advised_batch(smaller) is None


@given(TEACHER, BATCH)
@settings(max_examples=100)
def test_the_first_warning_comes_where_it_says_and_its_advice_ends_it(teacher, batch_seconds):
    config = run_config(teacher=teacher)
    rho = 2.0 ** (-100.0 / teacher.half_life_seconds(100.0))
    product = batch_seconds / 100.0 * (1.0 - rho)
    warning = only(config, batch_seconds, "kappa (1 - rho)")
    if abs(product - 0.1) > 1e-6 and batch_seconds != 100.0:
        assert (warning is not None) == (product > 0.1)
    if warning is not None:
        for advised in with_advised_teacher(config, warning):
            assert only(advised, batch_seconds, "kappa (1 - rho)") is None
        if batch := advised_batch(warning):
            assert only(config, batch, "kappa (1 - rho)") is None
            assert batch >= 0.998 * 10.0 / (1.0 - rho)


def test_a_short_half_life_by_its_numbers():
    warning = only(run_config(), 800.0, "the half-life of the teacher")
    assert "is 866 updates (6,931 at the reference batch), fewer than 1,000" in warning
    assert "Kaizen (Manohar et al. 2021) reports" in warning
    assert "for other data and models" in warning
    assert "stay at or below 693.1 s" in warning
    assert only(run_config(), 690.0, "the half-life of the teacher") is None


@pytest.mark.parametrize("strategy", ["none", "oracle"])
def test_labels_that_do_not_come_from_the_teacher_do_not_mind_its_half_life(strategy):
    config = run_config(pseudo_labels=PseudoLabelConfig(strategy=strategy))
    assert only(config, 20_000.0, "the half-life of the teacher") is None


@given(TEACHER, BATCH)
@settings(max_examples=100)
def test_the_second_warning_comes_where_it_says_and_its_advice_ends_it(teacher, batch_seconds):
    config = run_config(teacher=teacher)
    updates = teacher.half_life_seconds(100.0) / batch_seconds
    warning = only(config, batch_seconds, "the half-life of the teacher")
    if abs(updates - 1000.0) > 1e-3:
        assert (warning is not None) == (updates < 1000.0)
    if warning is not None:
        for advised in with_advised_teacher(config, warning):
            assert only(advised, batch_seconds, "the half-life of the teacher") is None
        batch = advised_batch(warning)
        # A smaller batch is advised where the reference batch would do, and only there.
        assert (batch is not None) == (updates * batch_seconds >= 1000.0 * 100.0)
        if batch is not None:
            assert only(config, batch, "the half-life of the teacher") is None


def test_small_betas_by_their_numbers():
    config = run_config(optimizer=OptimizerConfig(betas=[0.9, 0.98]))
    assert only(config, 657.0, "betas") is None
    warning = only(config, 800.0, "betas[0]")
    assert warning.startswith("betas[0] falls from 0.9 to 0.4305, below 0.5:")
    # ln 0.5 / ln 0.9 = 6.5788
    assert "stay at or below 657.8 s" in warning
    assert only(config, 800.0, "betas[1]") is None
    assert only(config, 4000.0, "betas[1] falls from 0.98 to 0.4457") is not None


@given(st.floats(0.5, 0.9999), st.sampled_from(["power", "linear"]), st.floats(0.05, 200.0))
@settings(max_examples=100)
def test_the_beta_warning_comes_where_it_says_and_its_advice_ends_it(beta, form, kappa):
    config = run_config(optimizer=OptimizerConfig(betas=[beta, 1.0 - 1e-6], beta_form=form))
    scaled = beta**kappa if form == "power" else 1.0 - kappa * (1.0 - beta)
    if scaled < 1e-6 and form == "linear":
        return
    warning = only(config, 100.0 * kappa, "betas")
    if abs(scaled - 0.5) > 1e-6:
        assert (warning is not None) == (scaled < 0.5)
    if warning is not None:
        assert only(config, advised_batch(warning), "betas") is None


def test_a_beta_that_was_small_already_did_not_fall():
    config = run_config(optimizer=OptimizerConfig(betas=[0.3, 0.999]))
    assert only(config, 800.0, "betas") is None


@pytest.mark.parametrize("optimizer", [OptimizerConfig(name="sgd"), OptimizerConfig(rule="none")])
def test_betas_that_are_not_scaled_are_no_matter(optimizer):
    assert only(run_config(optimizer=optimizer), 8000.0, "betas") is None


def test_a_short_warm_up_by_its_numbers():
    config = run_config(schedule=ScheduleConfig(warmup_hours=2.0))
    warning = only(config, 1000.0, "warm-up")
    assert warning.startswith("warm-up is 7.2 steps at this batch, fewer than 10:")
    assert "lengthen schedule.warmup_hours to 2.778, or set it to 0" in warning
    assert only(config, 720.0, "warm-up") is None
    assert only(run_config(schedule=ScheduleConfig(warmup_hours=0.0)), 1e6, "warm-up") is None


@given(st.floats(0.001, 100.0), BATCH)
def test_the_warm_up_warning_comes_where_it_says_and_its_advice_ends_it(hours, batch_seconds):
    config = run_config(schedule=ScheduleConfig(warmup_hours=hours))
    steps = hours * 3600.0 / batch_seconds
    warning = only(config, batch_seconds, "warm-up")
    if abs(steps - 10.0) > 1e-6:
        assert (warning is not None) == (steps < 10.0)
    if warning is not None:
        advised = float(re.search(r"warmup_hours to ([\d.e-]+),", warning)[1])
        better = run_config(schedule=ScheduleConfig(warmup_hours=advised))
        assert only(better, batch_seconds, "warm-up") is None


# Errors.


@pytest.mark.parametrize("batch_seconds", [0.0, -5.0, math.nan, math.inf])
def test_an_impossible_batch_is_a_user_error(batch_seconds):
    with pytest.raises(UserError, match="the batch must be a positive number of seconds"):
        scale_table(run_config(), batch_seconds)


@pytest.mark.parametrize(
    "teacher",
    [
        TeacherConfig(),
        TeacherConfig(half_life_hours=1.0, rho=0.9),
        TeacherConfig(rho=0.0),
        TeacherConfig(half_life_hours=-1.0),
    ],
)
def test_an_impossible_teacher_is_a_user_error(teacher):
    with pytest.raises(UserError, match="teacher: "):
        scale_table(run_config(teacher=teacher), 60.0)


def test_the_linear_form_outside_its_range_is_a_user_error_that_names_the_largest_kappa():
    config = run_config(optimizer=OptimizerConfig(betas=[0.9, 0.999], beta_form="linear"))
    with pytest.raises(UserError, match="kappa must stay below 10, or use the power form"):
        scale_table(config, 1200.0)


# The command.

YAML = """
hours: 1000
batch: {seconds: 100, reference_seconds: 100}
optimizer: {betas: [0.99, 0.999], weight_decay: 0.01}
schedule: {warmup_hours: 20}
teacher: {rho: 0.9999}
pseudo_labels: {strategy: ema, start_hours: 50}
"""


@pytest.fixture
def command(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(YAML, encoding="utf-8")

    def call(*arguments, batch="400"):
        return CliRunner().invoke(app, ["scale", "--config", str(path), "--batch-seconds", batch, *arguments])

    return call


def test_the_command_prints_json(command):
    result = command("--json")
    assert result.exit_code == 0
    rows, warnings = scale_table(run_config(), 400.0)
    assert json.loads(result.stdout) == {"rows": [vars(row) for row in rows], "warnings": warnings}


def test_the_command_prints_a_table_of_unbroken_lines(command):
    result = command()
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["reference", "scaled", "rule"]
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    rows, _ = scale_table(run_config(), 400.0)
    assert cells == [[row.name, row.reference, row.scaled, row.rule] for row in rows]


def test_the_command_prints_warnings_a_line_each(command):
    result = command(batch="2000")
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: " + warning for warning in scale_table(run_config(), 2000.0)[1]]
    assert len(warnings) == 1


def test_the_command_takes_overrides(command):
    result = command("--json", "optimizer.name=sgd", "teacher.rho=0.999")
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["lr"]["rule"] == "kappa lr"
    assert rows["teacher rho per step"]["scaled"] == "0.996006"


@pytest.mark.parametrize(
    ("arguments", "batch", "message"),
    [
        (("teacher.rho=null",), "400", r"teacher: give one of teacher\.half_life_hours and teacher\.rho"),
        (("optimizer.lr=fast",), "400", r"optimizer\.lr"),
        (("optimizer.beta_form=linear",), "20000", "kappa must stay below 100"),
    ],
)
def test_what_the_user_can_mend_ends_the_command_as_a_user_error(command, arguments, batch, message):
    result = command(*arguments, batch=batch)
    assert result.exit_code != 0
    assert isinstance(result.exception, UserError)
    assert re.search(message, str(result.exception))


@pytest.mark.parametrize("batch", ["many", "0", "nan"])
def test_a_batch_that_is_no_positive_number_is_a_usage_error(command, batch):
    result = command(batch=batch)
    assert result.exit_code == 2
    assert "--batch-seconds" in result.stderr
