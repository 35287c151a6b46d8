"""Filters of the user's own: imported, asked, counted by name, and refused in one line."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path

import pytest
from support.documents import ROOT, blocks
from support.runs import finish, launch, losses, read_log
from support.tiny import tiny_config

from asr_emapl.config import load_config
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.collapse import CollapseGuard
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelCandidate, LabelFilters, reason_of
from asr_emapl.pseudo_labels.own_filters import own_filters
from asr_emapl.pseudo_labels.quality import LabelCounts
from asr_emapl.text.tokenizer import CharacterTokenizer
from asr_emapl.training.trainer import train

OWN = """
NUMBER = 3

def even_number(candidate):
    return int(candidate.id.rpartition("-")[2]) % 2 == 0

def longer_than(candidate, seconds):
    return candidate.seconds > seconds

def empty(candidate):
    return False

def forgets_to_return(candidate):
    candidate.seconds > 1.0

def fails(candidate):
    return candidate.nothing
"""


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "some_filters.py").write_text(textwrap.dedent(OWN))
    for block in blocks(ROOT / "docs/tutorials/own-strategy.md"):
        if block.title == "my_filters.py":
            (folder / block.title).write_text(block.text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        patch.syspath_prepend(folder)
        yield


def reason(filters: dict[str, dict[str, object]], text: str, **known: float) -> str | None:
    tokenizer = CharacterTokenizer()
    own = own_filters(filters)
    candidate = LabelCandidate(
        tokenizer.encode(text), 1000, known.get("seconds", 1.0), id="u-1", tokenizer=tokenizer
    )
    return LabelFilters(PseudoLabelConfig(), own, tokenizer).reason_to_drop(candidate)


def test_the_example_of_the_tutorial() -> None:
    filters: dict[str, dict[str, object]] = {"my_filters:one_word_again_and_again": {"most": 0.6}}
    assert reason(filters, "THE CAT SAT ON THE MAT") is None
    assert reason(filters, "THE THE THE THE CAT") == "one_word_again_and_again"
    assert reason(filters, "THE THE") is None


def test_options_are_passed() -> None:
    assert reason({"some_filters:longer_than": {"seconds": 2.0}}, "A", seconds=3.0) == "longer_than"
    assert reason({"some_filters:longer_than": {"seconds": 4.0}}, "A", seconds=3.0) is None


def test_the_run_counts_them_by_name_on_any_number_of_processes(corpus, tmp_path):
    overrides = (
        *("pseudo_labels.strategy=oracle", "pseudo_labels.start_hours=0", "hours=0.02"),
        "pseudo_labels.filters={some_filters:even_number: {}, some_filters:longer_than: {seconds: 1.2}}",
        *("validation.every_hours=null", "batch.seconds=12", "batch.reference_seconds=12"),
        *("data.max_seconds=4", "optimizer.lr=1e-3"),
    )
    two = launch(corpus, tmp_path / "two", *overrides, "device.max_seconds=5", processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", "device.max_seconds=12", *overrides))
    finish(two)
    dropped = [
        [line.get("dropped", {}) for line in read_log(tmp_path / name) if line["event"] == "step"]
        for name in ("one", "two")
    ]
    assert dropped[0] == dropped[1]
    assert {name for step in dropped[0] for name in step} == {"even_number", "longer_than"}
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_reasons_of_own_filters_have_a_remedy() -> None:
    assert "my_name (pseudo_labels.filters)" in reason_of("my_name").remedy
    guard = CollapseGuard(labelled=1, unlabelled=1)
    with pytest.raises(UserError, match="my_name"):
        guard.step(1, False, LabelCounts(0, 0, Counter(my_name=3)), taken=False)


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"some_filters:absent": {}}, "some_filters has no absent"),
        ({"some_filters:NUMBER": {}}, "some_filters:NUMBER is not a function"),
        ({"no_such_filters:any": {}}, "no_such_filters"),
        ({"some_filters:longer_than": {}}, r"longer_than: missing a required argument: 'seconds'"),
        ({"some_filters:even_number": {"odd": 1}}, r"even_number: got an unexpected keyword argument 'odd'"),
        ({"some_filters:empty": {}}, "a filter empty exists"),
        ({"some_filters:forgets_to_return": {}}, "forgets_to_return returned None"),
        ({"some_filters:fails": {}}, r"some_filters:fails fails on 'u-1': .*nothing"),
    ],
)
def test_what_is_refused(filters, named) -> None:
    with pytest.raises(UserError, match=named):
        reason(filters, "A")


def test_a_path_that_is_none_is_refused_by_the_config(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("pseudo_labels: {filters: {some_filters: {}}}")
    with pytest.raises(UserError, match=r"pseudo_labels\.filters.*some_filters"):
        load_config(tmp_path / "run.yaml")
