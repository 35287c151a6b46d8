"""The page: whole in itself, nothing of a run taken for markup, and in a browser what it is meant to be."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.logged_runs import write_run

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.report.comparison import Decoded, System
from asr_emapl.report.page import render, write_page
from asr_emapl.report.run import Run, read_runs
from asr_emapl.runs.reader import PHASES

NAMES = ("base", "<b>&ema" + "a" * 60)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Checks that elements are closed in order; gathers attributes and visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data.split()

    @property
    def words(self) -> str:
        return " ".join(self.text)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def runs(root) -> list[Run]:
    places = list(zip(NAMES, (root / "base", root / "ema"), strict=True))
    write_run(places[0][1], [60.0, 40.0, 31.25], ("dev", "<i>odd"))
    write_run(places[1][1], [50.0, 30.0, 21.5], ("dev", "<i>odd"))
    return read_runs(places)


@pytest.fixture(scope="module")
def decoded(root) -> Decoded:
    soundfile.write(root / "a.wav", 0.1 * np.sin(np.arange(24_000) / 5.0), 16_000)
    utterances = [
        Utterance("a<1>", str(root / "a.wav"), 1.5, "SAY <ONE>", speaker="<s>"),
        Utterance("b", str(root / "absent.wav"), 1.5, "ONE TWO"),
    ]
    hypotheses = [{"a<1>": "SAY WON & MORE", "b": "ONE"}, {"a<1>": "SAY <ONE>", "b": "ONE TWO"}]
    return Decoded(
        "dev & co",
        utterances,
        [System(name, i, h) for i, (name, h) in enumerate(zip(NAMES, hypotheses, strict=True))],
    )


@pytest.fixture(scope="module")
def page(runs, decoded) -> str:
    return render(runs, decoded, 20)


def test_every_section_is_there_and_can_be_reached(page):
    outline = Outline(page)
    targets = [href[1:] for tag, name, href in outline.attributes if (tag, name) == ("a", "href")]
    sections = [
        *("result", "runs", "wer", "pseudo-labels", "scaling", "learning", "speed", "settings"),
        *("comparison", "utterances"),
    ]
    assert targets == sections
    assert set(targets) <= set(outline.values("id"))
    assert page.count("<svg") == 2 + 4 + 4 + 3 + 1


@pytest.mark.parametrize("rates", [[60.0, 40.0], [97.0, 95.0]])
def test_the_line_at_the_top_names_each_section_in_order(tmp_path, rates):
    """Also the section on what is wrong, which a page has only if there is something."""
    write_run(tmp_path / "run", rates)
    outline = Outline(render(read_runs([("run", tmp_path / "run")]), None, 20))
    targets = [href[1:] for tag, name, href in outline.attributes if (tag, name) == ("a", "href")]
    sections = [value for tag, name, value in outline.attributes if (tag, name) == ("section", "id")]
    assert targets == sections
    assert ("verdict" in targets) == (rates[-1] > 90.0)


def test_percentages_are_written_in_one_way(page, runs, tmp_path):
    """A number, a space and the sign; in a table, the sign is in the heading."""
    assert not re.search(r"\d%", Outline(page).words)
    ranks = [{"audio": 50.0, "padded": 60.0} | dict.fromkeys(PHASES, 1.0)]
    write_run(tmp_path / "run", [40.0])
    with (tmp_path / "run" / "speed.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "hours": 1.0, "ranks": ranks}) + "\n")
    words = Outline(render(read_runs([("run", tmp_path / "run")]), None, 20)).words
    assert "padding 16.7 %" in words
    assert "time: data 16.7 %" in words
    assert not re.search(r"\d%", words)


def test_ids_are_of_one_element_each(page):
    ids = Outline(page).values("id")
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_from_anywhere(page):
    outline = Outline(page)
    for tag, name, value in outline.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert value.startswith(("#", "data:")), (tag, name, value[:80])
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert "@import" not in page
    # The only script is that of the page itself, by its hash.
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_nothing_of_a_run_is_markup(page):
    for markup in ("<b>&", "<i>odd", "<ONE>", "a<1>", "<s>"):
        assert markup not in page
    words = Outline(page).words
    for text in ("<b>&ema", "<i>odd", "<ONE>", "a<1>", "dev & co"):
        assert text in words


def test_what_a_reader_wants_to_know(page):
    words = Outline(page).words
    for text in (
        "base 3 6 31.25 31.25 32.25 32.25",  # hours, steps, last and best of each model
        "base 9 empty 3",  # pseudo-labels used and dropped
        "teacher half-life (steps)",
        "base 100.00",
        "for each pair of runs. Undecided: WER <b>&emaaa",  # two utterances decide nothing
        "Intervals: 95 %, Student's t over 2 utterances.",
        "1 error in 2 words",
        "absent.wav",
        "All runs have the same settings.",
        "All 5 settings",
    ):
        assert text in words, text


def test_one_run_without_anything_but_its_log(tmp_path):
    write_run(tmp_path / "run", [40.0], config="")
    (tmp_path / "run" / "speed.jsonl").unlink()
    outline = Outline(render(read_runs([("run", tmp_path / "run")]), None, 20))
    assert "Settings" not in outline.words
    assert "Throughput" not in outline.words
    assert outline.words.startswith("run: report Report on run")


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    Outline(render(read_runs([("run", tmp_path)]), None, 20))


def test_without_errors_there_is_none_to_show(decoded, tmp_path):
    right = {u.id: u.text or "" for u in decoded.utterances}
    runs = [Run("base", tmp_path), Run("<b>&ema", tmp_path)]
    words = Outline(
        render(
            runs,
            Decoded("dev", decoded.utterances, [System("base", 0, right), System("<b>&ema", 1, right)]),
            20,
        )
    ).words
    assert "No utterance has a word error" in words
    assert "No difference: base and <b>&ema" in words


def test_it_is_written_whole_or_not_at_all(tmp_path):
    run = [Run("run", tmp_path)]
    write_page(run, tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8").endswith("</html>")
    with pytest.raises(UserError, match=r"page\.pdf: the file name must end in \.html"):
        write_page(run, tmp_path / "page.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"page\.html: cannot be written"):
        write_page(run, tmp_path / "file" / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new"]


# In a browser.

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--autoplay-policy=no-user-gesture-required"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def written(page, root) -> str:
    (root / "page.html").write_text(page, encoding="utf-8")
    return (root / "page.html").as_uri()


def test_tables_and_long_words_fit_a_narrow_screen(browser, tmp_path):
    for name in ("baseline", "ema"):
        write_run(tmp_path / name, [60.0, 40.0])
    runs = read_runs([(name, tmp_path / name) for name in ("baseline", "ema")])
    utterances = [Utterance(f"u{i}", str(tmp_path / "absent.wav"), 1.5, "ONE TWO") for i in range(12)]
    wrong = {u.id: f"{'PRYJPRN' * 12} TWO" for u in utterances}
    decoded = Decoded("dev", utterances, [System(run.label, i, wrong) for i, run in enumerate(runs)])
    write_page(runs, tmp_path / "page.html", decoded)
    view = browser.new_page(viewport={"width": 375, "height": 800})
    view.goto((tmp_path / "page.html").as_uri())
    view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert view.evaluate("document.documentElement.scrollWidth") == 375
    regions = "[...document.querySelectorAll('.scroll')]"
    wide = view.evaluate(f"{regions}.filter(s => s.scrollWidth > s.clientWidth).map(s => s.ariaLabel)")
    assert wide == []
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(browser, written, width, scheme):
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    told: list[str] = []
    view.on("console", lambda message: told.append(message.text))
    view.on("pageerror", lambda error: told.append(str(error)))
    requests: list[str] = []
    view.on("request", lambda request: requests.append(request.url))
    view.goto(written)
    assert told == []
    assert [url for url in requests if not url.startswith("data:")] == [written]
    # Nothing is cut off at the side: what is wider scrolls within itself.
    assert view.evaluate("document.documentElement.scrollWidth") == width
    # Each chart is seen, with a curve in the first run's colour of this scheme.
    boxes = view.evaluate("[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)")
    assert len(boxes) == 14
    assert all(200 < box <= 640 for box in boxes)
    colours = view.evaluate(
        "[...document.querySelectorAll('svg')].map(s => "
        "[...s.querySelectorAll('path')].map(p => getComputedStyle(p).stroke))"
    )
    first = {"light": "rgb(0, 114, 178)", "dark": "rgb(74, 159, 224)"}[scheme]
    assert all(first in strokes for strokes in colours)
    # Text stands out from its ground.
    ground, ink = view.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert contrast(ground, ink) > 7.0
    for selector in (".note", "svg text", "thead th"):
        style = f"getComputedStyle(document.querySelector('{selector}'))"
        shown = view.evaluate(f"{style}.{'fill' if 'svg' in selector else 'color'}")
        assert contrast(ground, shown) > 4.5, selector
    view.close()


def test_audio_plays_in_a_browser(browser, written):
    view = browser.new_page()
    view.goto(written)
    played = view.evaluate(
        "async () => { const audio = document.querySelector('audio'); await audio.play();"
        "await new Promise(done => audio.addEventListener('ended', done));"
        "return [audio.currentTime, audio.duration, audio.error] }"
    )
    assert played[0] > 0.0
    assert played[1] == pytest.approx(1.5, abs=0.15)
    assert played[2] is None
    view.close()


def test_worst_utterances_are_sorted_and_filtered_in_a_browser(browser, written):
    view = browser.new_page()
    view.goto(written)
    ids = (
        "[...document.querySelectorAll('#worst article')].filter(a => !a.hidden)"
        ".map(a => a.querySelector('h3').textContent.split(' ')[0])"
    )
    assert view.evaluate(ids) == ["a<1>", "b"]
    view.select_option(".order", label="errors of <b>&ema" + "a" * 60)
    assert view.evaluate(ids) == ["a<1>", "b"]
    view.select_option(".order", label="duration")
    view.fill(".filter", "TWO")
    assert view.evaluate(ids) == ["b"]
    assert view.inner_text(".shown") == "1 of 2 shown"
    view.close()


def test_by_keyboard_in_a_browser(browser, written):
    view = browser.new_page()
    view.goto(written)
    reached: list[str] = []
    for _ in range(60):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.tagName"))
        if reached.count("SUMMARY") == 1 and reached[-1] == "SUMMARY":
            view.keyboard.press("Enter")
            assert view.evaluate("document.activeElement.parentElement.open")
    assert {"A", "DIV", "SUMMARY", "AUDIO"} <= set(reached)
    view.close()


def luminance(colour: str) -> float:
    """Of a CSS colour, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_reading_does_not_wait_for_a_browser_or_torch():
    code = "import sys, asr_emapl.report; assert not {'torch', 'jinja2', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
