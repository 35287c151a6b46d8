"""`asr-emapl label`: the same output after any interruption and on any number of processes."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import call, fail, succeed
from support.tiny import CONFIG, WITH_UNLABELLED, make_corpus

from asr_emapl.data.manifest import read_manifest

KILLS = 20
PART_HOURS = 0.001


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The tiny corpus with a run on it, and a manifest of 30 copies of the untranscribed part."""
    root = tmp_path_factory.mktemp("project")
    make_corpus(root)
    (root / "tiny.yaml").write_text(CONFIG.format(root=root))
    succeed("train", "--config", root / "tiny.yaml", "hours=0.15", "validation.every_hours=null")
    lines = [json.loads(line) for line in (root / "unlabelled.jsonl").read_text().splitlines()]
    many = [line | {"id": f"{line['id']}-{copy}"} for copy in range(30) for line in lines]
    (root / "many.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in many))
    return root


def command(project: Path, out: Path, *options: object, manifest: str = "many") -> tuple[object, ...]:
    path = project / f"{manifest}.jsonl"
    common = ("--checkpoint", project / "run", "--part-hours", PART_HOURS, "--device", "cpu")
    return ("label", path, "--out", out, *common, *options)


def torchrun(*arguments: object) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*program, "-m", "asr_emapl", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def contents(out: Path) -> dict[str, bytes]:
    """The files that do not depend on time."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found.pop("summary.json", None)
    return found


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each part."""
    stats = {path.name: path.stat() for path in out.glob("parts/[0-9]*.jsonl")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.fixture(scope="module")
def whole(project) -> Path:
    """The labels of a start that nothing interrupted."""
    told = succeed(*command(project, project / "whole"))
    assert "hours of audio per hour" in told.splitlines()[-1]
    return project / "whole"


def kill_after(arguments: tuple[object, ...], out: Path, parts: int, seconds: float) -> None:
    """Start, and kill `seconds` after `parts` more parts have appeared."""
    # Forked, because a new interpreter would import torch for seconds.
    process = multiprocessing.get_context("fork").Process(target=call, args=arguments)
    wanted = len(finished(out)) + parts
    process.start()
    deadline = time.monotonic() + 30  # a fork of a process with threads may wait for ever
    while len(finished(out)) < wanted and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.join(seconds)
    process.kill()
    process.join()


def kill_processes(launch: subprocess.Popen[str]) -> None:
    """Kill torchrun and its processes, which are in sessions of their own."""
    found = subprocess.run(["pgrep", "-P", str(launch.pid)], capture_output=True, text=True, check=False)
    for pid in (launch.pid, *map(int, found.stdout.split())):
        os.kill(pid, signal.SIGKILL)
    launch.communicate()


def test_killed_at_random_moments_on_any_number_of_processes(project, whole, tmp_path):
    out, before = tmp_path / "labels", {}
    draw = random.Random(0)
    for _ in range(KILLS):
        kill_after(command(project, out), out, draw.randint(0, 3), draw.uniform(0.0, 0.1))
        now = finished(out)
        assert before.items() <= now.items(), "a finished part was made again or deleted"
        before = now
    total = len(finished(whole))
    assert 0 < len(before) < total
    both = torchrun(*command(project, out))
    try:
        deadline = time.monotonic() + 120
        while len(finished(out)) <= len(before) and both.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        kill_processes(both)
    assert before.items() <= finished(out).items()
    assert len(before) < len(finished(out)) < total
    before = finished(out)
    succeed(*command(project, out))
    assert before.items() <= finished(out).items()
    assert contents(out) == contents(whole)
    ids = [json.loads(line)["id"] for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(set(ids)) == len(ids)


def test_two_processes_write_what_one_does(project, whole, tmp_path):
    both = torchrun(*command(project, tmp_path / "labels"))
    output, _ = both.communicate(timeout=240)
    assert both.returncode == 0, output
    assert contents(tmp_path / "labels") == contents(whole)
    assert output.count("hours of audio per hour") == 1
    told = call(*command(project, tmp_path / "labels"))
    assert (told.status, told.err) == (0, "")
    assert "all parts are already labelled" in told.out


def test_an_error_of_one_process_is_one_line_of_all(project, whole):
    both = torchrun(*command(project, whole, "--model", "student"))
    output, _ = both.communicate(timeout=240)
    assert both.returncode != 0
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert 'model: "teacher" -> "student"' in line
    assert "another --out" in line


def test_the_texts_are_those_of_decode(project, tmp_path):
    succeed(*command(project, tmp_path / "labels", "--times", manifest="unlabelled"))
    common = ("--checkpoint", project / "run", "--manifest", project / "unlabelled.jsonl")
    succeed("decode", *common, "--out", tmp_path / "h.jsonl")
    decoded = {h["id"]: h["text"] for h in map(json.loads, (tmp_path / "h.jsonl").read_text().splitlines())}
    lines = [json.loads(line) for line in (tmp_path / "labels/manifest.jsonl").read_text().splitlines()]
    assert {line["id"]: line["text"] for line in lines} == {id_: t for id_, t in decoded.items() if t}
    checkpoints = [str(path) for path in (project / "run" / "checkpoints").glob("step-*.pt")]
    plan = json.loads((tmp_path / "labels" / "plan.json").read_text())
    assert plan["files"] == [max(checkpoints)]
    for line in lines:
        assert line["provenance"]["checkpoints"] == plan["checkpoints"]
        assert " ".join(word["word"] for word in line["words"]) == line["text"]


def test_training_accepts_the_labels_as_transcripts_and_as_untranscribed_audio(project, whole, tmp_path):
    (tmp_path / "both.yaml").write_text(WITH_UNLABELLED.format(root=project))
    manifest = whole / "manifest.jsonl"
    told = succeed(
        *("train", "--config", tmp_path / "both.yaml", f"run_dir={tmp_path / 'run'}", "hours=0.01"),
        *(f"data.labelled=[{manifest}]", f"data.unlabelled=[{manifest}]", "pseudo_labels.strategy=ema"),
    )
    assert "last checkpoint" in told
    assert len(read_manifest(manifest, require_text=True)) == 720


def test_other_limits_filter_anew_without_labelling(project, whole, tmp_path):
    out = tmp_path / "labels"
    succeed(*command(project, out, manifest="unlabelled"))
    parts = finished(out)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    limit = sorted(line["confidence"] for line in lines)[len(lines) // 2]
    below = sum(line["confidence"] < limit for line in lines)
    told = succeed(*command(project, out, "--min-confidence", limit, manifest="unlabelled"))
    assert f"dropped: {below} low_confidence" in told
    assert len((out / "manifest.jsonl").read_text().splitlines()) == len(lines) - below
    record = ("--min-confidence", limit, "--filter", "record")
    assert f"recorded: {below} low_confidence" in succeed(
        *command(project, out, *record, manifest="unlabelled")
    )
    recorded = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in recorded] == [line["id"] for line in lines]
    assert sum(line.get("filter") == "low_confidence" for line in recorded) == below
    assert json.loads((out / "summary.json").read_text())["filter"]["min_confidence"] == limit
    assert finished(out) == parts


def test_what_cannot_be_decoded_is_told_and_left_out(project, tmp_path):
    (tmp_path / "broken.flac").write_bytes(b"fLaC and then nothing")
    lines = (project / "unlabelled.jsonl").read_text().splitlines()
    broken = json.loads(lines[0]) | {"id": "broken", "audio": str(tmp_path / "broken.flac")}
    (tmp_path / "lossy.jsonl").write_text("\n".join([lines[0], json.dumps(broken), *lines[1:]]) + "\n")
    outcome = call(
        "label", tmp_path / "lossy.jsonl", "--checkpoint", project / "run", "--out", tmp_path / "out"
    )
    assert outcome.status == 0, outcome
    assert "left out: 1 utterance without a label" in outcome.err
    assert "broken: " in outcome.err
    assert "broken" not in {u.id for u in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["left_out"]["utterances"] == 1


def test_several_checkpoints(project, tmp_path):
    chosen = sorted((project / "run" / "checkpoints").glob("step-*.pt"))[-2:]
    common = ("label", project / "unlabelled.jsonl", "--out", tmp_path)
    succeed(*common, *(part for path in chosen for part in ("--checkpoint", path)))
    line = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])
    assert len(set(line["provenance"]["checkpoints"])) == 2
    assert "checkpoints: " in fail(*common, "--checkpoint", chosen[0])


def test_hypotheses_of_another_recogniser(project, tmp_path):
    rows = [{"id": u.id, "text": "ADA BOB", "confidence": 0.25} for u in read_manifest(project / "dev.jsonl")]
    (tmp_path / "theirs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    common = ("label", project / "dev.jsonl", "--hypotheses", tmp_path / "theirs.jsonl")
    told = succeed(*common, "--out", tmp_path / "labels")
    assert "4 utterances" in told
    assert {u.text for u in read_manifest(tmp_path / "labels" / "manifest.jsonl")} == {"ADA BOB"}
    assert "no label is left" in fail(*common, "--out", tmp_path / "labels", "--min-confidence", 0.5)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("kenlm", "kaldingram"))), reason="needs the extra lm"
)
def test_beam_search_with_a_language_model(project, tmp_path):
    (tmp_path / "text").write_text("".join(f"{u.text}\n" for u in read_manifest(project / "labelled.jsonl")))
    lm = tmp_path / "lm.arpa"
    succeed("lm", "--text", tmp_path / "text", "--out", lm, "--order", 2)
    tuned = tmp_path / "lm.json"
    succeed(
        *("tune-lm", "--checkpoint", project / "run", "--manifest", project / "dev.jsonl", "--lm", lm),
        *("--lexicon", lm, "--weights", "1", "--bonuses", "0", "--beam", 8, "--out", tuned),
    )
    succeed(*command(project, tmp_path / "labels", "--lm-config", tuned, manifest="dev"))
    lines = [json.loads(line) for line in (tmp_path / "labels/manifest.jsonl").read_text().splitlines()]
    assert {word for line in lines for word in line["text"].split()} <= {"ADA", "BOB", "CLIO", "DAN"}
    decoder = lines[0]["provenance"]["decoder"]
    assert (decoder["search"], decoder["beam"], decoder["lm_weight"]) == ("beam", 8, 1.0)
    assert decoder["lm"] == decoder["lexicon"]
    assert "decoder.beam: 8 -> absent" in fail(*command(project, tmp_path / "labels", manifest="dev"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "pass either --checkpoint or --hypotheses"),
        (("--checkpoint", "a.pt", "--hypotheses", "h.jsonl"), "pass either --checkpoint or --hypotheses"),
        (("--hypotheses", "h.jsonl", "--lm-config", "lm.json"), "--lm-config has no effect"),
        (("--checkpoint", "a.pt", "--filter", "keep"), "--filter 'keep' is not one of drop, record"),
        (("--checkpoint", "a.pt", "--precision", "fp16"), "--precision 'fp16' is not one of fp32, bf16"),
        (("--checkpoint", "gone.pt"), "gone.pt does not exist"),
        (("--hypotheses", "gone.jsonl"), "gone.jsonl"),
    ],
)
def test_wrong_options_leave_nothing(project, tmp_path, options, said):
    assert said in fail("label", project / "dev.jsonl", "--out", tmp_path / "labels", *options)
    assert not (tmp_path / "labels").exists()


def test_nothing_that_is_read_is_replaced(project, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text((project / "dev.jsonl").read_text())
    told = fail("label", manifest, "--checkpoint", project / "run", "--out", tmp_path)
    assert "manifest.jsonl: is read by this command" in told
    assert list(tmp_path.iterdir()) == [manifest]
