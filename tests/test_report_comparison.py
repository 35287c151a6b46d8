"""Runs on the same utterances, and each pair of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.report.comparison import Decoded, System, comparisons, standings
from asr_emapl.report.run import Run


def corpus(speakers: int) -> list[Utterance]:
    return [
        Utterance(f"u{i}", "absent.wav", 1.0, "one two", speaker=f"s{i % speakers}" if speakers else None)
        for i in range(40)
    ]


@pytest.fixture
def runs(tmp_path):
    return [Run(name, tmp_path) for name in ("base", "better", "same")]


def decoded(speakers: int = 0) -> Decoded:
    said = ("one two", "one", "three four")
    bad = {f"u{i}": said[i % 3] for i in range(40)}
    good = {f"u{i}": "one two" for i in range(40)}
    names = ("base", "better", "same")
    texts = zip(names, (bad, good, bad), strict=True)
    return Decoded("dev", corpus(speakers), [System(name, i, said) for i, (name, said) in enumerate(texts)])


def test_rates_intervals_and_verdicts(runs):
    base, _, same = standings(decoded())
    assert base.score.words.rate == pytest.approx(39 / 80)
    assert base.interval is not None
    assert base.interval.low < 39 / 80 < base.interval.high
    assert (base.interval.units, base.interval.drawn) == ("utterances", 40)
    assert same.score == base.score
    verdicts = [found.verdict for found in comparisons(decoded())]
    assert verdicts[0].startswith("better is better: WER better (0.00 %) vs. base (48.75 %)")
    assert verdicts[1].startswith("No difference: base and same")
    assert verdicts[2].startswith("better is better: WER better (0.00 %) vs. same (48.75 %)")


def test_many_runs_are_compared_with_the_first_only(runs):
    many = [replace(runs[0], label=f"run {i}") for i in range(6)]
    said = decoded().systems[0].hypotheses
    texts = replace(decoded(), systems=[System(run.label, i, said) for i, run in enumerate(many)])
    assert [found.names for found in comparisons(texts)] == [("run 0", f"run {i}") for i in range(1, 6)]


def test_speakers_are_drawn_where_they_are_known(runs):
    base = standings(decoded(5))[0]
    assert base.interval is not None
    assert (base.interval.units, base.interval.drawn) == ("speakers", 5)
    assert standings(decoded(1))[0].interval is None


def test_a_run_with_other_utterances_is_named(runs):
    found = decoded()
    del found.systems[1].hypotheses["u7"]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="hypotheses of better: 1 of 40 references have no hypothesis: u7"):
        standings(found)
