"""What users' own code raises: one line, with their own line in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asr_emapl.checks.conformance import check
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.target import USERS_OWN

MODEL = """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self, vocabulary_size, input_size, width=4):
        super().__init__()
        self.output = make(width, vocabulary_size)
    def forward(self, features, lengths): ...
    def output_lengths(self, lengths): return lengths
def make(width, vocabulary_size):
    {line}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module of a name of its own, and one that it can import; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    counter = iter(range(10))

    def write(text: str, helper: str = "") -> str:
        number = f"{Path(tmp_path).name}_{next(counter)}".replace("-", "_")
        (tmp_path / f"helper_{number}.py").write_text(helper)
        (tmp_path / f"model_{number}.py").write_text(text.replace("HELPER", f"helper_{number}"))
        return f"model_{number}"

    return write


def refusal(module: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        build_model(
            ModelConfig(f"{module}:Model", options=options), vocabulary_size=5, input_size=4, trust=USERS_OWN
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
        ("from torch import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("undefined", "NameError: name 'undefined' is not defined"),
        ("assert False", "AssertionError"),
        ("open('/no/such/weights')", "FileNotFoundError"),
    ],
)
def test_at_import_the_line_is_shown(write, line, error):
    module = write(f"import torch\n{line}\n")
    told = refusal(module)
    assert error in told
    assert re.search(rf"{module}\.py:2, in <module>: {re.escape(line)}", told)


def test_a_line_that_is_not_python_is_shown(write):
    module = write("import torch\ndef broken(:\n    pass\n")
    told = refusal(module)
    assert "SyntaxError: invalid syntax" in told
    assert f"{module}.py:2: def broken(:" in told


@pytest.mark.parametrize("text", ["x = '\0'", "\ud800", "if x:\nprint()"])
def test_other_files_that_are_not_python(write, tmp_path, text):
    module = write("")
    (tmp_path / f"{module}.py").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "cannot be imported: " in refusal(module)


def test_of_a_module_that_the_users_own_imports_both_lines_are_shown(write):
    module = write("import HELPER\n", "values = {}\nwidth = values['width']\n")
    told = refusal(module)
    assert "KeyError: 'width'" in told
    assert re.search(rf"{module}\.py:1, in <module>: import helper.*;.*helper_.*\.py:2, in <module>: ", told)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("return {}['width']", "KeyError: 'width'"),
        ("return nn.Linear('wide', 3)", "TypeError: "),
        ("return None.width", "AttributeError: 'NoneType' object has no attribute 'width'"),
        ("return torch.zeros(2) @ torch.zeros(3)", "RuntimeError: "),
        ("raise NotImplementedError", "NotImplementedError"),
        ("return make(width, vocabulary_size)", "RecursionError"),
        ("raise SystemExit('sorry')", "SystemExit: sorry"),
        ("return torch.load('/no/such/weights')", "FileNotFoundError: "),
    ],
)
def test_in_the_constructor_the_line_is_shown(write, line, error):
    module = write(MODEL.format(line=line))
    told = refusal(module)
    assert f"model.options for {module}:Model: {error}" in told
    assert re.search(rf"{module}\.py:\d+, in make: {re.escape(line)}", told)
    assert "site-packages" not in told
    # check-model builds it as train does.
    with pytest.raises(UserError) as caught:
        check(ModelConfig(f"{module}:Model"))
    assert str(caught.value).startswith(f"model.options for {module}:Model: ")


def test_what_the_toolkits_own_model_refuses_needs_no_place():
    target = "asr_emapl.models.transformer:TransformerCtc"
    with pytest.raises(UserError) as caught:
        build_model(ModelConfig(target, options={"dim": 8, "heads": 3}), vocabulary_size=5, input_size=4)
    assert str(caught.value) == f"model.options for {target}: dim 8 must be even and a multiple of heads (3)"


def test_an_interruption_is_not_an_error_of_the_model(write):
    module = write("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        build_model(ModelConfig(f"{module}:Model"), vocabulary_size=5, input_size=4, trust=USERS_OWN)
