"""Read items in threads ahead of their use: libsndfile and torch compute without Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Content = TypeVar("Content")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Content], *, threads: int
) -> Generator[tuple[Item, Content], None, None]:
    """Yield each item with what `read` returns for it, in order. An error of `read` is raised when it is due.

    Args:
        threads: at most `threads` items are read in advance, in as many threads; 0: each is read when it is
            due.
    """
    if not threads:
        yield from ((item, read(item)) for item in items)
        return
    with ThreadPoolExecutor(threads, "read-ahead") as pool:
        queue: deque[tuple[Item, Future[Content]]] = deque()
        try:
            for item in items:
                queue.append((item, pool.submit(read, item)))
                if len(queue) > threads:
                    due, future = queue.popleft()
                    yield due, future.result()
            while queue:
                due, future = queue.popleft()
                yield due, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
