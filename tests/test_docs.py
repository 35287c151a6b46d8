"""The documentation: it builds without a warning, what is generated is current, and links to files hold.

Its commands run in tests/test_recipes_quickstart.py, in the folder that the quickstart makes.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml
from support.documents import PAGES, ROOT, blocks


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EmaTeacher" in (tmp_path / "reference" / "api" / "index.html").read_text()
    offline = re.findall(
        r"<(?:script|link)[^>]*(?:src|href)=\"(https?://[^\"]+)\"", (tmp_path / "index.html").read_text()
    )
    assert offline == [], "the site loads nothing from elsewhere"


def test_the_page_of_commands_is_current():
    """Regenerate it with the command below, > docs/reference/commands.md."""
    command = [sys.executable, "-m", "typer", "asr_emapl.cli", "utils", "docs"]
    command += ["--name", "asr-emapl", "--title", "Commands"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    page = (ROOT / "docs/reference/commands.md").read_text()
    # By commands and options: the layout depends on typer's version.
    for pattern in (r"^##+ .*", r"^\* `--[a-z-]+"):
        assert re.findall(pattern, page, re.MULTILINE) == re.findall(pattern, done.stdout, re.MULTILINE)


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f": {page.relative_to(ROOT / 'docs')}\n" in text
    assert yaml.safe_load(text)["strict"] is True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_and_options_of_console_blocks_exist(page):
    for block in blocks(page):
        if block.language != "console" or page.stem == "commands":
            continue
        for line in block.text.splitlines():
            for path in re.findall(r"(?:recipes|docs)/[\w/]+\.(?:sh|py|sbatch)", line):
                script = ROOT / path
                assert script.is_file(), line
                if script.suffix == ".sh":
                    for option in re.findall(r"(?<= )--[a-z-]+", line.partition(path)[2]):
                        assert f"{option} " in script.read_text(), f"{option} of {line}"


def test_the_loop_of_ones_own_shows_the_rule(tmp_path):
    picture = tmp_path / "picture.png"
    command = [sys.executable, str(ROOT / "docs/tutorials/own_loop.py"), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    losses = [float(n) for n in re.findall(r"last loss ([0-9.]+)", done.stdout)]
    reference, full, optimizer_alone, nothing = losses
    assert abs(full - reference) < 0.1 * abs(optimizer_alone - reference)
    assert optimizer_alone < nothing
    assert picture.read_bytes().startswith(b"\x89PNG")
