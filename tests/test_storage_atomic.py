"""Atomic writes: complete or absent on full disks and for killed processes; devices and pipes stay."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asr_emapl.storage.atomic import is_standard_output, publish, replace_link


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch):
    """Files may not grow beyond 1,000 bytes: EFBIG comes from the same calls as ENOSPC would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def put(path: Path, content: bytes) -> None:
    with publish(path) as file:
        file.write(content)


@pytest.mark.parametrize("size", [1001, 1 << 20])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, full_disk, size):
    """The failure comes at the flush for a small file, in the write for a large one."""
    path = tmp_path / "a"
    path.write_bytes(b"as it was")
    with pytest.raises(OSError, match="too large") as failure:
        put(path, bytes(size))
    assert failure.value.filename == str(path)
    assert path.read_bytes() == b"as it was"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"as it was")

    def interrupted() -> None:
        with publish(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    before = target.stat().st_ino
    put(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_ino != before  # in one piece, too
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["far", "link", "target"]


def test_a_link_to_nothing_makes_its_target(tmp_path):
    (tmp_path / "link").symlink_to("target")
    put(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        put(tmp_path / "a", b"")
    assert (tmp_path / "a").is_symlink()


def test_a_device_stays_a_device(tmp_path):
    """Renaming onto /dev/full made a regular file of it, for root."""
    put(Path("/dev/null"), b"gone")
    with pytest.raises(OSError, match="No space left") as failure:
        put(Path("/dev/full"), b"x")
    assert failure.value.filename == "/dev/full"
    link = tmp_path / "link"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        put(link, b"x")
    for device in ("/dev/null", "/dev/full"):
        assert stat.S_ISCHR(os.stat(device).st_mode)  # noqa: PTH116


def test_a_named_pipe_is_written_through(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    put(pipe, b"content" * 1000)
    reader.join(60)
    assert read == [b"content" * 1000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("into", ["pipe", "file"])
def test_standard_output_gets_it_in_the_order_of_printing(tmp_path, name, into):
    """A file behind it is not opened anew, which would write over what is there."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    program = (
        "from pathlib import Path\nfrom asr_emapl.storage.atomic import publish\n"
        f"print('before')\nwith publish(Path({name!r})) as file: file.write(b'content\\n')\nprint('after')"
    )
    with (tmp_path / "out").open("wb") as out:
        out.write(b"earlier\n")
        out.flush()
        target = subprocess.PIPE if into == "pipe" else out
        done = subprocess.run([sys.executable, "-c", program], stdout=target, cwd=tmp_path, check=True)
    told = b"earlier\n" + done.stdout if into == "pipe" else (tmp_path / "out").read_bytes()
    assert told == b"earlier\nbefore\ncontent\nafter\n"


def test_names_of_standard_output(tmp_path, monkeypatch):
    monkeypatch.chdir("/dev")
    assert all(map(is_standard_output, ["/dev/stdout", "/dev/fd/1", "stdout", "../dev/stdout"]))
    assert not any(map(is_standard_output, ["/dev/stderr", "/dev/null", tmp_path / "stdout", tmp_path]))


def test_a_folder_and_a_read_only_file_are_refused(tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError) as failure:
        put(tmp_path, b"x")
    assert failure.value.filename == str(tmp_path)
    path = tmp_path / "a"
    path.write_bytes(b"as it was")
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write what is read-only
    with pytest.raises(PermissionError):
        put(path, b"x")
    assert path.read_bytes() == b"as it was"


def test_permissions_stay_and_new_files_have_the_usual_ones(tmp_path):
    path, new = tmp_path / "a", tmp_path / "deep" / "er" / "b"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    put(path, b"secret still")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    usual = tmp_path / "usual"
    usual.write_bytes(b"")
    put(new, b"x")
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_a_name_as_long_as_names_may_be(tmp_path):
    for name in ("x" * 255, "\u00e9" * 127):
        put(tmp_path / name, b"x")
    assert len(list(tmp_path.iterdir())) == 2


WRITER = """
import sys
from pathlib import Path
from asr_emapl.storage.atomic import publish
with publish(Path(sys.argv[1])) as file:
    file.write(sys.argv[2].encode())
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def writer(path: Path, content: str) -> subprocess.Popen[bytes]:
    """A process that is in the middle of writing; it ends when its standard input does."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, content], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


def test_processes_that_write_one_file_do_not_share_what_is_written(tmp_path):
    path = tmp_path / "a"
    with writer(path, "one" * 100) as one, writer(path, "two") as two:
        assert not path.exists()
        put(tmp_path / "other", b"")  # and does not take theirs for leftovers
        two.communicate()
        assert path.read_text() == "two"
        one.communicate()
        assert path.read_text() == "one" * 100
    assert (one.returncode, two.returncode) == (0, 0)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a", "other"]


def test_what_a_killed_process_left_goes_with_the_next_file(tmp_path):
    mine = tmp_path / f".note.{'0' * 31}.partial"
    mine.write_bytes(b"not of this kind")
    with writer(tmp_path / "a", "half") as process:
        process.kill()
    assert len(list(tmp_path.iterdir())) == 2
    put(tmp_path / "b", b"x")
    assert sorted(found.name for found in tmp_path.iterdir()) == [mine.name, "b"]


def test_a_link_is_replaced_in_one_step(tmp_path):
    link = tmp_path / "best"
    link.write_bytes(b"a file")
    replace_link(link, "one")
    replace_link(link, "two")
    assert os.readlink(link) == "two"  # noqa: PTH115
    assert list(tmp_path.iterdir()) == [link]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        replace_link(tmp_path / "folder", "one")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["best", "folder"]
