"""The MP3 decoder prints nothing, and what others print meanwhile is kept."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile

from asr_emapl.audio.decode import probe, probe_whole, read_audio
from asr_emapl.audio.mpeg_messages import without_mpeg_messages
from asr_emapl.errors import UserError


def mp3(path) -> bytes:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 16_000), 16_000, format="MP3")
    return path.read_bytes()


@pytest.mark.parametrize(
    "content", [random.Random(0).randbytes(20_000), b"not audio", b"<html>" + b"x" * 3000, b"\0" * 5000]
)
def test_bytes_that_are_no_mp3_are_said_to_be_undecodable(tmp_path, capfd, content):
    path = tmp_path / "talk.mp3"
    path.write_bytes(content)
    for read in (probe, probe_whole, read_audio):
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: not decodable: no MP3 audio found (convert it to FLAC or WAV)"
    assert capfd.readouterr().err == ""


def test_a_damaged_mp3_is_read_or_refused_in_silence(tmp_path, capfd):
    path = tmp_path / "talk.mp3"
    whole = mp3(path)
    path.write_bytes(whole[:3000] + b"j" * 3000 + whole[3000:])
    with pytest.raises(UserError, match="decoding failed"):
        read_audio(path)
    assert capfd.readouterr().err == ""


def test_other_messages_come_after_it(capfd):
    with without_mpeg_messages():
        os.write(2, b"warning: disk is full\nNote: Trying to resync...\n")
        with without_mpeg_messages():
            os.write(2, b"more\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "warning: disk is full\nmore\n"
    with without_mpeg_messages(active=False):
        os.write(2, b"Note: mine\n")
    assert capfd.readouterr().err == "Note: mine\n"


def test_threads_share_it(capfd):
    def decode() -> None:
        for _ in range(50):
            with without_mpeg_messages():
                os.write(2, b"Note: Trying to resync...\n")
                time.sleep(0.0005)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    os.write(2, b"between\n")
    for thread in threads:
        thread.join()
    assert capfd.readouterr().err == "between\n"


def test_a_forked_child_prints_and_a_closed_stderr_is_no_error():
    fork = """import os
from asr_emapl.audio.mpeg_messages import without_mpeg_messages
with without_mpeg_messages():
    os.write(2, b"parent\\n")
    if os.fork() == 0:
        os.write(2, b"child\\n")
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", fork], capture_output=True, text=True, check=True)
    assert sorted(done.stderr.split()) == ["child", "parent"]
    closed = """import os
from asr_emapl.audio.mpeg_messages import without_mpeg_messages
os.close(2)
with without_mpeg_messages():
    pass
"""
    assert subprocess.run([sys.executable, "-c", closed], check=False).returncode == 0
