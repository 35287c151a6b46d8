"""Language models read by KenLM: compressed files, and errors of files that KenLM cannot read."""

from __future__ import annotations

import gzip
import lzma

import numpy as np
import pytest

kenlm = pytest.importorskip("kenlm", reason="needs the extra lm")

from asr_emapl.decoding.ngram import NgramModel  # noqa: E402
from asr_emapl.errors import UserError  # noqa: E402

ARPA = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-99\t<s>\t-0.5
-1\t</s>
-9\t<unk>
-1\tA\t-0.5
-2\tB

\\2-grams:
-0.25\tA B

\\end\\
"""


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_scores_in_context(tmp_path, pack, capfd):
    path = tmp_path / "lm"
    path.write_bytes(pack(ARPA.encode()))
    lm = NgramModel(str(path), ["A", "B", "C"])
    assert lm.unknown == ["C"]
    assert lm.unit_scores.tolist() == [-1.0, -2.0, -9.0]
    begin = lm.start()
    contexts, scores = lm.score(np.array([begin, begin]), np.array([0, 1]))
    assert scores.tolist() == [-1.5, -2.5]  # with the back-off of the beginning
    again, following = lm.score(contexts, np.array([1, 1]))
    assert following.tolist() == [-0.25, -2.0]
    assert again[0] == again[1]  # the model has no context after B
    assert lm.finish(contexts).tolist() == [-1.5, -1.0]
    assert capfd.readouterr() == ("", "")


def test_an_empty_request(tmp_path):
    (tmp_path / "lm").write_text(ARPA)
    lm = NgramModel(str(tmp_path / "lm"), ["A"])
    lm.start()
    assert [len(part) for part in lm.score(np.zeros(0, np.int64), np.zeros(0, np.int64))] == [0, 0]


@pytest.mark.parametrize("fault", [RuntimeError(""), RuntimeError("\n \n"), RuntimeError("a\nb \0\1")])
def test_any_error_of_kenlm_is_one_line(monkeypatch, tmp_path, fault):
    (tmp_path / "lm").write_text(ARPA)

    def refuse(path, config):
        raise fault

    monkeypatch.setattr(kenlm, "Model", refuse)
    with pytest.raises(UserError) as told:
        NgramModel(str(tmp_path / "lm"), ["A"])
    assert str(told.value) == f"{tmp_path}/lm: KenLM cannot read this language model (not a language model)"
