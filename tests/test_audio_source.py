"""Sources: a byte range of a shard behaves like a file."""

from __future__ import annotations

import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.audio import source
from asr_emapl.audio.source import ByteRange, Source
from asr_emapl.errors import UserError

BEFORE, CONTENT = b"before", bytes(range(200))
PART = ByteRange(len(BEFORE), len(CONTENT), zlib.crc32(CONTENT))

STEP = st.tuples(st.just("read"), st.integers(0, 300), st.just(0)) | st.tuples(
    st.just("seek"), st.integers(0, 300), st.sampled_from([io.SEEK_SET, io.SEEK_END])
)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    path.write_bytes(BEFORE + CONTENT + b"behind")
    return str(path)


def test_names(shard: str) -> None:
    assert str(Source(shard, None, "u1")) == shard
    assert str(Source(shard, PART, "u1")) == f"{shard}: utterance u1"


def test_a_file_of_its_own_is_a_path(shard: str) -> None:
    assert Source(shard).open() == shard
    assert Source(shard).content() == BEFORE + CONTENT + b"behind"


def test_a_range_is_its_bytes(shard: str) -> None:
    file = Source(shard, PART).open()
    assert isinstance(file, io.BytesIO)
    assert file.getvalue() == Source(shard, PART).content() == CONTENT


@given(steps=st.lists(STEP, max_size=8), buffer=st.sampled_from([1, 7, 1000]))
def test_a_long_range_is_a_file_like_any_other(
    shard: str, steps: list[tuple[str, int, int]], buffer: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(source, "_WHOLE_BYTES", 100)
        patched.setattr(source, "_BUFFER_BYTES", buffer)
        file = Source(shard, PART).open()
    assert isinstance(file, io.BufferedReader)
    reference = io.BytesIO(CONTENT)
    for step, number, whence in steps:
        if step == "read":
            assert file.read(number) == reference.read(number)
        else:
            number = -min(number, len(CONTENT)) if whence == io.SEEK_END else number
            assert file.seek(number, whence) == reference.seek(number, whence)
        assert file.tell() == reference.tell()


@pytest.mark.parametrize(
    "part",
    [
        ByteRange(PART.start + 1, PART.length, PART.crc32),
        ByteRange(PART.start, PART.length - 1, PART.crc32),
        ByteRange(PART.start, PART.length, PART.crc32 ^ 1),
        ByteRange(10_000, PART.length, PART.crc32),
    ],
)
def test_other_bytes_are_refused(shard: str, part: ByteRange) -> None:
    with pytest.raises(UserError, match=r"a\.tar: utterance u1: bytes \d+ to \d+ are not those.*again\)"):
        Source(shard, part, "u1").open()
