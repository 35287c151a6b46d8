"""Archives: extraction is safe and complete; damaged folders are restored, complete ones are not touched."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from support.loopback import Loopback, loopback

from asr_emapl.errors import UserError
from asr_emapl.storage import atomic
from data_prep import transfer
from data_prep.archive import Archive, extract, install

FILES = {"Corpus/part/a.txt": b"one", "Corpus/part/deep/b.txt": b"three", "Corpus/README.TXT": b"read me"}


def tar(files: dict[str, bytes], extra: tarfile.TarInfo | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if extra is not None:
            archive.addfile(extra, io.BytesIO(bytes(extra.size)))
    return buffer.getvalue()


class Verifier:
    """Reports missing a.txt and b.txt, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> list[str]:
        self.calls += 1
        wanted = [folder / "a.txt", folder / "deep" / "b.txt"]
        return [f"{path}: absent" for path in wanted if not path.exists()] + [
            f"{path}: surplus" for path in folder.glob("surplus*")
        ]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setattr(transfer, "_FIRST_PAUSE_S", 0.0)
    with loopback() as running:
        running.files["/part.tar.gz"] = tar(FILES)
        yield running


def offer(server: Loopback) -> Archive:
    content = server.files["/part.tar.gz"]
    return Archive(f"{server.url}/part.tar.gz", hashlib.md5(content).hexdigest(), "Corpus/part")


