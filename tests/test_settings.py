"""Every setting is declared with its range and its meaning, and what is not allowed is refused by its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from asr_emapl.cli import app
from asr_emapl.config import RunConfig, config_from_dict, config_to_dict, load_config
from asr_emapl.errors import UserError
from asr_emapl.settings import Setting, describe

SETTINGS = list(describe(RunConfig))
NUMBERS = [s for s in SETTINGS if "number" in s.allowed or "integer" in s.allowed]
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "run.yaml"
    path.write_text("hours: 2\n")
    return path


def override(setting: Setting, value: str) -> str:
    """Of a number. The groups of perturb are null by default: a key in them is set within a mapping."""
    if setting.allowed.startswith("a list of lists"):
        value = f"[[{value}, 1]]"
    elif setting.allowed.startswith("a list of 2"):
        value = f"[{value}, 0.5]"
    elif setting.allowed.startswith(("a list", "a non-empty list")):
        value = f"[{value}]"
    group, _, name = setting.key.rpartition(".")
    if group.startswith("perturb."):
        return f"{group}={{{name}: {value}}}"
    return f"{setting.key}={value}"


def refusal(path: Path, change: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, [change])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_settings_are_described_once():
    keys = [s.key for s in SETTINGS]
    assert len(set(keys)) == len(keys) > 80
    assert {"seed", "batch.progressive", "optimizer.betas", "perturb.noise.snr_db", "augment"} <= set(keys)
    assert [s.key for s in SETTINGS if not s.description and s.key.partition(".")[0] != "perturb"] == []


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda s: s.key)
def test_every_number_has_a_lower_and_an_upper_bound(setting):
    for bounds in (("at least", "above"), ("at most", "below")):
        assert any(bound in setting.allowed for bound in (*bounds, "64 bits"))


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e99", "-1e99", "text"])
@pytest.mark.parametrize("setting", NUMBERS, ids=lambda s: s.key)
def test_what_is_outside_a_range_is_refused_by_its_key(plain, setting, value):
    assert setting.key in refusal(plain, override(setting, value))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "optimizer.clip_norm=-1",
            "optimizer.clip_norm: -1 is not a number (above 0, at most 1e+09) or null",
        ),
        ("optimizer.clip_norm=0", "optimizer.clip_norm: 0 is not a number (above 0"),
        ("optimizer.betas=[0.9,1]", "optimizer.betas[1]: 1 is not a number (at least 0, below 1)"),
        (
            "pseudo_labels.rounds.hours=[]",
            "pseudo_labels.rounds.hours: [] is not a non-empty list of numbers",
        ),
        ("optimizer.betas=[0.9]", "optimizer.betas: [0.9] is not a list of 2 numbers"),
        ("optimizer.lr=true", "optimizer.lr: true is not a number"),
        ("optimizer.name=lion", "optimizer.name: 'lion' is not one of adamw, adam, sgd"),
        ("schedule.shape=cosin", "schedule.shape: 'cosin' is not one of cosine, linear"),
        ("optimizer.lrr=1", "optimizer.lrr: not a setting; did you mean 'optimizer.lr'?"),
        ("checkpoint.keep=0", "checkpoint.keep: 0 is not an integer (at least 1"),
        ("validation.every_hours=0", "validation.every_hours: 0 is not a number (above 0"),
        ("batch.seconds=fast", "batch.seconds: 'fast' is not a number (above 0, at most 1e+09) or auto"),
        ("batch.progressive=[[1,60],[2,-5]]", "batch.progressive[1][1]: -5 is not a number (at least 0"),
        ("batch.progressive=[[1]]", "batch.progressive[0]: [1] is not a list of 2 numbers"),
        ("data.validation=[a]", "data.validation: ['a'] is not a mapping"),
        ("tokenizer=''", "tokenizer: '' is not a path or null"),
        ("data.labelled=[[a]]", "data.labelled[0]: ['a'] is not a path"),
        ("hours=null", "hours: null is not a number"),
        ("model=3", "model: 3 is not a group of settings"),
    ],
)
def test_the_place_the_key_the_value_and_what_is_allowed_are_named(plain, change, said):
    assert refusal(plain, change).startswith(f"override {change!r}: {said}")


@pytest.mark.parametrize(
    "change",
    ["schedule.decay_from_hours=null", "batch.seconds=auto", "batch.seconds=1e2", "hours=0", "optimizer.lr=0",
     "optimizer.lr=1e-3", "optimizer.clip_norm=null", "device.threads=null", "tokenizer=null"],
)  # fmt: skip
def test_null_and_values_on_a_bound_are_accepted(plain, change):
    load_config(plain, [change])


def test_defaults_are_valid_settings():
    assert config_from_dict(config_to_dict(RunConfig()), "defaults") == RunConfig()


# The command and its page.


def test_the_command_lists_a_section():
    result = CliRunner().invoke(app, ["settings", "schedule"])
    assert result.exit_code == 0
    for name in ("warmup_hours", "decay_from_hours", "final", "shape"):
        assert f"schedule.{name}" in result.stdout
    assert "optimizer" not in result.stdout


@pytest.mark.parametrize(
    ("section", "remedy"),
    [
        ("optimiser", "did you mean 'optimizer'?"),
        ("optimizer.lrr", "did you mean 'optimizer.lr'?"),
        ("zzz", "choose from root, run_dir,"),
    ],
)
def test_an_unknown_section_names_what_was_meant_or_those_that_exist(section, remedy):
    result = CliRunner().invoke(app, ["settings", section])
    assert isinstance(result.exception, UserError)
    assert remedy in str(result.exception)


def test_the_page_is_up_to_date():
    """Regenerate it with: asr-emapl settings --markdown > docs/reference/settings.md"""
    result = CliRunner().invoke(app, ["settings", "--markdown"])
    assert result.stdout == PAGE.read_text()
