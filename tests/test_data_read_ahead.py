"""Items are read ahead in threads, and come in order; errors come when their item is due."""

from __future__ import annotations

import threading
import time

import pytest

from asr_emapl.data.read_ahead import read_ahead


@pytest.mark.parametrize("threads", [0, 1, 3, 50])
def test_items_come_in_order(threads):
    def read(item):
        time.sleep(0.002 * (item % 3))
        return item**2

    assert list(read_ahead(range(20), read, threads=threads)) == [(i, i**2) for i in range(20)]


def test_no_more_than_asked_for_is_read_ahead():
    begun = []
    items = read_ahead(iter(range(100)), begun.append, threads=3)
    next(items)
    time.sleep(0.05)
    assert len(begun) == 4
    items.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_when_its_item_is_due_and_threads_end(threads):
    def read(item):
        if item == 2:
            raise ValueError("broken")
        return item

    items = read_ahead(range(9), read, threads=threads)
    assert [next(items), next(items)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="broken"):
        next(items)
    deadline = time.monotonic() + 10.0
    while any(t.name.startswith("read-ahead") for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
