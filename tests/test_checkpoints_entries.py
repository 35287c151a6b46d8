"""Missing or wrong entries of a checkpoint are one line, in each command that reads it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import make_corpus, tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints.recognizer import load_recognizer
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train

DECODING = ("student", "teacher", "tokenizer", "config")
RUN = ("optimizer", "running_mean", "clock", "position", "contents", "step", "kappa", "log_lines")
HOURS = ("validation.every_hours=null", "checkpoint.every_hours=null", "checkpoint.running_mean=true")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The tiny corpus with a run on it."""
    root = tmp_path_factory.mktemp("entries")
    make_corpus(root)
    train(tiny_config(root, "hours=0.002", *HOURS))
    return root


@pytest.fixture(scope="module")
def whole(root) -> checkpoint.State:
    (path,) = (root / "run" / "checkpoints").glob("step-*.pt")
    return checkpoint.load(path)


def forge(folder: Path, state: checkpoint.State) -> Path:
    """A run directory with this state as its only checkpoint; the checkpoint's path."""
    path = folder / "run" / "checkpoints" / "step-000000002.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def refusal(*call: Any) -> str:
    function, *arguments = call
    with pytest.raises(UserError) as caught:
        function(*arguments)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 700
    return told


def readers(root: Path, path: Path, out: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that reads a checkpoint."""
    resumed = tiny_config(root, "hours=0.004", f"run_dir={path.parent.parent}", *HOURS)
    started = tiny_config(root, "hours=0.004", f"run_dir={out}", f"init.checkpoint={path}", *HOURS)
    return {
        "resume": (train, resumed),
        "init": (train, started),
        "decode": (load_recognizer, path, "teacher", "cpu"),
        "average": (checkpoint.average, None, path, out),
    }


def test_the_whole_one_is_taken_by_all(root, whole, tmp_path):
    for name, (function, *arguments) in readers(root, forge(tmp_path, whole), tmp_path / "o").items():
        if name != "init":  # its folder would be the average's file
            function(*arguments)


WRONG = (None, -1, 2.5, "text", [1, 2], {"a": 1}, torch.zeros(3))


def test_every_entry_has_its_kind(whole, tmp_path):
    for entry in whole:
        for wrong in WRONG:
            # A mapping that is no tokenizer is refused by what reads it.
            if (entry, type(wrong)) in (("kappa", float), ("tokenizer", dict)):
                continue
            path = forge(tmp_path, whole | {entry: wrong})
            told = refusal(checkpoint.load, path)
            assert str(path) in told
            assert entry in told


def test_every_reader_says_so(root, whole, tmp_path):
    path = forge(tmp_path, whole | {"clock": 3})
    for function, *arguments in readers(root, path, tmp_path / "o").values():
        assert "clock is not a mapping" in refusal(function, *arguments)
    assert not (tmp_path / "o").exists()


def test_every_entry_is_needed_to_resume(root, whole, tmp_path):
    for entry in (*DECODING, *RUN):
        path = forge(tmp_path, {name: value for name, value in whole.items() if name != entry})
        if entry in DECODING:
            told = refusal(checkpoint.load, path)
        else:
            told = refusal(checkpoint.require_resumable, path, checkpoint.load(path))
        assert f"entry {entry} is missing" in told
        assert str(path) in told
    calls = readers(root, path, tmp_path / "o")
    for reader in ("resume", "init"):
        assert "entry log_lines is missing" in refusal(*calls[reader])
    assert not (tmp_path / "o").exists()


def replaced(state: Any, place: list[Any], value: Any) -> Any:
    """A copy with another value at a place: keys and indices; without it where the value is `...`."""
    state = copy.copy(state)
    key, *rest = place
    if rest:
        state[key] = replaced(state[key], rest, value)
    elif value is ...:
        del state[key]
    else:
        state[key] = value
    return state


WRONG_INSIDE: list[tuple[list[Any], Any]] = [
    (["student", "output.bias"], None),
    (["student", "output.bias"], [1.0, 2.0]),
    (["student", 3], torch.zeros(3)),
    (["teacher", "module"], ...),
    (["teacher", "module", "output.bias"], 1.0),
    (["teacher", "audio"], "much"),
    (["teacher", "audio"], float("nan")),
    (["teacher", "audio"], ...),
    (["optimizer", "state"], ...),
    (["optimizer", "state"], [1]),
    (["optimizer", "state", 0], 3),
    (["optimizer", "state", "first"], {}),
    (["optimizer", "state", 0, "exp_avg"], "text"),
    (["running_mean", "mean"], ...),
    (["running_mean", "audio"], None),
    (["clock", "samples"], -3),
    (["clock", "samples"], 1.5),
    (["clock", "samples"], ...),
    (["clock", "sample_rate_hz"], 0),
    (["position", "labelled"], ...),
    (["position", "labelled"], 3),
    (["position", "labelled", "corpora"], [{}, 3]),
    (["position", "labelled", "corpora"], [{"epoch": 1, "chapters": 2}]),
    (["position", "labelled", "corpora"], [{"epoch": 1.5}]),
    (["position", "labelled", "corpora"], [{"epoch": "a"}]),
    (["position", "labelled", "corpora"], [{"samples": -1}]),
    (["position", "labelled_before"], float("inf")),
    (["position", "labelled_before"], ...),
    (["kept", "rate"], "low"),
    # Integers that exceed a float.
    (["kept", "rate"], 10**400),
    (["clock", "sample_rate_hz"], 10**29),
    (["clock", "sample_rate_hz"], 10**400),
    (["clock", "samples"], 10**400),
    (["kappa"], 10**400),
    (["step"], 10**400),
    (["teacher", "audio"], 10**400),
    (["position", "labelled_before"], 10**400),
    (["kept", "rate"], ...),
    (["kept", "best"], "step-1"),
    (["kept", "for_good"], 3),
    (["kept", "for_good"], ["../../../etc"]),
    (["config", "optimizer"], ...),
    (["config", "optimizer", "name"], 3),
    (["config", "model"], "asr_emapl.models.transformer:TransformerCtc"),
    (["config", "model", "target"], ["a"]),
    (["config", "model", "options", "dim"], torch.zeros(3)),
    (["config", "model", "options", "dim"], torch.float16),
    (["config", "model", "options", 3], 4),
]


def test_what_lies_deeper_has_its_kind_too(whole, tmp_path):
    for place, value in WRONG_INSIDE:
        path = forge(tmp_path, replaced(whole, place, value))
        told = refusal(checkpoint.load, path)
        assert str(path) in told
        assert str(place[0]) in told


NOT_OF_THIS_MODEL: list[tuple[list[Any], Any]] = [
    (["student", "output.bias"], torch.zeros(3)),
    (["student", "output.bias"], ...),
    (["optimizer", "state", 10_000], {}),
    (["optimizer", "state", 0, "exp_avg"], ...),
    (["optimizer", "state", 0, "exp_avg"], torch.zeros(2, 2, 2, 2)),
    (["running_mean", "mean", "output.bias"], ...),
    (["running_mean", "mean", "output.bias"], torch.zeros(1)),
]


@pytest.mark.parametrize(
    ("place", "value"), NOT_OF_THIS_MODEL, ids=[f"{'.'.join(map(str, p))}" for p, _ in NOT_OF_THIS_MODEL]
)
def test_what_does_not_fit_the_model_is_refused(root, whole, tmp_path, place, value):
    path = forge(tmp_path, replaced(whole, place, value))
    calls = readers(root, path, tmp_path / "o")
    told = refusal(*calls["resume"])
    assert f"checkpoint {path} does not fit model asr_emapl.models.transformer:TransformerCtc" in told
    if place[0] == "student":
        assert "does not fit" in refusal(load_recognizer, path, "student", "cpu")
    # One that is missing cannot be told from a buffer, which has no mean.
    if place[0] == "student" or (place[0] == "running_mean" and value is not ...):
        assert "does not fit" in refusal(*calls["average"])
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "words"), ("alphabet", 3), ("alphabet", "AB"), ("alphabet", "")]
)
def test_a_tokenizer_that_is_none_is_told_with_the_checkpoint(root, whole, tmp_path, key, value):
    path = forge(tmp_path, replaced(whole, ["tokenizer", key], value))
    calls = readers(root, path, tmp_path / "o")
    for reader in ("resume", "decode"):
        told = refusal(*calls[reader])
        assert str(path) in told
        assert "tokenizer" in told


def test_lists_that_hold_themselves_many_times_end_at_once(root, whole, tmp_path):
    """2 ** 40 values in a file of a few bytes; and a list inside itself."""
    bomb: list[Any] = []
    for _ in range(40):
        bomb = [bomb, bomb]
    endless: list[Any] = []
    endless.append(endless)
    wide: Any = {}
    for _ in range(20):
        wide = {"a": wide, "b": wide}
    for options in ({"a": bomb}, {"a": endless}, wide):
        path = forge(tmp_path, replaced(whole, ["config", "model", "options"], options))
        told = refusal(checkpoint.load, path)
        assert "config" in told


def test_a_checkpoint_of_weights_alone_decodes(whole, tmp_path):
    path = tmp_path / "published.pt"
    torch.save({name: whole[name] for name in DECODING}, path)
    assert load_recognizer(path, "teacher", "cpu").tokenizer.vocabulary_size == 29


def test_a_name_that_no_file_can_have(tmp_path):
    for reader in (checkpoint.load, load_recognizer):
        assert "File name too long" in refusal(reader, tmp_path / ("x" * 300))
