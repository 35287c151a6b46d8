"""Searches in worker processes: equal to those in this process; what happens if something dies or fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from support.processes import is_alive
from torch import Tensor

from asr_emapl.decoding.beam import BeamConfig, BeamSearch
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.search_pool import SearchPool
from asr_emapl.text.tokenizer import CharacterTokenizer

TOKENIZER = CharacterTokenizer(" AB")
LENGTHS_B = torch.tensor([40, 17, 0, 3, 40])


def emissions(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3.0 * torch.randn(5, 40, TOKENIZER.vocabulary_size, generator=generator)).log_softmax(-1)


@pytest.fixture
def search(tmp_path: Path) -> BeamSearch:
    (tmp_path / "words.txt").write_text("A\nBA\nABBA\n")
    return BeamSearch(TOKENIZER, BeamConfig(20, lexicon=str(tmp_path / "words.txt")))


@pytest.fixture
def pool(search: BeamSearch) -> Iterator[SearchPool]:
    with closing(SearchPool(search, 2)) as made:
        yield made


def workers() -> list[int]:
    return sorted(p.pid or 0 for p in multiprocessing.active_children())


def test_workers_find_what_this_process_finds(search: BeamSearch, pool: SearchPool) -> None:
    here = SearchPool(search)
    batches = [emissions(seed) for seed in range(4)]
    begun = [pool.begin(log_probs_BTV, LENGTHS_B) for log_probs_BTV in batches]
    # In another order than they were begun, and twice.
    for place in (3, 0, 2, 1, 3):
        expected = here.begin(batches[place], LENGTHS_B)()
        assert expected.dtype == torch.long
        assert torch.equal(begun[place](), expected)
        for row, frames in enumerate(LENGTHS_B.tolist()):
            if frames:
                assert torch.equal(expected[row, :frames], search(batches[place][row, :frames]))
            assert not expected[row, frames:].any()


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_emissions_of_a_gpu_are_copied_before_they_are_searched(search: BeamSearch, workers: int) -> None:
    """The search begins while the device is busy, and the device continues with other work."""
    expected = SearchPool(search).begin(emissions(), LENGTHS_B)()
    with closing(SearchPool(search, workers)) as pool:
        log_probs_BTV = emissions().cuda()
        for _ in range(5):
            torch.cuda._sleep(50_000_000)
            moved = log_probs_BTV.clone()
            found = pool.begin(moved, LENGTHS_B.cuda())
            moved.zero_()
            assert torch.equal(found(), expected)


def test_long_utterances_with_many_tokens_pass_through(tmp_path: Path) -> None:
    """More than a pipe holds, in both directions, while all workers are busy."""
    log_probs_BTV = torch.randn(6, 20_000, 40)
    with closing(SearchPool(lambda one: one.argmax(-1), 2)) as pool:
        begun = [pool.begin(log_probs_BTV, torch.full((6,), 20_000)) for _ in range(3)]
        assert all(torch.equal(result(), log_probs_BTV.argmax(-1)) for result in begun)


def test_a_search_that_fails_says_why() -> None:
    def fails(log_probs_TV: Tensor) -> Tensor:
        raise ValueError(f"{len(log_probs_TV)} frames")

    with closing(SearchPool(fails, 2)) as pool:
        for _ in range(2):  # the processes go on
            with pytest.raises(RuntimeError, match=r"search failed in process \d+: (.|\n)*17 frames"):
                pool.begin(emissions()[1:2], LENGTHS_B[1:2])()
    with pytest.raises(ValueError, match="17 frames"):
        SearchPool(fails).begin(emissions()[1:2], LENGTHS_B[1:2])()


def test_a_worker_that_dies_is_an_error() -> None:
    def dies(log_probs_TV: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return log_probs_TV

    with closing(SearchPool(dies, 1)) as pool, pytest.raises(UserError) as error:
        pool.begin(emissions(), LENGTHS_B)()
    assert "was killed by SIGKILL" in str(error.value)
    assert "pseudo_labels.search_workers" in str(error.value)


def test_workers_end_with_the_pool() -> None:
    before = workers()
    pool = SearchPool(lambda one: one.argmax(-1), 2)
    assert len(workers()) == len(before) + 2
    pool.close()
    assert workers() == before
    pool.close()
    pool = SearchPool(lambda one: one.argmax(-1), 2)
    pool.begin(emissions(), LENGTHS_B)()
    del pool
    assert workers() == before


def test_a_pool_that_is_closed_does_not_wait_for_its_searches() -> None:
    pool = SearchPool(lambda one: time.sleep(600.0), 1)  # type: ignore[arg-type,return-value,func-returns-value]
    pool.begin(emissions(), LENGTHS_B)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 30.0


PARENT = """
import sys, time, torch
from asr_emapl.pseudo_labels.search_pool import SearchPool

torch.set_num_threads(2)
torch.randn(500, 500) @ torch.randn(500, 500)  # threads, which the workers do not have
big = torch.rand(1, 3_000, 300)
pool = SearchPool(lambda one: one.double().exp().argmax(-1), 2)
assert torch.equal(pool.begin(big, torch.tensor([3_000]))(), big.argmax(-1))
print(*(process.pid for process in __import__("multiprocessing").active_children()), flush=True)
if sys.argv[1] == "waits":
    time.sleep(600)
if sys.argv[1] == "fails":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("end", ["waits", "fails", "returns"])
def test_workers_end_with_their_process(end: str) -> None:
    """It is killed, fails, or ends without closing the pool."""
    command = [sys.executable, "-c", PARENT, end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if end == "waits":
            for pid in pids:
                os.kill(pid, signal.SIGTERM)  # a scheduler signals the whole group; is ignored
            time.sleep(0.1)
            assert all(map(is_alive, pids))
            parent.kill()
        assert parent.wait(60) == {"waits": -signal.SIGKILL, "fails": 3, "returns": 0}[end]
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
