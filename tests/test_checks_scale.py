"""The table of what another batch changes: true numbers, true words, and warnings whose advice helps."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scale_tables import BATCH, run_config
from typer.testing import CliRunner

from asr_emapl.checks.scale import ScaleRow, scale_table
from asr_emapl.cli import app
from asr_emapl.corpora.selection import TrainingAudio, missing_manifests
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.loader import DataConfig
from asr_emapl.errors import UserError
from asr_emapl.hyperparameters import OptimizerConfig, ScheduleConfig, TeacherConfig
from asr_emapl.pseudo_labels.config import PseudoLabelConfig


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
        record = {"id": name, "audio": f"{name}.flac", "duration": 5.0, "text": "A"}
        lines = [json.dumps(record | {"id": f"{name}{i}"}) for i in range(round(720 * hours))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    data = DataConfig(labelled=[f"{tmp_path}/labelled.jsonl"], unlabelled=[f"{tmp_path}/unlabelled.jsonl"])
    config = run_config(data=data)
    assert TrainingAudio.select(config, 1).hours == 7.5
    supervised = replace(config, pseudo_labels=PseudoLabelConfig(strategy="none"))
    assert TrainingAudio.select(supervised, 1).hours == 2.0
    assert not missing_manifests(config)
    elsewhere = replace(data, unlabelled=["nowhere.jsonl", "s3://bucket/x.jsonl"])
    assert missing_manifests(replace(config, data=elsewhere)) == ["nowhere.jsonl"]
    assert missing_manifests(replace(supervised, data=DataConfig())) == ["data.labelled (empty)"]
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


# Errors.


@pytest.mark.parametrize("batch_seconds", [0.0, -5.0, math.nan, math.inf])
def test_an_impossible_batch_is_a_user_error(batch_seconds):
    with pytest.raises(UserError, match="the batch size must be a positive number of seconds"):
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


NOMINAL = (
    "kappa is nominal, of padded seconds, because manifests are missing: data.labelled (empty), "
    "data.unlabelled (empty); relative paths start from the current folder, unless the config sets root"
)


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
    assert json.loads(result.stdout) == {
        "rows": [vars(row) for row in rows],
        "warnings": [*warnings, NOMINAL],
    }


def test_the_command_prints_a_table_of_unbroken_lines(command):
    result = command()
    assert result.exit_code == 0
    head, *lines, warning = result.stdout.splitlines()
    assert warning == f"warning: {NOMINAL}"
    assert head.split() == ["reference", "scaled", "rule"]
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    rows, _ = scale_table(run_config(), 400.0)
    assert cells == [[row.name, row.reference, row.scaled, row.rule] for row in rows]


def test_the_command_prints_warnings_a_line_each(command):
    result = command(batch="2000")
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: " + warning for warning in [*scale_table(run_config(), 2000.0)[1], NOMINAL]]
    assert len(warnings) == 2


def test_the_command_takes_overrides(command):
    result = command("--json", "optimizer.name=sgd", "teacher.rho=0.999")
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["lr"]["rule"] == "kappa lr"
    assert rows["teacher rho per step"]["scaled"] == "0.996006"


@pytest.mark.parametrize(
    ("arguments", "batch", "message"),
    [
        (("teacher.rho=null",), "400", r"teacher: set one of teacher\.half_life_hours, teacher\.rho"),
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
