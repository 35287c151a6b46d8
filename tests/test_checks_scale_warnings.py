"""Warnings of asr-emapl scale where the rules leave their range."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scale_tables import BATCH, run_config

from asr_emapl.checks.scale import scale_table
from asr_emapl.checks.starter import Hardware, Starter, StarterData
from asr_emapl.config import load_config
from asr_emapl.hyperparameters import OptimizerConfig, ScheduleConfig, TeacherConfig
from asr_emapl.pseudo_labels.config import PseudoLabelConfig

RECIPES = Path(__file__).parent.parent / "recipes"


def only(config, batch_seconds, start):
    """The warnings that begin so; None if there is none."""
    found = [w for w in scale_table(config, batch_seconds)[1] if w.startswith(start)]
    assert len(found) < 2
    return found[0] if found else None


def advised_batch(warning):
    found = re.search(r"stay at or below ([\d.]+) s", warning)
    return float(found[1]) if found else None


def with_advised_teacher(config, warning):
    """Each form of the advice in a config; none if a half-life for it would be too long for the run."""
    found = re.search(r"half_life_hours to ([\d.]+) \(teacher\.rho ([\d.]+)\)", warning)
    if found is None:
        return []
    hours, rho = found.groups()
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
    assert "lag of the teacher behind the student is 9.3 % shorter than" in warning
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
        at_reference = updates * batch_seconds / 100.0
        if abs(at_reference - 2000.0) > 1e-3:
            assert (warning is not None) == (updates < 1000.0 and at_reference > 2000.0)
    if warning is not None:
        for advised in with_advised_teacher(config, warning):
            assert only(advised, batch_seconds, "the half-life of the teacher") is None
            assert advised.teacher.half_life_seconds(100.0) <= 1.01 * 0.1 * 3600.0 * config.hours
        assert only(config, advised_batch(warning), "the half-life of the teacher") is None


def test_a_half_life_that_is_short_at_the_reference_is_not_the_batchs_fault():
    config = run_config(teacher=TeacherConfig(rho=0.99))
    for batch_seconds in (50.0, 100.0, 400.0):
        assert scale_table(config, batch_seconds)[1] == []


def test_no_half_life_of_the_order_of_the_run_is_advised():
    """At 800 s, 1,000 updates take 222 h of audio, a quarter of the run; of a longer run, it is advised."""
    warning = only(run_config(), 800.0, "the half-life of the teacher")
    assert warning.endswith("if pseudo-labels become empty, stay at or below 693.1 s")
    longer = only(run_config(hours=5000.0), 800.0, "the half-life of the teacher")
    assert longer.endswith("or lengthen teacher.half_life_hours to 222.3 (teacher.rho 0.99991337)")


@pytest.mark.parametrize("config", sorted(RECIPES.glob("*/conf/*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("kappa", [0.5, 1.0, 2.0, 4.0])
def test_the_recipes_at_moderate_batches_are_not_warned_about(config, kappa):
    config = load_config(config)
    assert scale_table(config, kappa * config.batch.reference_seconds)[1] == []


@pytest.mark.parametrize("gpus", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("hours", [0.07, 1.0, 10.0, 100.0, 1000.0])
def test_what_init_config_writes_is_not_warned_about(tmp_path, gpus, hours):
    data = StarterData(["l.jsonl"], ["u.jsonl"], {"dev": "d.jsonl"}, hours, 4.0 * hours, 16.0)
    (tmp_path / "run.yaml").write_text(Starter(data, "t.json", Hardware(gpus, 8)).write_text(tmp_path))
    config = load_config(tmp_path / "run.yaml")
    assert scale_table(config, config.batch.seconds)[1] == []


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