def content(folder: Path) -> dict[str, bytes]:
    """The files below a folder, without the archive and the record of sizes."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".gz"}


def test_a_second_install_does_nothing(server: Loopback, tmp_path: Path) -> None:
    verify = Verifier()
    folder = install(offer(server), tmp_path / "new", verify)
    assert folder == tmp_path / "new" / "Corpus" / "part"
    assert content(tmp_path / "new") == FILES
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["Corpus", "part.tar.gz"]
    assert (verify.calls, len(server.requests)) == (1, 1)
    # The second time, nothing is downloaded, hashed or verified, and the archive is not read.
    (tmp_path / "new" / "part.tar.gz").unlink()
    assert install(offer(server), tmp_path / "new", verify) == folder
    assert (verify.calls, len(server.requests)) == (1, 1)
    # Nor is it read in another place.
    shutil.copytree(tmp_path / "new", tmp_path / "moved")
    install(offer(server), tmp_path / "moved", verify)
    assert (verify.calls, len(server.requests)) == (1, 1)


def truncate(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"o")


def remove(folder: Path) -> None:
    shutil.rmtree(folder / "deep")


@pytest.mark.parametrize("damage", [truncate, remove])
def test_what_is_broken_is_named_and_put_back(
    server: Loopback, tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = install(offer(server), tmp_path, Verifier())
    (folder / "mine.jsonl").write_bytes(b"kept")
    damage(folder)
    (tmp_path / "part.tar.gz").unlink()
    install(offer(server), tmp_path, Verifier())
    assert content(tmp_path) == {**FILES, "Corpus/part/mine.jsonl": b"kept"}
    named = {truncate: "a.txt: expected 3 bytes, found 1", remove: "b.txt: expected 5 bytes, found no file"}[
        damage
    ]
    said = capsys.readouterr().err
    assert f"{folder}: incomplete" in said
    assert named in said
    calls = Verifier()
    install(offer(server), tmp_path, calls)
    assert calls.calls == 0


def test_a_folder_without_note_is_verified_once(server: Loopback, tmp_path: Path) -> None:
    folder = tmp_path / "Corpus" / "part"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"one")
    (folder / "deep" / "b.txt").write_bytes(b"three")
    verify = Verifier()
    for _ in range(2):
        install(offer(server), tmp_path, verify)
    assert (verify.calls, server.requests) == (1, [])
    # A note that was damaged is none.
    (tmp_path / "Corpus" / ".part.sizes.json").write_text("{")
    (folder / "a.txt").unlink()
    install(offer(server), tmp_path, verify)
    assert content(tmp_path) == FILES


def test_surplus_that_the_archive_cannot_mend_is_an_error(server: Loopback, tmp_path: Path) -> None:
    folder = tmp_path / "Corpus" / "part"
    folder.mkdir(parents=True)
    (folder / "surplus.txt").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"(?s)are invalid \(remove surplus files.*surplus\.txt: surplus"):
        install(offer(server), tmp_path, Verifier())
    assert (folder / "surplus.txt").read_bytes() == b"mine"
    assert not list(tmp_path.rglob("*.sizes.json"))


def test_an_incomplete_archive_gets_no_name(server: Loopback, tmp_path: Path) -> None:
    server.files["/part.tar.gz"] = tar({"Corpus/part/a.txt": b"one"})
    with pytest.raises(UserError, match=r"(?s)tar\.gz: extracted files are invalid.*b\.txt: absent"):
        install(offer(server), tmp_path, Verifier())
    assert [path.name for path in tmp_path.iterdir()] == ["part.tar.gz"]
    server.files["/part.tar.gz"] = tar({"Corpus/other/a.txt": b"one"})
    with pytest.raises(UserError, match="Corpus/part is missing"):
        install(offer(server), tmp_path, Verifier())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../escaped", tarfile.REGTYPE),
        ("Corpus/../../../escaped", tarfile.REGTYPE),
        ("/escaped", tarfile.REGTYPE),
        ("../escaped", tarfile.DIRTYPE),
        ("Corpus/link", tarfile.SYMTYPE),
        ("Corpus/link", tarfile.LNKTYPE),
        ("Corpus/pipe", tarfile.FIFOTYPE),
        ("Corpus/device", tarfile.CHRTYPE),
        ("Corpus/device", tarfile.BLKTYPE),
    ],
)
def test_only_files_inside_the_folder_are_extracted(
    server: Loopback, tmp_path: Path, name: str, kind: bytes
) -> None:
    evil = tarfile.TarInfo(name)
    evil.type, evil.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    evil.size = 10 if kind == tarfile.REGTYPE else 0
    server.files["/part.tar.gz"] = tar(FILES, evil)
    with pytest.raises(UserError, match="cannot be extracted"):
        install(offer(server), tmp_path / "there", Verifier())
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/escaped").exists()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["part.tar.gz"]


def test_a_damaged_archive_is_an_error_of_one_line(tmp_path: Path) -> None:
    whole = tar({"a": os.urandom(5000)})
    flipped = whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
    for broken in (flipped, whole[:-3000], b"no archive", b""):
        (tmp_path / "a.tar.gz").write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.tar\.gz: cannot be extracted"):
            extract(tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_disk_that_fills_up_while_extracting_leaves_no_part(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: IO[bytes], target: IO[bytes], *_: Any) -> None:
        target.write(source.read(2))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", full)
        with pytest.raises(UserError, match=r"No space left on device \(check permissions and free space"):
            install(offer(server), tmp_path, Verifier())
    assert [path.name for path in tmp_path.iterdir()] == ["part.tar.gz"]
    install(offer(server), tmp_path, Verifier())
    assert content(tmp_path) == FILES
    assert len(server.requests) == 1


def test_what_a_killed_call_left_is_cleared(server: Loopback, tmp_path: Path) -> None:
    left = tmp_path / ".part.tar.gz.extracted" / "Corpus" / "part"
    left.mkdir(parents=True)
    (left / "surplus.txt").write_bytes(b"of an older archive")
    install(offer(server), tmp_path, Verifier())
    assert content(tmp_path) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Corpus", "part.tar.gz"]


def test_a_note_that_cannot_be_written_does_no_harm(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "sync", full)
    verify = Verifier()
    folder = install(offer(server), tmp_path, verify)
    assert not list(folder.parent.glob(".part*"))
    install(offer(server), tmp_path, verify)
    assert verify.calls == 2
