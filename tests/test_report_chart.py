"""One chart: markup that fits into a page, with the page's colours, its values said in words."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from asr_emapl.report.chart import Chart, Line, draw

SVG = "{http://www.w3.org/2000/svg}"


def chart(*curves, **options) -> Chart:
    lines = [Line(f"run {i}", i, curve) for i, curve in enumerate(curves)]
    return Chart("WER", lines, "%", **options)


def titles(svg: str) -> list[str | None]:
    return [title.text for title in ElementTree.fromstring(svg).iter(f"{SVG}title")]


RISING = [(1.0, 20.0), (2.0, 30.0), (3.5, 42.5)]


def test_every_point_of_a_marked_chart_says_its_value():
    svg = draw(chart(RISING, [(2.0, 5.0)], marked=True, ceiling=50.0))
    assert titles(svg) == [
        "run 0: 20 % at 1 h",
        "run 0: 30 % at 2 h",
        "run 0: 42.5 % at 3.5 h",
        "run 1: 5 % at 2 h",
    ]


def test_points_beyond_the_ceiling_take_no_neighbours_words():
    svg = draw(
        chart([(1.0, 300.0), (2.0, 30.0), (3.0, float("inf")), (4.0, 20.0)], marked=True, ceiling=50.0)
    )
    assert titles(svg) == ["run 0: 30 % at 2 h", "run 0: 20 % at 4 h"]


def test_a_reader_who_sees_nothing_is_told_where_lines_end():
    root = ElementTree.fromstring(draw(chart(RISING, [(2.0, 5.0)])))
    assert root.get("role") == "img"
    assert root.get("aria-label") == (
        "WER over hours of audio. At the end, run 0: 42.5 % at 3.5 h; run 1: 5 % at 2 h"
    )


def test_colours_are_the_pages():
    svg = draw(chart(*[[(1.0, float(i)), (2.0, i + 1.0)] for i in range(9)]))
    for number in range(7):
        assert f"stroke: var(--run-{number})" in svg
    # The eighth run has the first one's colour, and a marker.
    assert "var(--ink-2)" in svg
    assert "var(--grid)" in svg
    assert not re.search("#[0-9a-fA-F]{6}", re.sub(r'="#[^"]*"|url\(#[^)]*\)', "", svg))


def test_a_name_that_looks_like_a_colour_stays_a_name():
    svg = draw(Chart("WER", [Line("#0072b2", 0, RISING)], marked=True))
    assert titles(svg)[0] == "#0072b2: 20 at 1 h"


@pytest.mark.parametrize(("last", "labels"), [(15.0, ["3", "10"]), (5e4, ["10", "100", "1000", "10000"])])
def test_a_logarithmic_axis_has_labels_whatever_its_span(last, labels):
    svg = draw(chart([(1.0, 2.0), (2.0, last)], logarithmic=True))
    found = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert [text for text in found if text in labels] == labels
    assert len(found) < 16


def test_nothing_leaks_into_the_page():
    svg = draw(chart(RISING, marked=True))
    root = ElementTree.fromstring(svg)
    tags = {element.tag for element in root.iter()}
    assert f"{SVG}style" not in tags
    assert f"{SVG}metadata" not in tags
    assert root.get("width") is None
    assert root.get("viewBox") is not None
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    assert ids >= used
    assert "<text" in svg  # letters stay letters
    # Charts of other titles have other ids.
    other = draw(Chart("CER", chart(RISING).lines, "%", marked=True))
    assert not ids & set(re.findall('id="([^"]+)"', other))


def test_the_same_chart_is_the_same_text():
    assert draw(chart(RISING, marked=True)) == draw(chart(RISING, marked=True))


def test_names_are_escaped():
    line = Line("<b>&\"'$x$", 0, RISING)
    svg = draw(Chart("a <script> $\\frac$", [line], marked=True))
    assert "<b>" not in svg
    assert "<script>" not in svg
    assert titles(svg)[0] == "<b>&\"'$x$: 20 at 1 h"


@pytest.mark.parametrize(
    "curve",
    [
        [(0.0, 0.0)],
        [(1.0, 5.0)],
        [(1.0, 5.0), (2.0, 5.0)],
        [(1.0, float("inf"))],
        [(4.0, -1.0), (5.0, 0.0)],
        [(0.0, 1e-12), (1.0, 1e12)],
    ],
)
@pytest.mark.parametrize("options", [{}, {"from_zero": True}, {"logarithmic": True}, {"ceiling": 104.0}])
def test_odd_curves(curve, options):
    ElementTree.fromstring(draw(chart(curve, **options)))


def test_a_run_that_went_on_from_another_begins_where_it_did():
    svg = draw(chart([(4.0, 1.0), (5.0, 2.0), (8.0, 3.0)]))
    labels = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "0" not in labels[:3]
    svg = draw(chart([(1.0, 1.0), (8.0, 3.0)]))
    assert next(ElementTree.fromstring(svg).iter(f"{SVG}text")).text == "0"
