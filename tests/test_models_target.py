"""Import paths: none is imported without consent, none leads to anything but a model class."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from asr_emapl.audio.features import LogMel
from asr_emapl.errors import UserError
from asr_emapl.models.target import NO_TRUST, USERS_OWN, Trust, resolve
from asr_emapl.models.transformer import TransformerCtc

FOREIGN = Trust("checkpoint a.pt")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """my_models, which writes a file when it is imported; it holds a model and what it imports itself."""
    folder = tmp_path / "my_models"
    folder.mkdir()
    (folder / "__init__.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    (folder / "small.py").write_text(
        "from torch import nn\nfrom torch.nn import Linear\nfrom asr_emapl.models.transformer import *\n"
        "class Small(nn.Module): pass\ndef make(): return Small()\nsmall = Small()\n"
    )
    (tmp_path / "my_models_evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_models"]:
        del sys.modules[name]


def refusal(target: str, trust: Trust) -> str:
    with pytest.raises(UserError) as caught:
        resolve(target, trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_own_classes_need_no_trust():
    assert resolve("asr_emapl.models.transformer:TransformerCtc", NO_TRUST) is TransformerCtc
    # Wherever in asr_emapl they are found.
    assert resolve("asr_emapl.models.inputs:LogMel", NO_TRUST) is LogMel


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub:load",
        "logging:basicConfig",
        "builtins:exec",
        "torch.nn:Linear",
        "asr_emapl_evil:Model",
        "asr_emapl_evil.models:Model",
        "my_models_evil:Model",
    ],
)
def test_what_is_not_its_own_is_not_even_imported(package, target):
    told = refusal(target, FOREIGN)
    assert "checkpoint a.pt" in told
    module = target.partition(":")[0]
    assert f"would import {module} " in told
    assert told.endswith(f"add --trust {module.partition('.')[0]}")
    assert target in told


@pytest.mark.parametrize(
    "target",
    [
        "asr_emapl.models.contract:torch",
        "asr_emapl.models.contract:nn.Linear",
        "asr_emapl.models.contract:build_model",
        "asr_emapl.models.contract:ModelConfig",
        "asr_emapl.models.contract:__builtins__",
        "asr_emapl.models.contract:__loader__",
        "asr_emapl.models:transformer",
        "asr_emapl..models:transformer",
        "asr_emapl.models.contract:",
        "asr_emapl:os\x1b[2J",
        "asr_emapl.\nmodels:x",
    ],
)
def test_in_asr_emapl_only_classes_of_modules(target):
    told = refusal(target, NO_TRUST)
    assert told.isprintable()
    assert "model.target" in told


def test_a_class_that_a_trusted_module_only_imports_is_not_trusted(package):
    trust = Trust.of("checkpoint a.pt", ["my_models"])
    told = refusal("my_models.small:Linear", trust)
    assert "would import torch.nn.modules.linear " in told
    assert told.endswith("add --trust torch")
    assert resolve("my_models.small:Linear", Trust.of("x", ["my_models", "torch.nn"])) is nn.Linear
    assert resolve("my_models.small:TransformerCtc", trust) is TransformerCtc


@pytest.mark.parametrize("names", [["my_models"], ["other", "my_models.small"]])
def test_a_package_or_a_module_can_be_trusted(package, names):
    found = resolve("my_models.small:Small", Trust.of("checkpoint a.pt", names))
    assert found.__module__ == "my_models.small"
    assert (package / "ran").exists()


@pytest.mark.parametrize("names", [[], ["my_model"], ["my_models.sm"], ["my_models.small.Small"], ["other"]])
def test_other_trust_is_no_consent(package, names):
    told = refusal("my_models.small:Small", Trust.of("checkpoint a.pt", names))
    assert "my_models.small" in told
    assert not (package / "ran").exists()


def test_trust_in_a_prefix_of_a_name_is_no_trust(package):
    told = refusal("my_models_evil:Model", Trust.of("checkpoint a.pt", ["my_models"]))
    assert "--trust my_models_evil" in told


@pytest.mark.parametrize("name", ["make", "small", "nn", "Path"])
def test_functions_instances_and_modules_are_refused_in_own_code_too(package, name):
    assert "my_models.small" in refusal(f"my_models.small:{name}", USERS_OWN)


@pytest.mark.parametrize("name", ["", "*", ".", "my package", "a:B", "-", "a..b", "a/b"])
def test_trust_in_no_package(name):
    with pytest.raises(UserError, match="--trust"):
        Trust.of("x", [name])


@given(st.text(max_size=30))
def test_no_text_leads_anywhere_without_trust(text):
    told = refusal(text, NO_TRUST)
    assert told.isprintable()


def test_a_long_path_is_cut_short():
    assert len(refusal("a." * 100_000 + ":B", USERS_OWN)) < 500


def test_modules_of_the_current_folder_are_found_and_replace_none(tmp_path, monkeypatch):
    """As for a console script, which has its own folder on the path and not the current one."""
    (tmp_path / "my_lone_model.py").write_text("from torch import nn\nclass Lone(nn.Module): pass\n")
    (tmp_path / "wave.py").write_text("raise SystemExit('not the standard library')\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    assert resolve("my_lone_model:Lone", USERS_OWN).__name__ == "Lone"
    assert "Wave" in refusal("wave:Wave_read", USERS_OWN)
    del sys.modules["my_lone_model"]
