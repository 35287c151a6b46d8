"""Messages of errors."""

from __future__ import annotations

import sys

import pytest

from asr_emapl.errors import UserError, list_findings, listing, require_package


@pytest.mark.parametrize(
    ("items", "limit", "text"),
    [([], 2, ""), (["a"], 2, "a"), (["a", "b"], 2, "a, b"), (["a", "b", "c", "d"], 2, "a, b and 2 more")],
)
def test_listing(items, limit, text):
    assert listing(items, limit) == text


def test_findings_are_one_per_line():
    assert list_findings(["a", "b", "c"], 2) == "a\nb\n... and 1 more"
    assert list_findings(["a", "b"], 2) == "a\nb"
    assert list_findings(["a", "b"], 2, total=12) == "a\nb\n... and 10 more"


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    require_package("pytest", "dev")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        UserError, match=r"^matplotlib is not installed; run pip install '.\[report\]' in the checkout"
    ):
        require_package("matplotlib", "report")
