"""A run that resumes with other settings or data: listed, refused, or allowed for once."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.commands import call, fail
from support.runs import losses, read_log
from support.tiny import CONFIG, tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints.origin import set_aside
from asr_emapl.checkpoints.resume import contents, require_contents, require_settings
from asr_emapl.config import config_to_dict, load_config
from asr_emapl.data.manifest import open_manifest, read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.mixture import CorpusCursor, DataCursor, MixtureCursor
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import CharacterTokenizer, save_tokenizer
from asr_emapl.training.trainer import train

FAST = ("validation.every_hours=null", "checkpoint.every_hours=null")


@pytest.fixture(scope="module")
def trained(corpus):
    """A run of 0.004 h."""
    train(tiny_config(corpus, f"run_dir={corpus / 'trained'}", "hours=0.004", *FAST))
    return corpus / "trained"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to go on with."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def go_on(corpus, run, *overrides, allow=False):
    config = tiny_config(corpus, f"run_dir={run}", "hours=0.006", *FAST, *overrides)
    return train(config, allow_changes=allow)


def state_of(run) -> tuple[dict, Path]:
    path = max((run / "checkpoints").glob("step-*.pt"))
    return checkpoint.load(path), path


# What is refused, and with --allow-changes not.


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1", "seed: 0 -> 1"),
        ("features.hop_ms=20", "features.hop_ms: 10.0 -> 20.0"),
        ("features.mel_bands=40", "features.mel_bands: 80 -> 40"),
        ("batch.reference_seconds=3", "batch.reference_seconds: 6.0 -> 3.0"),
    ],
)
def test_settings_that_make_another_run_are_refused_with_old_and_new(corpus, run, override, said):
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    with pytest.raises(UserError) as caught:
        go_on(corpus, run, override, "optimizer.lr=1e-4")
    assert said in str(caught.value)
    assert "--allow-changes" in str(caught.value)
    assert "optimizer.lr" not in str(caught.value)  # which may change
    assert "\n" not in str(caught.value)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


@pytest.mark.parametrize("override", ["seed=1", "features.hop_ms=20"])
def test_what_is_allowed_is_listed_and_not_asked_for_again(corpus, run, capsys, override):
    last = go_on(corpus, run, override, allow=True)
    assert f"changed since checkpoint {run}" in capsys.readouterr().out
    assert checkpoint.load(last)["clock"]["samples"] >= 0.006 * 3600 * 16_000
    capsys.readouterr()
    go_on(corpus, run, override, "hours=0.007")
    told = capsys.readouterr().out
    assert override.partition("=")[0] not in told


def test_every_other_change_is_listed_and_the_earlier_config_stays(corpus, run, capsys):
    state, _ = state_of(run)
    go_on(
        corpus, run, "optimizer.lr=1e-4", "data.max_seconds=20", "augment=null", "model.options.dropout=0.1"
    )
    told = capsys.readouterr().out
    for line in (
        "hours: 0.004 -> 0.006",
        "optimizer.lr: 0.005 -> 0.0001",
        "data.max_seconds: 36.0 -> 20.0",
        "model.options.dropout: 0.0 -> 0.1",
    ):
        assert f": {line}\n" in told
    assert "augment: {" in told
    earlier = yaml.safe_load((run / f"config.step-{state['step']:09d}.yaml").read_text())
    now = yaml.safe_load((run / "config.yaml").read_text())
    assert (earlier["optimizer"]["lr"], now["optimizer"]["lr"]) == (5e-3, 1e-4)
    assert (earlier["hours"], now["hours"]) == (0.004, 0.006)


def test_a_run_that_resumes_unchanged_says_nothing_and_keeps_one_config(corpus, run, capsys):
    (max((run / "checkpoints").glob("step-*.pt"))).unlink()
    config = tiny_config(corpus, f"run_dir={corpus / 'trained'}", "hours=0.004", *FAST)
    assert train(config) is not None
    assert "changed since" not in capsys.readouterr().out
    assert [path.name for path in (corpus / "trained").glob("config*")] == ["config.yaml"]


def test_another_tokenizer_of_as_many_tokens_goes_on_if_allowed(corpus, run, tmp_path):
    save_tokenizer(tmp_path / "other.json", CharacterTokenizer(CharacterTokenizer().alphabet[::-1]))
    other = f"tokenizer={tmp_path / 'other.json'}"
    with pytest.raises(UserError, match=r"another tokenizer.*--allow-changes"):
        go_on(corpus, run, other)
    go_on(corpus, run, other, allow=True)


def test_a_branch_from_a_checkpoint_resumes_and_one_from_its_weights_starts_anew(corpus, trained, tmp_path):
    _, seed = state_of(trained)
    start = (f"run_dir={tmp_path / 'branch'}", f"init.checkpoint={seed}", "hours=0.006", *FAST)
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        train(tiny_config(corpus, *start, "seed=1"))
    for changed in ("features.hop_ms=20", "features.window_ms=20"):
        with pytest.raises(UserError, match=r"features\..*--allow-changes"):
            train(tiny_config(corpus, *start, "init.keep=weights", changed))
    weights = tiny_config(corpus, *start, "init.keep=weights", "seed=1", "batch.reference_seconds=12")
    assert train(weights) is not None
    assert read_log(tmp_path / "branch")[0]["step"] == 1


def test_the_command_has_the_switch(corpus, run):
    config = corpus / "command.yaml"
    config.write_text(CONFIG.format(root=corpus), encoding="utf-8")
    command = ("train", "--config", config, f"run_dir={run}", "hours=0.006", *FAST, "seed=3")
    assert "seed: 0 -> 3" in fail(*command)
    done = call(*command, "--allow-changes")
    assert done.status == 0, done
    assert "seed: 0 -> 3" in done.out


# Data.


def moved(corpus, folder) -> Path:
    """The labelled corpus under other paths, with other texts."""
    folder.mkdir()
    read = read_manifest(corpus / "labelled.jsonl")
    copies = [shutil.copy(u.audio, folder / f"moved-{Path(u.audio).name}") for u in read]
    changed = [replace(u, audio=str(c), text="ADA") for u, c in zip(read, copies, strict=True)]
    write_manifest(folder / "labelled.jsonl", changed)
    return folder / "labelled.jsonl"


def test_a_corpus_that_moved_is_the_same(corpus, run, tmp_path):
    go_on(corpus, run, f"data.labelled=[{moved(corpus, tmp_path / 'elsewhere')}]")
    assert len(losses(run)) > 0


@pytest.mark.parametrize("how", ["another", "order", "one less", "one more manifest"])
def test_another_corpus_at_the_old_position_is_refused_or_begun_anew(corpus, run, tmp_path, how, capsys):
    read = read_manifest(corpus / "labelled.jsonl")
    changed = {
        "another": read_manifest(corpus / "unlabelled.jsonl"),
        "order": read[::-1],
        "one less": read[:-1],
        "one more manifest": read,
    }
    path = tmp_path / "changed.jsonl"
    write_manifest(path, changed[how])
    more = f",{corpus / 'unlabelled.jsonl'}" if how == "one more manifest" else ""
    with pytest.raises(UserError, match=r"data\.labelled: .*--allow-changes"):
        go_on(corpus, run, f"data.labelled=[{path}{more}]")
    last = go_on(corpus, run, f"data.labelled=[{path}{more}]", allow=True)
    assert (
        "data.labelled: the utterances differ from those of the checkpoint; a new" in capsys.readouterr().out
    )
    assert checkpoint.load(last)["position"]["labelled"]["corpora"][0]["epoch"] >= 1


def utterances(count: int, prefix: str = "u") -> list[Utterance]:
    return [Utterance(f"{prefix}{i}", f"{i}.wav", 1.0 + i / 7) for i in range(count)]


def test_what_is_hashed_is_ids_and_lengths_in_their_order(tmp_path):
    def hashes(*manifests: list[Utterance], apart: bool = False) -> list[str]:
        opened = []
        for number, read in enumerate(manifests):
            write_manifest(tmp_path / f"{number}.jsonl", read)
            opened.append(open_manifest(tmp_path / f"{number}.jsonl"))
        return contents(opened, apart=apart)

    one = utterances(5)
    (known,) = hashes(one)
    same = [replace(u, audio="elsewhere.flac", text="X", speaker="s", offset=3.0) for u in one]
    assert hashes(same) == hashes(one[:2], one[2:]) == [known]
    for other in (
        one[::-1],
        one[:-1],
        [*one[:-1], replace(one[-1], id="v")],
        [*one[:-1], replace(one[-1], duration=one[-1].duration + 0.001)],
    ):
        assert hashes(other) != [known]
    assert hashes(one, one[:2], apart=True) == [known, *hashes(one[:2])]


POSITION = DataCursor(
    labelled=MixtureCursor(
        (CorpusCursor(2, 1, 500, 9000, 0, 60, ((30, 900),)), CorpusCursor(1, 0, 7, 800)), (1.0, 2.0)
    ),
    unlabelled=MixtureCursor((CorpusCursor(3, 2, 5, 70),), (1.0,)),
)


@given(st.sets(st.integers(0, 1)))
def test_changed_corpora_start_a_pass_and_the_others_stay(changed):
    before = {"labelled": ["a", "b"], "unlabelled": ["c"]}
    now = {"labelled": [f"{h}{'x' * (i in changed)}" for i, h in enumerate("ab")], "unlabelled": ["c"]}
    position, held, notes = require_contents(before, now, POSITION, allowed=True)
    assert held == now
    assert len(notes) == bool(changed)
    assert position.unlabelled == POSITION.unlabelled
    assert position.labelled.weights == POSITION.labelled.weights
    for number, (old, new) in enumerate(
        zip(POSITION.labelled.corpora, position.labelled.corpora, strict=True)
    ):
        begun = replace(old, epoch=old.epoch + 1, chunk=0, samples=0, earlier=())
        assert new == (begun if number in changed else old)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"labelled": ["a"]}),  # a new run
        ({"labelled": ["a"]}, {"labelled": ["a"], "unlabelled": ["c"]}),  # pseudo-labels begin
        ({"labelled": ["a"], "unlabelled": ["c"]}, {"labelled": ["a"]}),
        ({"labelled": ["a", "b"]}, {"labelled": ["a"]}),  # corpora at the end come and go
        ({"labelled": ["a"]}, {"labelled": ["a", "b"]}),
    ],
)
def test_corpora_that_come_or_go_change_no_place(before, now):
    assert require_contents(before, now, POSITION, allowed=False) == (POSITION, before | now, [])


def test_a_setting_that_a_checkpoint_does_not_know_is_absent(corpus, trained):
    state, path = state_of(trained)
    config = tiny_config(corpus, f"run_dir={trained}", "hours=0.004", *FAST)
    del state["config"]["checkpoint"]["keep"]
    assert state["config"] != config_to_dict(config)
    (line,) = require_settings(
        state, path, config, CharacterTokenizer(), whole=True, same_run=True, allowed=False
    )
    assert line.endswith("checkpoint.keep: absent -> 2")


def test_a_setting_newer_than_the_checkpoint_is_refused_only_if_it_is_not_the_default(corpus, trained):
    state, path = state_of(trained)
    del state["config"]["features"]["hop_ms"]
    for hop, is_refused in ((10.0, False), (20.0, True)):
        config = tiny_config(corpus, f"run_dir={trained}", "hours=0.004", *FAST, f"features.hop_ms={hop}")
        check = (state, path, config, CharacterTokenizer())
        with pytest.raises(UserError, match="hop_ms") if is_refused else nullcontext():
            require_settings(*check, whole=True, same_run=True, allowed=False)


# A run that started from a seed model, which is trained longer afterwards.


@pytest.fixture
def branch(corpus, trained, tmp_path) -> tuple[Path, tuple[str, ...]]:
    """A seed run in tmp_path, and the overrides of a run that started from it."""
    seed = tmp_path / "seed"
    shutil.copytree(trained, seed)
    overrides = (f"run_dir={tmp_path / 'branch'}", f"init.checkpoint={seed}", "hours=0.012", *FAST)
    train(tiny_config(corpus, *overrides))
    return seed, overrides


def test_a_run_whose_seed_was_trained_longer_is_refused(corpus, branch, capsys):
    seed, overrides = branch
    train(tiny_config(corpus, *overrides))  # the same seed
    go_on(corpus, seed)
    with pytest.raises(UserError, match=r"started from .*seed.*0\.00\d h.*init\.checkpoint is now .*seed"):
        train(tiny_config(corpus, *overrides))
    train(tiny_config(corpus, *overrides), allow_changes=True)
    assert "the run continues from the earlier one" in capsys.readouterr().out


def test_a_run_without_its_seed_or_with_a_moved_one_resumes(corpus, branch, tmp_path):
    seed, overrides = branch
    seed.rename(tmp_path / "moved")
    train(tiny_config(corpus, *overrides, "hours=0.013"))
    train(tiny_config(corpus, *overrides, f"init.checkpoint={tmp_path / 'moved'}", "hours=0.015"))


def test_a_run_is_set_aside_only_if_its_seed_was_trained_longer(corpus, branch, tmp_path):
    seed, overrides = branch
    run = tmp_path / "branch"
    assert set_aside(run, seed) is None
    assert set_aside(tmp_path / "absent", seed) is None
    for number, hours in ((1, 0.006), (2, 0.009)):
        go_on(corpus, seed, f"hours={hours}")
        files = sorted(path.relative_to(run) for path in run.rglob("*"))
        place = set_aside(run, seed)
        assert place == tmp_path / "earlier" / f"branch-{number}"
        assert sorted(path.relative_to(place) for path in place.rglob("*")) == files
        assert not run.exists()
        train(tiny_config(corpus, *overrides))


def test_a_run_directory_that_was_moved_resumes_in_its_new_place(corpus, run, tmp_path):
    old = yaml.safe_load((run / "config.yaml").read_text())["run_dir"]
    before = read_log(run)
    config = load_config(run / "config.yaml", ["hours=0.006"])
    assert old != config.run_dir == str(run)
    assert train(config).parent == run / "checkpoints"
    assert read_log(run)[: len(before)] == before
    assert len(read_log(run)) > len(before)


def test_a_branch_says_nothing_of_the_settings_in_which_it_differs(corpus, trained, tmp_path, capsys):
    start = (f"run_dir={tmp_path / 'branch'}", f"init.checkpoint={trained}", "hours=0.006", *FAST)
    train(tiny_config(corpus, *start, "optimizer.lr=1e-4"))
    assert "changed since" not in capsys.readouterr().out
    train(tiny_config(corpus, *start, "optimizer.lr=2e-4", "hours=0.009"))
    assert "optimizer.lr: 0.0001 -> 0.0002\n" in capsys.readouterr().out
