"""Settings and checkpoints that a run refuses before it trains."""

from __future__ import annotations

import json

import pytest
from support.tiny import tiny_config

from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokenizer=null"], "asr-emapl tokenizer"),
        (["data.labelled=[]"], "data.labelled is empty"),
        (["data.min_seconds=50"], "no utterance is between"),
        (["teacher.rho=0.9"], "one of teacher.half_life_hours, teacher.rho"),
        (["teacher.audio_per_step=padded"], "teacher.audio_per_step: 'padded'"),
        (["optimizer.audio_per_step=padded"], "optimizer.audio_per_step: 'padded'"),
        (["teacher.order=after"], "teacher.order: 'after' is not one of post, pre, midpoint"),
        (["teacher.schedule=linear"], "teacher.schedule: 'linear'"),
        (["pseudo_labels.strategy=magic"], "magic"),
        (["batch.seconds=-1"], "batch.seconds"),
        (["batch.progressive=[[1]]"], r"batch.progressive\[0\]: \[1\] is not"),
        (["batch.progressive=[[2,12],[1,24]]"], "batch.progressive: 1 h does not come after 2 h"),
        (["device.name=tpu"], "tpu"),
        (["device.precision=fp8"], "fp8"),
        (["optimizer.name=lion"], "lion"),
        (["schedule.shape=square"], "square"),
        (["init.checkpoint=nowhere.pt"], "nowhere.pt"),
        (["checkpoint.best_by=test"], "checkpoint.best_by 'test' is not one of null, mean, dev"),
        (["model.target=nowhere:Model"], "nowhere"),
    ],
)
def test_wrong_settings_are_one_line_and_leave_nothing(corpus, tmp_path, overrides, message):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=message) as caught:
        train(tiny_config(corpus, f"run_dir={run}", *overrides))
    assert "\n" not in str(caught.value)
    assert not run.exists()


def test_a_checkpoint_of_another_optimizer_is_refused(corpus, tmp_path):
    run = f"run_dir={tmp_path / 'run'}"
    seed = train(tiny_config(corpus, run, "hours=0.002", "validation.every_hours=null"))
    for overrides in ((run,), (f"run_dir={tmp_path / 'new'}", f"init.checkpoint={seed}")):
        with pytest.raises(UserError, match=r"optimizer\.name=adamw, not adam"):
            train(tiny_config(corpus, *overrides, "hours=0.004", "optimizer.name=adam"))


def test_a_later_batch_without_an_answer_is_refused_at_once(corpus, tmp_path):
    overrides = ("optimizer.name=radam", "optimizer.betas=[0.9,0.98]", "batch.progressive=[[0.01,600]]")
    with pytest.raises(UserError, match=r"optimizer: .*kappa"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *overrides))
    linear = ("optimizer.beta_form=linear", "optimizer.betas=[0.9,0.98]", "batch.progressive=[[0.01,12]]")
    with pytest.raises(UserError, match="beta_form=linear"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *linear))


def test_a_checkpoint_of_another_tokenizer_is_refused(corpus, tmp_path):
    from asr_emapl.text.tokenizer import CharacterTokenizer, save_tokenizer

    train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "hours=0.003"))
    save_tokenizer(tmp_path / "other.json", CharacterTokenizer("ABCDILNO "))
    with pytest.raises(
        UserError,
        match=r"another tokenizer: character tokenizer with 29 tokens \(fingerprint \w{12}\) -> character ",
    ):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", f"tokenizer={tmp_path / 'other.json'}"))


def test_a_checkpoint_of_another_model_is_refused(corpus, tmp_path):
    train(tiny_config(corpus, f"run_dir={tmp_path}", "hours=0.003"))
    with pytest.raises(UserError, match="does not fit"):
        train(tiny_config(corpus, f"run_dir={tmp_path}", "model.options.dim=32"))


def test_letters_outside_the_alphabet_name_the_utterance(corpus, tmp_path):
    line = json.loads((corpus / "labelled.jsonl").read_text().splitlines()[0])
    (tmp_path / "bad.jsonl").write_text(json.dumps(line | {"id": "odd-one", "text": "CAF\u00c9"}) + "\n")
    with pytest.raises(UserError, match="odd-one"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", f"data.labelled=[{tmp_path / 'bad.jsonl'}]"))
