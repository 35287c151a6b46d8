"""The mean of the last or of the best checkpoints of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.commands import fail, succeed
from support.tiny import make_corpus, tiny_config

from asr_emapl.checkpoints.export import load_export
from asr_emapl.checkpoints.files import checkpoints_of, load, save
from asr_emapl.checkpoints.mean import checkpoints_to_average, mean_weights
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mean")
    make_corpus(root)
    every = ("validation.every_hours=0.002", "checkpoint.every_hours=0.002", "checkpoint.keep=4")
    train(tiny_config(root, "hours=0.008", *every))
    return root / "run"


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_the_mean_is_exported(run: Path, tmp_path: Path, model: str) -> None:
    out = ("--average", 3, "--model", model, "--out", tmp_path / "model")
    said = succeed("export", "--checkpoint", run, *out)
    last = checkpoints_of(run)[-3:]
    assert all(path.name in said for path in last)
    states = [load(path) for path in last]
    weights = [s["teacher"]["module"] if model == "teacher" else s["student"] for s in states]
    found = load_export(tmp_path / "model", "cpu").model.state_dict()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, sum(w[name] for w in weights) / 3)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert sorted(config["provenance"]["averaged"]) == [path.name for path in last]


def test_the_best_are_those_with_the_lowest_wer(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    rates = {1: 50.0, 2: 20.0, 3: None, 4: 10.0, 5: 90.0}  # step 3 was not validated
    lines = []
    for step, rate in rates.items():
        (folder / "checkpoints" / f"step-{step:09d}.pt").write_bytes(b"")
        if rate is None:
            continue
        wer = {"teacher/dev": rate, "student/dev": 60.0 - step}
        lines.append(json.dumps({"event": "validation", "step": step, "hours": 0.1 * step, "wer": wer}))
    (folder / "log.jsonl").write_text("\n".join([*lines, ""]))

    def steps(count: int, best: bool, model: str = "teacher") -> list[int]:
        found = checkpoints_to_average(folder, count, best=best, model=model)
        return [int(path.stem.removeprefix("step-")) for path in found]

    assert steps(2, False) == [4, 5]
    assert steps(2, True) == [2, 4]
    assert steps(3, True) == [1, 2, 4]
    assert steps(2, True, "student") == [4, 5]
    with pytest.raises(UserError, match="only 4 checkpoints that were validated"):
        steps(5, True)
    with pytest.raises(UserError, match="only 5 checkpoints"):
        steps(6, False)


def test_integers_are_those_of_the_last(run: Path, tmp_path: Path) -> None:
    paths = []
    for i, source in enumerate(checkpoints_of(run)[-2:]):
        state = load(source)
        state["student"] |= {"seen": torch.tensor(i), "half": torch.tensor([1.0 + i], dtype=torch.bfloat16)}
        paths.append(tmp_path / source.name)
        save(paths[-1], state)
    found = mean_weights(paths, "student")
    assert found["seen"] == 1
    assert found["half"].dtype == torch.bfloat16
    assert found["half"] == 1.5
    state["student"].pop("half")
    save(paths[-1], state)
    with pytest.raises(UserError, match="other names or shapes"):
        mean_weights(paths, "student")


def test_a_checkpoint_is_no_run(run: Path, tmp_path: Path) -> None:
    path = checkpoints_of(run)[-1]
    assert "--average 2" in fail("export", "--checkpoint", path, "--average", 2, "--out", tmp_path / "m")
