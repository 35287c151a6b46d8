"""The index of a large manifest: the same utterances as without it, never those of another file."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.data import manifest as module
from asr_emapl.data.corpus import Corpus, Selection
from asr_emapl.data.manifest import Manifest, open_manifest, read_manifest
from asr_emapl.data.manifest_index import COLUMNS, index_path
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError


@pytest.fixture(autouse=True)
def every_manifest_is_large(monkeypatch):
    monkeypatch.setattr(module, "_INDEXED_BYTES", 1)


def utterances(count: int = 7) -> list[Utterance]:
    return [Utterance(f"u{i}", f"/corpus/{i}.flac", 1.0 + i / 7, f"TEXT {i} É", str(i)) for i in range(count)]


@pytest.fixture
def path(tmp_path) -> Path:
    write_manifest(tmp_path / "m.jsonl", utterances())
    return tmp_path / "m.jsonl"


def is_same(manifest: Manifest, expected: list[Utterance]) -> bool:
    return (
        list(manifest) == expected
        and manifest.samples.tolist() == [u.samples for u in expected]
        and manifest.seconds.tolist() == [u.duration for u in expected]
    )


def test_the_first_and_the_later_openings_are_the_same(path):
    first = open_manifest(path)
    assert index_path(path).exists()
    before = index_path(path).stat()
    later = open_manifest(path)
    assert is_same(first, utterances())
    assert is_same(later, utterances())
    assert (first.id_hashes == later.id_hashes).all()
    assert index_path(path).stat().st_mtime_ns == before.st_mtime_ns
    assert isinstance(later.samples, np.memmap)
    assert later[-1] == utterances()[-1]
    assert later[2:5] == utterances()[2:5]
    with pytest.raises(IndexError):
        later[7]


NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.none() | NAME, min_size=1, max_size=6),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\n\n \n"]), min_size=6, max_size=6),
    is_named=st.lists(st.booleans(), min_size=6, max_size=6),
    begin=st.sampled_from([b"", b"\xef\xbb\xbf", b"\n"]),
)
def test_any_manifest_is_read_as_without_an_index(texts, ends, is_named, begin):
    """Blank lines, byte order marks, line ends, lines without ids: offsets and ids are right."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.jsonl")
        content = begin
        for i, text in enumerate(texts):
            record = {"audio": f"é{i // 2}.flac", "duration": 1 + i, "offset": float(i), "text": text}
            line = json.dumps(record | ({"id": f"i{i}"} if is_named[i] else {}), ensure_ascii=i % 2 == 0)
            content += line.encode() + ends[i]
        path.write_bytes(content)
        expected = read_manifest(path)
        for _ in range(2):
            assert is_same(open_manifest(path), expected)


def test_a_changed_manifest_is_indexed_again(path):
    open_manifest(path)
    write_manifest(path, utterances(9))
    assert is_same(open_manifest(path), utterances(9))
    write_manifest(path, utterances()[::-1])
    assert is_same(open_manifest(path), utterances()[::-1])


def test_a_manifest_that_changes_while_it_is_open_ends_the_reading(path):
    opened = open_manifest(path)
    content = path.read_bytes().replace(b"TEXT 3", b"TEXT X")
    path.write_bytes(content)
    assert opened[2] == utterances()[2]
    with pytest.raises(UnreachableError, match=r"m\.jsonl: has changed since it was opened"):
        opened[3]


def test_a_change_that_keeps_size_and_time_is_noticed_at_the_line(path):
    open_manifest(path)
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"TEXT 3", b"TEXT X"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UnreachableError, match=r"delete .*m\.jsonl\.index"):
        open_manifest(path)[3]


@pytest.mark.parametrize("at", [0, 20, 4095, 4096, 4200, -1])
def test_a_damaged_index_is_made_again(path, at):
    open_manifest(path)
    content = bytearray(index_path(path).read_bytes())
    content[at] ^= 0x55
    index_path(path).write_bytes(content)
    assert is_same(open_manifest(path), utterances())
    assert is_same(open_manifest(path), utterances())


@pytest.mark.parametrize(
    ("entry", "value"), [("without_text", 3), ("without_text_lines", [1]), ("id_bytes", 8)]
)
def test_a_header_that_lies_is_made_again(path, entry, value):
    open_manifest(path)
    content = index_path(path).read_bytes()
    header = json.loads(content[:4096]) | {entry: value}
    index_path(path).write_bytes(json.dumps(header).encode().ljust(4095) + b"\n" + content[4096:])
    assert is_same(open_manifest(path, require_text=True), utterances())


