"""The normalisation that transcripts need, and the count of what it changes."""

from __future__ import annotations

import pytest

from asr_emapl.text.needed import Changes, needed_preset
from asr_emapl.text.normalise import PRESETS

ENGLISH = ["Don\u2019t go.", "go on", "He said: \u201cno\u201d"]


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        ([], "librispeech"),
        (["go on", "DON\u2019T"], "librispeech"),
        (ENGLISH, "common-voice"),
        ([*ENGLISH, *["see you."] * 60, "the caf\u00e9"], "common-voice"),
        (["Gr\u00fc\u00df Gott.", "Guten Tag."], "words"),
        (["\u041f\u0440\u0438\u0432\u0435\u0442!"], "words"),
        (["\u4f60\u597d"], "words"),
    ],
)
def test_the_preset_follows_the_letters_of_the_texts(texts, name):
    assert needed_preset(texts) == name


def test_changes_are_counted_by_transcript():
    changes = Changes()
    for text in (*ENGLISH, "GO ON"):
        changes.add(text, PRESETS["common-voice"].normalise(text))
    assert (changes.texts, changes.changed, changes.capitalised) == (4, 3, 3)
    assert changes.replaced == {".": 1, "\u2019": 1, ":": 1, "\u201c": 1, "\u201d": 1}
    assert str(changes).startswith("3 of 4 transcripts changed: 3 capitalised; removed or replaced ")


def test_texts_that_stay_are_counted_too():
    changes = Changes()
    changes.add("GO ON", "GO ON")
    assert str(changes) == "1 transcript, none changed"
    changes.add("GO  ON", "GO ON")
    assert str(changes) == "1 of 2 transcripts changed: spaces"
