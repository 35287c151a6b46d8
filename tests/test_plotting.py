"""Pictures: the ending is judged first, and the same figure gives the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.plotting import check_ending, write_plot


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.b/c.svg"])
def test_endings(name):
    check_ending(Path(name))


@pytest.mark.parametrize("name", ["a", "a.jpg", "png"])
def test_other_endings(name):
    with pytest.raises(UserError, match="unknown image format"):
        check_ending(Path(name))


@pytest.mark.parametrize("name", ["a.png", "new/a.svg"])
def test_the_same_figure_gives_the_same_file(tmp_path, name):
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    written = []
    for _ in range(2):
        with rc_context({"svg.hashsalt": "x"}):
            figure = Figure()
            figure.subplots().plot([1, 2])
            write_plot(figure, tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
