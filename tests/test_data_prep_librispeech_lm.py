"""LibriSpeech's language models: fetched once, verified, named by what they are."""

from __future__ import annotations

import hashlib

import pytest
from support.loopback import loopback

from asr_emapl.errors import UserError
from data_prep import librispeech_lm, transfer
from data_prep.librispeech_lm import CHECKSUMS, download


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "_FIRST_PAUSE_S", 0.0)
    with loopback() as running:
        running.files["/3-gram.arpa.gz"] = running.files["/4-gram.arpa.gz"] = b"a language model"
        monkeypatch.setattr(librispeech_lm, "_URL", running.url)
        monkeypatch.setitem(CHECKSUMS, "3-gram", hashlib.sha256(b"a language model").hexdigest())
        yield running


def test_download_once(server, tmp_path):
    path = download(tmp_path / "new", "3-gram")
    assert path == tmp_path / "new" / "3-gram.arpa.gz"
    assert path.read_bytes() == b"a language model"
    assert download(tmp_path / "new", "3-gram") == path
    assert len(server.requests) == 1


def test_another_file_than_the_official_one(server, tmp_path):
    with pytest.raises(UserError, match="arrived with the SHA-256"):
        download(tmp_path, "4-gram")
    assert not (tmp_path / "4-gram.arpa.gz").exists()


def test_wrong_requests(tmp_path):
    with pytest.raises(UserError, match=r"'5-gram': .* 3-gram\.pruned\.1e-7, 3-gram, 4-gram"):
        download(tmp_path, "5-gram")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        download(tmp_path / "file", "3-gram")
    assert {len(checksum) for checksum in CHECKSUMS.values()} == {64}
