"""Labelling that training waits for is shown, with the audio that is left."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from support.tiny import make_corpus, tiny_config

from asr_emapl.data.label_plan import CachePlan, CacheSlot, LabelCursor, RoundsPlan
from asr_emapl.data.mixture import DataCursor
from asr_emapl.run_labels.labelling_progress import LabellingProgress
from asr_emapl.training.trainer import train

HOUR = 3600 * 16_000
ROUNDS = RoundsPlan(np.full(4, HOUR), [0, HOUR], 1.0, HOUR, 0)
CACHE = CachePlan(4 * HOUR, 0.1, HOUR, 0)


@pytest.fixture
def all_lines(monkeypatch):
    """A line after each batch."""
    monkeypatch.setattr("asr_emapl.progress.LINE_EVERY_S", 1e-9)
    monkeypatch.setattr("asr_emapl.progress.Progress._print_lines", lambda self: None)


def said(capsys) -> list[str]:
    return re.findall(r"(labels .*) s of audio", capsys.readouterr().err)


def test_a_round_from_where_it_was_interrupted(all_lines, capsys):
    position = DataCursor(labels=LabelCursor(row=2))
    with LabellingProgress(ROUNDS, is_shown=True) as progress:
        for _ in range(2):
            progress.begin(position)
            progress.advance(HOUR)
            position = replace(position, labels=replace(position.labels, row=3))
    assert said(capsys) == ["labels of round 1: 3600 of 7200", "labels of round 1: 7200 of 7200"]


def test_the_cache_is_shown_while_it_is_filled(all_lines, capsys):
    slots = tuple(CacheSlot((row,), (1,), HOUR, HOUR) for row in range(4))
    with LabellingProgress(CACHE, is_shown=True) as progress:
        progress.begin(DataCursor(labels=LabelCursor(slots=slots[:3])))
        progress.advance(HOUR)
        # A batch that replaces one of the cache is labelled between two steps.
        progress.begin(DataCursor(labels=LabelCursor(slots=slots)))
        progress.advance(HOUR)
    assert said(capsys) == ["labels for the cache: 3600 of 3600"]


@pytest.mark.parametrize(("plan", "is_shown"), [(None, True), (ROUNDS, False)])
def test_nothing_is_shown_without_a_plan_and_on_other_processes(all_lines, capsys, plan, is_shown):
    with LabellingProgress(plan, is_shown=is_shown) as progress:
        progress.begin(DataCursor())
        progress.advance(HOUR)
    assert said(capsys) == []


def test_a_run_shows_each_of_its_rounds(tmp_path, all_lines, capsys):
    make_corpus(tmp_path)
    overrides = ("pseudo_labels.strategy=rounds", "pseudo_labels.rounds.hours=[0.005,0.01]", "hours=0.015")
    start = ("pseudo_labels.start_hours=0.005", "validation.every_hours=null")
    train(tiny_config(tmp_path, *overrides, *start))
    ends = {line.split(":")[0]: line.split(": ")[1].split() for line in said(capsys)}
    assert list(ends) == ["labels of round 1", "labels of round 2"]
    assert all(done == total for done, _, total in ends.values())