@pytest.mark.parametrize("content", [b"{}", b"[" * 5000, b'{"count": -1}', b"\xff" * 5000])
def test_a_file_of_that_name_that_is_not_an_index_is_kept(path, content, caplog):
    index_path(path).write_bytes(content)
    assert is_same(open_manifest(path), utterances())
    assert index_path(path).read_bytes() == content
    assert "exists and is not an index; rename it" in caplog.text


@pytest.mark.parametrize("content", [b"", b'{"format": "asr_emapl manifest index", "version": 0}'])
def test_an_index_that_is_empty_or_of_another_version_is_replaced(path, content):
    index_path(path).write_bytes(content)
    assert is_same(open_manifest(path), utterances())
    assert isinstance(open_manifest(path).samples, np.memmap)


def test_an_index_of_any_length_is_an_index_or_none(path):
    open_manifest(path)
    content = index_path(path).read_bytes()
    for length in (len(content) - 1, len(content) // 2, 4096, 100):
        index_path(path).write_bytes(content[:length])
        assert is_same(open_manifest(path), utterances())


def test_an_index_that_cannot_be_written_is_said(path, caplog):
    index_path(path).mkdir()
    assert is_same(open_manifest(path), utterances())
    assert "the index of" in caplog.text
    assert "cannot be written" in caplog.text


def test_small_and_compressed_manifests_have_no_index(path, tmp_path, monkeypatch):
    import gzip

    packed = tmp_path / "m.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert is_same(open_manifest(packed), utterances())
    monkeypatch.setattr(module, "_INDEXED_BYTES", 1 << 20)
    assert is_same(open_manifest(path), utterances())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl", "m.jsonl.gz"]


def test_faults_are_those_of_a_manifest_without_index(path):
    path.write_text('{"id": "a"}\n\n{"id": "b", "audio": "b.wav", "duration": 1}\n' * 2)
    with pytest.raises(UserError) as plain:
        read_manifest(path)
    with pytest.raises(UserError) as indexed:
        open_manifest(path)
    assert str(indexed.value) == str(plain.value)
    assert "id 'b' is also on line 3" in str(plain.value)
    assert f"{path}:6: " in str(plain.value)
    assert not index_path(path).exists()


def test_missing_transcripts_are_listed_from_the_index(path):
    write_manifest(path, [Utterance(f"u{i}", f"/{i}.wav", 1.0, "A" if i == 1 else None) for i in range(30)])
    with pytest.raises(UserError) as plain:
        read_manifest(path, require_text=True)
    assert len(open_manifest(path)) == 30
    with pytest.raises(UserError) as indexed:
        open_manifest(path, require_text=True)
    assert str(indexed.value) == str(plain.value)
    assert str(plain.value).endswith("... and 9 more")


def test_decoding_processes_read_it_too(path):
    opened = open_manifest(path)
    again = pickle.loads(pickle.dumps(opened))
    assert is_same(again, utterances())
    assert isinstance(again.samples, np.memmap)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(opened.__getitem__, range(7)) == utterances()


def test_columns_are_as_the_file_format_says(path):
    open_manifest(path)
    content = index_path(path).read_bytes()
    header = json.loads(content[:4096])
    row = sum(np.dtype(dtype).itemsize for dtype in COLUMNS.values())
    assert (header["version"], header["count"], len(content)) == (1, 7, 4096 + 7 * row)
    seconds = np.frombuffer(content, "<f8", 7, 4096)
    assert seconds.tolist() == [u.duration for u in utterances()]


def test_what_another_process_gets_does_not_grow_with_the_manifest(path):
    sizes = []
    for count in (10, 1000):
        write_manifest(path, utterances(count))
        corpus = Corpus(Selection([(open_manifest(path), None)]), None)
        sizes.append(len(pickle.dumps(corpus)))
        assert pickle.loads(pickle.dumps(corpus)).samples.tolist() == corpus.samples.tolist()
    assert max(sizes) < min(sizes) + 100


def test_another_process_notices_that_the_manifest_has_changed(path):
    content = pickle.dumps(open_manifest(path))
    write_manifest(path, utterances(9))
    with pytest.raises(UnreachableError, match="has changed since"):
        pickle.loads(content)
    open_manifest(path)
    with pytest.raises(UnreachableError, match="has changed since"):
        pickle.loads(content)
