"""Serial steps and time of a batch schedule against the reference batch."""

from __future__ import annotations

import json

import pytest
from support.scale_tables import run_config
from typer.testing import CliRunner

from asr_emapl.checks.wall_clock import StepTimes, wall_clock
from asr_emapl.cli import app
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.errors import UserError
from asr_emapl.planning import nominal_step_audio
from asr_emapl.scaling import BatchSchedule, StepAudio


def account(seconds, *changes, hours=1000.0, times=(), reference=100.0):
    steps = StepAudio.nominal(BatchSchedule(seconds, changes), reference)
    return wall_clock(steps, hours, StepTimes(times))


def test_the_paper_takes_a_sixth_of_the_steps():
    """BYOL at a batch of 24,576 instead of 4,096 (Busbridge et al. 2023): 6 times fewer serial steps."""
    config = run_config(batch=BatchConfig(seconds=24_576.0, reference_seconds=4_096.0))
    found = wall_clock(nominal_step_audio(config, world_size=1), config.hours)
    assert found.fewer_steps == found.speedup == pytest.approx(6.0)
    assert found.is_idealised
    assert "6 times fewer" in found.summary()
    # From a fifth of the run on only: the part before it takes as many steps as ever.
    later = account(4_096.0, (200.0, 24_576.0), reference=4_096.0)
    assert later.fewer_steps == pytest.approx(1.0 / (0.2 + 0.8 / 6.0))


def test_stages_add_up_and_end_with_the_run():
    found = account(100.0, (250.0, 200.0), (500.0, 400.0), (2000.0, 800.0))
    assert [(s.from_hours, s.to_hours, s.batch_seconds) for s in found.stages] == [
        (0.0, 250.0, 100.0),
        (250.0, 500.0, 200.0),
        (500.0, 1000.0, 400.0),
    ]
    assert [s.kappa for s in found.stages] == [1.0, 2.0, 4.0]
    assert [s.steps for s in found.stages] == [9000.0, 4500.0, 4500.0]
    assert (found.steps, found.reference.steps) == (18_000.0, 36_000.0)


def test_padding_is_no_progress():
    steps = StepAudio(BatchSchedule(200.0), 100.0, {100.0: 90.0, 200.0: 150.0})
    found = wall_clock(steps, 1.0)
    assert found.fewer_steps == pytest.approx(150.0 / 90.0)
    assert found.stages[0].steps == 3600.0 / 150.0


def test_measured_times_replace_the_ideal():
    found = account(100.0, (500.0, 400.0), times=((100.0, 200.0), (400.0, 500.0)))
    assert [s.source for s in (*found.stages, found.reference)] == ["measured"] * 3
    assert not found.is_idealised
    assert found.speedup == pytest.approx(36_000 * 200 / (18_000 * 200 + 4_500 * 500))
    assert "idealised" not in found.summary()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (100.0, (200.0, "measured")),
        (250.0, (350.0, "interpolated")),
        (50.0, (200.0, "idealised: as at 100 s")),
        (800.0, (500.0, "idealised: as at 400 s")),
    ],
)
def test_the_time_of_a_batch_without_a_measurement(batch, expected):
    assert StepTimes(((100.0, 200.0), (400.0, 500.0))).of(batch) == expected


@pytest.mark.parametrize("text", ["60", "60=", "=5", "60=fast", "0=5", "60=-1", "60=nan", "inf=5"])
def test_times_that_are_none(text):
    with pytest.raises(UserError, match="write SECONDS=MS"):
        StepTimes.parse([text])


def test_times_are_sorted_and_given_once():
    assert StepTimes.parse(["400=500", "100=200.5"]).milliseconds == ((100.0, 200.5), (400.0, 500.0))
    with pytest.raises(UserError, match="60 s is given twice"):
        StepTimes.parse(["60=1", "60.0=2"])


@pytest.fixture
def call(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("hours: 10\nbatch: {seconds: 60, reference_seconds: 60, progressive: [[5, 240]]}\n")

    def call(*arguments):
        return CliRunner().invoke(app, ["scale", "--config", str(path), *arguments])

    return call


OWN = ("teacher.half_life_hours=1", "pseudo_labels.strategy=none")


def test_the_command_shows_the_batches_of_the_config(call):
    result = call("--wall-clock", "--json", *OWN)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [stage["steps"] for stage in found["stages"]] == [300.0, 75.0]
    assert found["fewer_steps"] == 1.6
    assert found["is_idealised"] is True
    assert "nominal" in found["warnings"][0]
    text = call("--wall-clock", "--step-time", "60=100", "--step-time", "240=200", *OWN).stdout
    assert "375 serial steps instead of 600: 1.6 times fewer; 1.333 times as fast" in text.replace("\n", " ")
    assert "idealised" not in text
    assert "375 serial steps" in call("--wall-clock", *OWN).stdout
    assert "(idealised:" in call("--wall-clock", *OWN).stdout


def test_the_command_takes_a_batch_of_its_own(call):
    found = json.loads(call("--wall-clock", "--json", "--batch-seconds", "360", *OWN).stdout)
    assert found["fewer_steps"] == pytest.approx(6.0)


@pytest.mark.parametrize("arguments", [(), ("--batch-seconds", "60", "--step-time", "60=1")])
def test_options_that_do_not_go_together(call, arguments):
    result = call(*arguments, *OWN)
    assert isinstance(result.exception, UserError)
    assert "--wall-clock" in str(result.exception)
